"""What docs/enqueueing.md shows, run as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from orchestrator.cli import run
from orchestrator.cli.enqueue import enqueue
from orchestrator.client import Client
from tests.fixtures.command import clean_environment
from tests.fixtures.daemon import Queue, Start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "enqueueing.md").read_text()
MANY, ASYNCHRONOUS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
OPTIONS = re.findall(r"^\| `(\w+)=(.*?)` \| `?(.*?)`? \| `?(.*?)`? \|", PAGE, re.MULTILINE)

SQUARES = """
from orchestrator import App

app = App()

@app.task("square")
def square(n: int) -> int:
    return n * n
"""

IN_A_SESSION = """
import asyncio, json, os
import psycopg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from orchestrator import Client

client = Client()

async def connect():
    return await psycopg.AsyncConnection.connect(os.environ["DATABASE_URL"])

async def main():
    engine = create_async_engine("postgresql+psycopg://", async_creator=connect)
    async with AsyncSession(engine) as session:
{code}
    await engine.dispose()

asyncio.run(main())
client.close()
"""


def run_python(code: str, url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(DATABASE_URL=url, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_thousand_are_added_once_and_their_results_are_read_back(daemon: Start, queue: Queue) -> None:
    daemon(SQUARES, "--pool-size", "2", DATABASE_URL=queue.url)
    total = f"{sum(n * n for n in range(1000))}\n"
    assert run_python(MANY, queue.url) == total
    assert run_python(MANY, queue.url) == total
    assert queue.one("SELECT count(*) FROM tasks") == 1000


def test_a_coroutine_enqueues_in_a_thread_and_in_its_sessions_transaction(queue: Queue) -> None:
    indented = "".join(f"        {line}\n" for line in ASYNCHRONOUS.splitlines())
    run_python(IN_A_SESSION.format(code=indented), queue.url)
    assert queue.rows("SELECT payload FROM tasks ORDER BY id") == [({"n": n},) for n in (3, 4, 5)]


def test_every_option_has_the_spelling_that_is_told(queue: Queue) -> None:
    assert {name for name, *_ in OPTIONS} == Client.enqueue.__kwdefaults__.keys()
    options = [(sql, flag) for name, _, sql, flag in OPTIONS if name != "connection"]
    own = {option for parameter in enqueue.params for option in parameter.opts if option.startswith("--")}
    assert {flag.partition(" ")[0] for _, flag in options} == own - {"--database-url", "--json"}
    for sql, flag in options:
        queue.rows(f"SELECT enqueue_task('a', '{{}}', {sql})")
        assert run(["enqueue", "a", "{}", *shlex.split(flag), "--database-url", queue.url]) == 0
