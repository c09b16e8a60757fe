"""A process that writes a board at full speed. Run it with -m: the board's descriptor, then `write` or `die`.

Everything in a record follows from its token, and the tokens from the number of the batch: so that a reader can tell.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from orchestrator.board.child_half import ChildBoard
from orchestrator.model import Claim, Outcome, TaskStatus

PER_BATCH = 32


def size_of(batch: int) -> int:
    """How many claims the batch has."""
    return batch % PER_BATCH + 1


def claim_of(token: int) -> tuple[Claim, int]:
    """The claim with this token, and its max_retries."""
    kind = f"type-{token % 97}-" + "x" * (token % 100)
    return Claim(f"{token:036d}", kind, token, None, token % 1000, None, None, token % 3 == 0), token % 50


def outcome_of(token: int) -> Outcome:
    claim, _ = claim_of(token)
    return Outcome(
        task_id=claim.task_id,
        token=token,
        type=claim.type,
        status=(TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.FAILED, TaskStatus.DEAD_LETTER)[token % 4],
        attempt=claim.attempt,
        started_monotonic=0.0,
        ended_monotonic=float(token),
        error=None if token % 5 == 0 else f"error {token} " * (token % 7),
        result=None if token % 3 == 0 else f"result {token} " * (token % 200),
        delay_seconds=float(token % 60),
    )


class DeadlyClaims(Sequence[tuple[Claim, int]]):
    """Claims of which reading the third kills the reader."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[Claim, int]]:
        yield claim_of(1)
        yield claim_of(2)
        os.kill(os.getpid(), signal.SIGKILL)


def write(board: ChildBoard) -> None:
    """Batch after batch, until killed."""
    batch = 0
    while True:
        batch += 1
        first = batch * PER_BATCH
        board.publish([claim_of(first + number) for number in range(size_of(batch))])
        for number in range(size_of(batch)):
            board.start((first + number) * 1000)
            board.end(outcome_of(first + number))
            if number % 5 == 4:
                board.outcomes_written()  # the texts of the next outcomes go over those of the last
        board.outcomes_written()


def main(descriptor: int, what: str) -> None:
    board = ChildBoard(descriptor)
    if what == "die":
        board.publish(DeadlyClaims())
    if what == "wait":
        board.publish([claim_of(1), claim_of(2)])
        board.start(0)
        time.sleep(600)
    write(board)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
