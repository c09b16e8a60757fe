"""The board between two processes: whoever reads it sees a batch whole or not at all, whatever the writer does."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from orchestrator.board.memory import create_memory
from orchestrator.board.supervisor_half import BatchView, BoardClaim, SupervisorBoard
from tests.fixtures.waiting import eventually
from tests.toys.scribe import PER_BATCH, claim_of, outcome_of, size_of
from tests.toys.workshop import PROJECT

READ_SECONDS, LONGEST_READ_SECONDS = 1.0, 30.0

Scribe = Callable[[str], tuple[SupervisorBoard, "subprocess.Popen[bytes]"]]


@pytest.fixture
def start_scribe() -> Iterator[Scribe]:
    """Call it for a board and a process that writes it."""
    memory = create_memory("scribe's board", PER_BATCH)
    board = SupervisorBoard(memory)
    started: list[subprocess.Popen[bytes]] = []

    def start(what: str) -> tuple[SupervisorBoard, "subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", "tests.toys.scribe", str(memory), what]
        process = subprocess.Popen(command, pass_fds=(memory,), env={**os.environ, "PYTHONPATH": str(PROJECT)})
        started.append(process)
        return board, process

    yield start
    for process in started:
        process.kill()
        process.wait()
    board.close()
    os.close(memory)


def check_claim(found: BoardClaim, *, has_started: bool) -> None:
    claim, max_retries = claim_of(found.token)
    assert (found.task_id, found.type, found.attempt) == (claim.task_id, claim.type, claim.attempt)
    assert (found.max_retries, found.is_running) == (max_retries, claim.is_running)
    assert found.place == found.token % PER_BATCH
    if has_started:
        assert found.deadline_ns - found.started_ns == found.token * 1000
    else:
        assert (found.started_ns, found.deadline_ns) == (0, 0)


def check_view(view: BatchView) -> None:
    """All of one batch, none missing, none twice, each as it was written."""
    batch = view.batch // 2
    tokens = [each.token for each in view.outcomes]
    for outcome in view.outcomes:
        expected = outcome_of(outcome.token)
        assert (outcome.task_id, outcome.type, outcome.status) == (expected.task_id, expected.type, expected.status)
        assert (outcome.attempt, outcome.ended_monotonic) == (expected.attempt, expected.ended_monotonic)
        assert (outcome.error, outcome.result) == (expected.error, expected.result)
        assert outcome.delay_seconds == expected.delay_seconds
        assert outcome.started_monotonic > 0.0
    if view.running is not None:
        check_claim(view.running, has_started=True)
        tokens.append(view.running.token)
    for claim in view.unstarted:
        check_claim(claim, has_started=False)
        tokens.append(claim.token)
    last = batch * PER_BATCH + size_of(batch) - 1
    assert tokens == list(range(last + 1 - len(tokens), last + 1))


def test_a_reader_never_sees_a_torn_batch_while_its_writer_runs_at_full_speed(start_scribe: Scribe) -> None:
    board, _ = start_scribe("write")
    eventually(lambda: (view := board.read()) is not None and view.batch, within=10.0)
    start = time.monotonic()
    whole, batches, kinds = 0, set(), set()

    def is_enough() -> bool:
        """The writer did not stand still, and was seen at every point."""
        return whole > 500 and len(batches) > 100 and len(kinds) >= 5

    while (now := time.monotonic()) < start + READ_SECONDS or not is_enough():
        assert now < start + LONGEST_READ_SECONDS, (whole, len(batches), kinds)
        view = board.read()
        if view is not None:
            check_view(view)
            whole += 1
            batches.add(view.batch)
            kinds.add((bool(view.outcomes), view.running is not None, bool(view.unstarted)))


def test_a_reader_that_is_told_the_tokens_never_sees_those_of_two_batches(start_scribe: Scribe) -> None:
    board, _ = start_scribe("write")
    deadline = time.monotonic() + 0.4
    seen: set[int] = set()
    while time.monotonic() < deadline or len(seen) < 10:
        tokens = board.tokens()
        if tokens:
            batches = {token // PER_BATCH for token in tokens}
            assert len(batches) == 1
            seen |= batches


def test_a_writer_that_dies_while_it_publishes_leaves_nothing_that_could_be_believed(start_scribe: Scribe) -> None:
    board, process = start_scribe("die")
    assert process.wait(10.0) == -signal.SIGKILL
    assert board.read() is None
    assert board.tokens() is None


def test_what_a_killed_writer_did_stays_readable(start_scribe: Scribe) -> None:
    board, process = start_scribe("wait")
    eventually(lambda: (view := board.read()) is not None and view.running is not None, within=10.0)
    process.kill()
    process.wait()
    view = board.read()
    assert view is not None and view.running is not None
    assert (view.running.token, [each.token for each in view.unstarted]) == (1, [2])
