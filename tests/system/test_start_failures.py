"""A start that cannot succeed says why in words, never a password, ends with the promised code and leaves nothing."""

import os
import re
import resource
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg2
import pytest

from orchestrator.dev.postgres import PrivatePostgres
from orchestrator.errors import ConfigurationError
from orchestrator.store.schema import SCHEMA_VERSION
from orchestrator.supervisor.descriptors import make_room
from tests.fixtures.command import ENTRY, Command, clean_environment
from tests.fixtures.daemon import Daemon, Queue, Start
from tests.fixtures.ports import kept_port
from tests.fixtures.proc import children, is_alive
from tests.fixtures.waiting import eventually

APP = """
from orchestrator import App
app = App()

@app.task("greet")
def greet() -> str:
    return "hello"
"""

NOT_OURS = re.compile(r"orchestrator/|Traceback")


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port of 127.0.0.1 that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def told_seconds(log: str) -> float:
    """From its first line to its last: without the start of Python, which takes its time on a busy machine."""
    first, *_, last = (datetime.fromisoformat(each) for each in re.findall(r"^(20\S+Z) ", log, re.MULTILINE))
    return (last - first).total_seconds()


# The database


def test_a_database_that_is_down_is_waited_for_as_long_as_was_said_and_no_password_is_shown(daemon: Start) -> None:
    began = time.monotonic()
    with kept_port() as port:
        worker = daemon(
            APP,
            is_awaited=False,
            DATABASE_URL=f"postgres://ann:s3cr%40t@127.0.0.1:{port}/shop?connect_timeout=3",
            DATABASE_WAIT="1s",
        )
        assert worker.wait_exit() == 4
    assert time.monotonic() - began >= 1
    log = worker.log()
    assert told_seconds(log) < 20, "the default is 30"
    assert "database_unreachable" in log, "the wait is told while it lasts"
    assert "Connection refused" in log
    assert "within 1 s (DATABASE_WAIT)" in worker.wait_log("start_failed")
    assert "ann:***@127.0.0.1" in log
    assert "s3cr" not in log
    assert not NOT_OURS.search(log)


def test_a_database_that_takes_the_connection_and_never_answers_is_waited_for_no_longer(
    daemon: Start, deaf_port: int
) -> None:
    worker = daemon(
        APP, is_awaited=False, DATABASE_URL=f"postgres://ann:s3cret@127.0.0.1:{deaf_port}/shop", DATABASE_WAIT="1s"
    )

    assert worker.wait_exit() == 4
    assert told_seconds(worker.log()) < 9, "a connection may take 10"
    assert "s3cret" not in worker.log()


def test_a_database_that_comes_up_in_that_time_is_used(daemon: Start, private_postgres: PrivatePostgres) -> None:
    url = private_postgres.url()
    private_postgres.stop()
    worker = daemon(APP, "--pool-size", "1", is_awaited=False, DATABASE_URL=url, DATABASE_WAIT="30s")
    worker.wait_log("database_unreachable")
    assert worker.health()[0] == 503

    private_postgres.start()

    worker.wait_ready()
    assert "schema_applied" in worker.log()
    assert worker.stop() == 0


def test_a_wrong_password_is_told_and_not_shown(daemon: Start, private_postgres_tcp: PrivatePostgres) -> None:
    url = private_postgres_tcp.url()
    assert private_postgres_tcp.password is not None
    wrong = url.replace(private_postgres_tcp.password, "wr0ng-w0rd")
    worker = daemon(APP, is_awaited=False, DATABASE_URL=wrong, DATABASE_WAIT="500ms")

    assert worker.wait_exit() == 4
    assert "password authentication failed" in worker.wait_log("start_failed")
    assert "wr0ng-w0rd" not in worker.log()


def test_a_schema_newer_than_this_version_is_not_touched(daemon: Start, queue: Queue) -> None:
    queue.rows("UPDATE orchestrator_schema SET version = 999")
    worker = daemon(APP, is_awaited=False, DATABASE_URL=queue.url)

    assert worker.wait_exit() == 6
    assert "999" in worker.wait_log("start_failed")
    assert not NOT_OURS.search(worker.log())


def test_too_few_connections_are_told_with_the_numbers_and_the_children_that_have_one_work(
    daemon: Start, queue: Queue, request: pytest.FixtureRequest
) -> None:
    role = f"few_{queue.one('SELECT current_database()')}"
    queue.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 5")
    request.addfinalizer(lambda: _drop_role(queue.url, role))
    queue.rows(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    queue.rows(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    url = re.sub(r"//[^@]*@", f"//{role}:x@", queue.url)
    worker = daemon(APP, "--pool-size", "8", DATABASE_URL=url, CLAIM_INTERVAL="100ms")

    said = worker.wait_log("too_few_connections")
    for told in ("needed=10", "pool_size=8", "role_limit=5"):
        assert told in said
    for _ in range(20):
        queue.enqueue("greet")
    queue.wait_empty(within=20)
    assert queue.rows("SELECT status::text, count(*) FROM tasks GROUP BY status") == [("completed", 20)]
    assert worker.health()[0] == 200

    queue.rows(f"ALTER ROLE {role} CONNECTION LIMIT 20")
    of_role = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'"
    eventually(lambda: queue.one(of_role) == 10, within=20, why="the others connect once they may")
    worker.signal(signal.SIGTERM)
    assert worker.wait_exit() == 0


@pytest.mark.slow
def test_a_worker_none_of_whose_children_gets_a_connection_is_not_healthy_until_one_does(
    daemon: Start, queue: Queue, request: pytest.FixtureRequest
) -> None:
    role = f"none_{queue.one('SELECT current_database()')}"
    queue.rows(f"CREATE ROLE {role} LOGIN PASSWORD 'x' CONNECTION LIMIT 2")  # the supervisor's
    request.addfinalizer(lambda: _drop_role(queue.url, role))
    queue.rows(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    queue.rows(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}")
    url = re.sub(r"//[^@]*@", f"//{role}:x@", queue.url)
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=url)

    code, facts = eventually(lambda: found if (found := worker.health())[0] != 200 else None, within=20)
    assert (code, facts["reason"]) == (503, "no child gets a connection to the database: the log says why")
    assert worker.get("/readyz")[0] == 503
    assert "too many connections for role" in worker.log()
    assert worker.metric("worker_slots", state="unconnected") == 2
    assert (worker.metric("database_errors_total", kind="unavailable") or 0) >= 2

    queue.rows(f"ALTER ROLE {role} CONNECTION LIMIT 20")
    eventually(lambda: worker.health()[0] == 200 and worker.get("/readyz")[0] == 200, within=20)
    assert worker.stop() == 0


def _drop_role(url: str, role: str) -> None:
    connection = psycopg2.connect(url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
        cursor.execute(f"DROP OWNED BY {role}")
        cursor.execute(f"DROP ROLE {role}")
    connection.close()


# The app


@pytest.mark.parametrize(
    ("text", "told"),
    [
        pytest.param(
            "import no_such_module_here\n",
            ["app.py", "import no_such_module_here", "ModuleNotFoundError"],
            marks=pytest.mark.slow,
        ),
        (
            "def deeper():\n    raise ValueError('the shop is closed')\ndeeper()\napp = 1\n",
            ["line 3", "line 2", "in deeper", "ValueError: the shop is closed"],
        ),
        pytest.param("app = 'a text'\n", ["'app' is no orchestrator.App but str"], marks=pytest.mark.slow),
        pytest.param(
            "from orchestrator import App\nother = App()\n",
            ["app has no 'app'", "its apps: other"],
            marks=pytest.mark.slow,
        ),
        pytest.param("import sys\nsys.exit('I had enough')\n", ["SystemExit", "I had enough"], marks=pytest.mark.slow),
        pytest.param(
            "import os\nos._exit(0)\n",
            ["the process that imported it ended", "exited with code 0"],
            marks=pytest.mark.slow,
        ),
        ("import os\nos.kill(os.getpid(), 11)\n", ["the process that imported it ended", "SIGSEGV"]),
        pytest.param("def app(:\n", ["SyntaxError", "app.py"], marks=pytest.mark.slow),
        pytest.param("from orchestrator import App\napp = App()\n", ["has no tasks"], marks=pytest.mark.slow),
    ],
    ids=["import_error", "raising", "no_app", "other_name", "sys_exit", "exits", "segfaults", "syntax", "no_tasks"],
)
def test_an_app_that_cannot_be_imported_ends_the_start_with_the_users_frames_and_no_child(
    daemon: Start, queue: Queue, text: str, told: list[str]
) -> None:
    worker = daemon(text, "--pool-size", "2", is_awaited=False, DATABASE_URL=queue.url, DEBUG="true")

    assert worker.wait_exit() == 3
    log = worker.log()
    for each in told:
        assert each in log
    assert not NOT_OURS.search(log), "frames of ours are noise to the user"
    assert "child" not in log.replace("children", ""), "no child was forked"
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_an_app_module_that_is_not_there_is_named_with_the_place_where_it_was_sought(
    daemon: Start, queue: Queue, tmp_path: Path
) -> None:
    queue.rows("UPDATE orchestrator_schema SET version = version - 1")
    worker = daemon(None, "--app", "nowhere.tasks:app", is_awaited=False, DATABASE_URL=queue.url)

    assert worker.wait_exit() == 3
    assert queue.one("SELECT version FROM orchestrator_schema") == SCHEMA_VERSION - 1, "the older version may go on"
    assert f"there is no module 'nowhere' in {tmp_path}" in worker.wait_log("start_failed")


# The settings


def test_all_wrong_settings_are_told_at_once_each_with_its_value_and_what_is_accepted(orchestratord: Command) -> None:
    done = orchestratord(
        "start",
        "--claim-interval",
        "1",
        "--task-memory-limit",
        "much",
        WORKER_POOL_SIZE="0",
        SHUTDOWN_TIMEOUT="soon",
        METRICS_PORT="70000",
        DEBUG="perhaps",
        HEARTBEAT_INTERVAL="20s",
    )

    assert done.returncode == 2
    first, *problems = done.stderr.splitlines()
    assert first == "orchestratord: 8 settings cannot be used:"
    for name, value in {
        "DATABASE_URL": "",
        "WORKER_POOL_SIZE": "0",
        "CLAIM_INTERVAL (--claim-interval)": "1",
        "SHUTDOWN_TIMEOUT": "soon",
        "METRICS_PORT": "70000",
        "DEBUG": "perhaps",
        "TASK_MEMORY_LIMIT (--task-memory-limit)": "much",
        "WORKER_TIMEOUT": "30s",
    }.items():
        (line,) = [each for each in problems if each.strip().startswith(name)]
        assert value in line
        assert "write" in line or "ccepted" in line or "from" in line, line
    assert "write 1s" in done.stderr
    assert "Traceback" not in done.stderr


# The port


@pytest.mark.parametrize("command", [("start",), ("check",), ("stats",)])
def test_a_url_that_libpq_does_not_understand_is_a_wrong_setting_and_not_waited_for(
    orchestratord_here: Command, command: tuple[str, ...]
) -> None:
    done = orchestratord_here(*command, DATABASE_URL="postgres://ann:s3cret@localhost/shop?sllmode=require")

    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert "DATABASE_URL is 'postgres://ann:***@localhost/shop?sllmode=***': libpq takes it for no" in said
    assert "s3cret" not in said


def test_a_proc_of_another_pid_namespace_is_told_and_nobody_is_sought_in_it(tmp_path: Path) -> None:
    """Its pids are other processes here: a traceback, where the process was not in it by chance."""
    alone = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    done = subprocess.run(
        [*alone, *ENTRY, "start", "--database-url", "postgres://127.0.0.1:9/x"],
        env=clean_environment(METRICS_PORT="0", METRICS_HOST="127.0.0.1"),
        cwd=tmp_path, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    if done.stderr.startswith("unshare:"):
        pytest.skip(f"no PID namespace can be made here: {done.stderr.strip()}")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("orchestratord: /proc is not mounted here, or is another PID")
    assert "Traceback" not in done.stderr


def test_a_port_that_stays_taken_is_named(daemon: Start, queue: Queue) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        began = time.monotonic()
        worker = daemon(APP, is_awaited=False, DATABASE_URL=queue.url, METRICS_PORT=port)

        assert worker.wait_exit(within=30) == 2
    assert time.monotonic() - began >= 5
    line = worker.log().splitlines()[-1]  # before it, if at all, that it cleared what another test's worker had left
    assert line.startswith("orchestratord: ")
    assert "METRICS_PORT" in line
    assert f"port {port} of 127.0.0.1 is taken" in line
    assert queue.one("SELECT count(*) FROM workers") == 0


def test_a_port_that_is_let_go_in_time_is_used_and_a_signal_meanwhile_does_what_it_says(
    daemon: Start, queue: Queue
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        variables = {"DATABASE_URL": queue.url, "METRICS_PORT": port, "DEBUG": "true"}

        def start() -> Daemon:
            """It waits for the port, 5 s at most."""
            worker = daemon(APP, "--pool-size", "1", is_awaited=False, **variables)
            eventually(lambda: _has_handlers(worker.pid), within=20, why="it hears signals")
            return worker

        leaves = start()
        leaves.signal(signal.SIGTERM)
        assert leaves.wait_exit(within=4) == 0
        waits = start()
        waits.signal(signal.SIGHUP)
        assert waits.process.poll() is None
        assert not children(waits.pid)

    waits.wait_ready()
    assert waits.address.endswith(f":{port}")
    waits.wait_log("app_reloaded")


def _has_handlers(pid: int) -> bool:
    """Whether SIGHUP is caught: the daemon's own code runs."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (signal.SIGHUP - 1) & 1)


# Open files


def test_a_pool_that_needs_more_open_files_than_are_allowed_is_a_wrong_setting(queue: Queue) -> None:
    done = subprocess.run(
        ["sh", "-c", 'ulimit -n 190; exec "$0" "$@"', *ENTRY, "start", "--pool-size", "20"],
        env=clean_environment(DATABASE_URL=queue.url, METRICS_PORT="0"),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "WORKER_POOL_SIZE is '20': this pool needs 220 open files, and 190 are allowed" in done.stderr
    assert "or write 15 at most" in done.stderr


def test_where_no_pool_has_open_files_enough_a_smaller_one_is_not_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(ConfigurationError, match=r"64 are allowed \(.*\): allow more$"):
        make_room(1)


@pytest.mark.slow
def test_a_low_limit_of_open_files_is_raised_for_the_supervisor_alone(daemon: Start, queue: Queue) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = len(os.listdir("/proc/self/fd")) + 64  # what we start inherits it, and we have to go on with it
    assert low < 250
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
    try:
        worker = daemon(APP, "--pool-size", "25", DATABASE_URL=queue.url)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    children = worker.children()
    assert len(children) == 25
    soft = {resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] for pid in children.values()}
    assert soft == {low}
    assert resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)[0] == 250


def test_a_pool_that_grows_beyond_its_open_files_goes_on_with_the_children_it_has(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "2", DATABASE_URL=queue.url)
    used = len(os.listdir(f"/proc/{worker.pid}/fd"))
    soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (used + 1, hard))
    worker.signal(signal.SIGTTIN)
    worker.wait_log("child_not_born.*no room for it: Too many open files")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: len(worker.children()) == 3, within=20, why="it is born once there is room")
    assert queue.wait_status(queue.enqueue("greet"), "completed")["attempts"] == 1
    assert worker.stop() == 0


def test_a_term_that_comes_with_the_news_of_a_broken_app_is_obeyed(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    app = """
    import os, time
    open("importing", "w").close()
    while not os.path.exists("broken"):
        time.sleep(0.01)
    raise RuntimeError("half a deployment")
    """
    worker = daemon(app, is_awaited=False, DATABASE_URL=queue.url)
    eventually((tmp_path / "importing").exists, within=20)
    forkserver = worker.forkserver()
    worker.signal(signal.SIGSTOP)
    (tmp_path / "broken").touch()
    eventually(lambda: not is_alive(forkserver), within=20)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGCONT)
    assert worker.wait_exit() == 0
    assert "Traceback" not in worker.log()
