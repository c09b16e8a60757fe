"""Work in bare processes, beside which ours is held."""

import multiprocessing
from collections.abc import Callable


def in_processes(count: int, work: Callable[[], object]) -> None:
    """Forks so many that each do it once, and returns when all have; SystemExit if one failed."""
    running = [multiprocessing.get_context("fork").Process(target=work) for _ in range(count)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    if any(process.exitcode for process in running):
        raise SystemExit("a bare process failed")
