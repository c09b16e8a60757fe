"""Where modules are found: by the app, and by what its handlers start."""

from pathlib import Path

import pytest

from tests.fixtures.daemon import Queue, Start

SPAWNS = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from orchestrator import App
    app = App()

    def double(number):
        return 2 * number

    @app.task("spawns", max_retries=0)
    def spawns():
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return list(pool.map(double, [1, 2]))
"""
PLAIN = """
from orchestrator import App

app = App()


@app.task("plain")
def plain():
    return 1
"""


@pytest.mark.slow
def test_a_handler_spawns_functions_of_the_app_beside_it(daemon: Start, queue: Queue) -> None:
    daemon(SPAWNS, "--pool-size", "1", DATABASE_URL=queue.url)
    task = queue.wait_status(queue.enqueue("spawns"), "completed", "dead_letter")
    assert (task["status"], task["result"]) == ("completed", [2, 4]), task["last_error"]


def test_an_app_on_pythonpath_is_found_with_a_safe_path_too(daemon: Start, queue: Queue, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "elsewhere.py").write_text(PLAIN)
    daemon(
        None, "--app", "elsewhere:app", "--pool-size", "1",
        DATABASE_URL=queue.url, PYTHONPATH=str(tmp_path / "lib"), PYTHONSAFEPATH="1",
    )  # fmt: skip
    queue.wait_status(queue.enqueue("plain"), "completed")
