"""The child's half of its board: it writes its state, its claims and their ends. Runs in a child."""

import time
from collections.abc import Sequence

from orchestrator.board.layout import (
    ARENA_BYTES,
    END,
    FLAG_GIVEN_UP,
    FLAG_IS_RUNNING,
    HEADER_BYTES,
    MAX_INLINE_BYTES,
    OUTCOME_STATUSES,
    PLACE_BITS,
    RECORD,
    RECORD_BYTES,
    START,
    WORD,
    Field,
    LeaveReason,
    SlotState,
    Word,
)
from orchestrator.board.memory import NANO, Board
from orchestrator.model import MAX_ERROR_BYTES, Claim, Outcome

_START = Field.STARTED_AT * WORD
_END = Field.ENDED_AT * WORD
_STATUSES = {status: index for index, status in enumerate(OUTCOME_STATUSES)}
_COMPLETED = OUTCOME_STATUSES[0]


class ChildBoard(Board):
    """The child's half: it writes its state, its claims and their ends."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._arena_used = 0

    def enter(self, state: SlotState) -> None:
        """Say what the child does now."""
        self._words[Word.STATE_SINCE] = time.monotonic_ns()
        self._words[Word.STATE] = state

    def begin_batch(self) -> None:
        """What was claimed begins to run."""
        self._words[Word.BEGAN_WITH] = self._words[Word.STARTED]
        self.enter(SlotState.BUSY)

    def leave_because(self, reason: LeaveReason) -> None:
        self._words[Word.LEAVING] = reason
        self.enter(SlotState.LEAVING)

    def claim_begins(self) -> None:
        """A claim statement goes out: the database may know claims that the board does not."""
        self._words[Word.CLAIM_SEQUENCE] |= 1

    def claim_ended(self) -> None:
        """Its reply is on the board, or is known to be lost."""
        self._words[Word.CLAIM_SEQUENCE] = (self._words[Word.CLAIM_SEQUENCE] | 1) + 1

    @property
    def has_settled(self) -> bool:
        """Whether all that was not started has been recorded as handed back: the batch may be replaced."""
        words = self._words
        return words[Word.STARTED] + words[Word.HANDED_BACK] == words[Word.COUNT]

    @property
    def is_written(self) -> bool:
        """Whether no outcome stands here alone: the batch may be replaced."""
        words = self._words
        return words[Word.WRITTEN] == words[Word.ENDED]

    def has_place(self, count: int) -> bool:
        """Whether so many claims can be added behind those that stand here; that takes nothing back from anybody."""
        words = self._words
        present = words[Word.COUNT]
        return words[Word.STARTED] == present and not words[Word.HANDED_BACK] and present + count <= self.capacity

    def publish(self, claims: Sequence[tuple[Claim, int]]) -> None:
        """Replace the batch by these claims, each with its effective `max_retries`. No permission may be out.

        If there are outcomes that are not written yet, the claims are added behind them instead (`has_place` held).
        Then nothing is overwritten that another could be reading, and raising the count is all that shows.
        """
        words = self._words
        if not self.has_settled or words[Word.ENDED] != words[Word.STARTED]:
            raise AssertionError("BUG: a batch was replaced before it was settled")
        if not self.is_written:
            present = words[Word.COUNT]
            if not self.has_place(len(claims)):
                raise AssertionError("BUG: claims were added where there is no place for them")
            self._write_claims(present, claims)
            words[Word.COUNT] = present + len(claims)
            return
        words[Word.BATCH] += 1
        words[Word.STARTED] = words[Word.ENDED] = words[Word.WRITTEN] = words[Word.HANDED_BACK] = 0
        self._arena_used = 0
        self._write_claims(0, claims)
        words[Word.COUNT] = len(claims)
        words[Word.BATCH] += 1

    def _write_claims(self, index: int, claims: Sequence[tuple[Claim, int]]) -> None:
        """Records from that one on."""
        position = HEADER_BYTES + index * RECORD_BYTES
        for (task_id, type_name, token, _, attempt, _, _, is_running), max_retries in claims:
            type_bytes = type_name.encode()
            flags = FLAG_IS_RUNNING if is_running else 0
            RECORD.pack_into(
                self._bytes, position,
                token, attempt, max_retries, flags, len(type_bytes), 0, 0, 0, 0, 0, 0, -1, -1, 0,
                task_id.encode(), type_bytes,
            )  # fmt: skip
            position += RECORD_BYTES

    def start(self, deadline_ns: int) -> int:
        """The next claim's handler begins (its permission was taken). Returns when, in nanoseconds."""
        words = self._words
        index = words[Word.STARTED]
        now = time.monotonic_ns()
        deadline = now + deadline_ns if deadline_ns else 0
        START.pack_into(self._bytes, HEADER_BYTES + index * RECORD_BYTES + _START, now, deadline)
        words[Word.STARTED] = index + 1
        return now

    @property
    def has_room(self) -> bool:
        """Whether one more outcome of the largest inline size fits the arena."""
        return self._arena_used + MAX_INLINE_BYTES + MAX_ERROR_BYTES <= ARENA_BYTES

    def end(self, outcome: Outcome) -> None:
        """The running claim's handler ended so; `has_room` held. The result is at most MAX_INLINE_BYTES long."""
        words = self._words
        index = words[Word.ENDED]
        error, result = outcome.error, outcome.result
        offset = self._arena_used
        END.pack_into(
            self._bytes, HEADER_BYTES + index * RECORD_BYTES + _END,
            int(outcome.ended_monotonic * NANO),
            0 if outcome.status is _COMPLETED else _STATUSES[outcome.status],
            int(outcome.delay_seconds * NANO),
            offset,
            -1 if error is None else self._store(error),
            -1 if result is None else self._store(result),
        )  # fmt: skip
        words[Word.ENDED] = index + 1
        words[Word.FINISHED] += 1

    def handler_ended(self) -> None:
        """The running claim's handler is done, its outcome is not yet anywhere: it can no longer be overdue."""
        index = self._words[Word.ENDED]
        self._words[self._at(index, Field.DEADLINE)] = 0

    def end_elsewhere(self, token: int) -> None:
        """An outcome was written to the database: if it is the running claim's, which is too large to stand here, that
        has ended, and nobody is to write or to count it any more."""
        if not self._is_running(token):
            return
        if self._words[Word.WRITTEN] != self._words[Word.ENDED]:
            raise AssertionError("BUG: outcomes before this one have not been written")
        index = self._words[Word.ENDED]
        self._words[self._at(index, Field.SUPERVISOR_WROTE)] = self._words[self._at(index, Field.TOKEN)]
        self._words[self._at(index, Field.ENDED_AT)] = time.monotonic_ns()
        self._words[Word.ENDED] = index + 1
        self._words[Word.WRITTEN] = index + 1
        self._words[Word.FINISHED] += 1

    def _is_running(self, token: int) -> bool:
        words = self._words
        index = words[Word.ENDED]
        if words[Word.STARTED] == index:
            return False
        return bool(words[self._at(index, Field.TOKEN)] == token)

    def supervisor_wrote(self, index: int, token: int) -> bool:
        """Whether the supervisor has written this claim's outcome for us, or found it written."""
        return abs(self._words[self._at(index, Field.SUPERVISOR_WROTE)]) == token

    def supervisor_judged(self, token: int) -> bool:
        """Whether the supervisor has said what became of this claim's outcome, wherever it stands here."""
        return any(self.supervisor_wrote(index, token) for index in range(self._words[Word.ENDED]))

    def supervisor_found(self, index: int, token: int) -> bool:
        """Whether the supervisor found this claim's outcome written: by us, though the reply may be lost."""
        return self._words[self._at(index, Field.SUPERVISOR_WROTE)] == -token

    def count_found(self, index: int) -> None:
        """What the supervisor found written by us we count, as if it had been the one: it need not when we die."""
        self._words[self._at(index, Field.SUPERVISOR_WROTE)] = self._words[self._at(index, Field.TOKEN)]

    def give_up(self, index: int) -> None:
        """This claim's outcome is the supervisor's to write and to count, once it has marked it as written."""
        self._words[self._at(index, Field.FLAGS)] |= FLAG_GIVEN_UP

    def offer_outcomes(self, task_seconds: float) -> None:
        """The supervisor may write what stands here, and ends from now on, of tasks that take so long; 0.0: it had
        better not, though it may be at that already."""
        self._words[Word.OFFERED] = int(task_seconds * 1e6)

    def sends(self, count: int) -> None:
        """The first so many outcomes are on their way to the database, or written; 0: none is."""
        self._words[Word.SENT] = (self._words[Word.BATCH] << PLACE_BITS) + count if count else 0

    @property
    def is_collecting(self) -> bool:
        """Whether the supervisor comes for what is offered."""
        return bool(self._words[Word.COLLECTING])

    def is_collected(self, index: int) -> bool:
        """Whether the supervisor has the outcome that stands there on its way, or had."""
        collected = self._words[Word.COLLECTED] - (self._words[Word.BATCH] << PLACE_BITS)
        return index < collected <= self.capacity

    def outcomes_written(self, count: int | None = None) -> None:
        """The first so many outcomes stand in the database (None: all), if not more; once all do, their texts may be
        overwritten."""
        words = self._words
        words[Word.WRITTEN] = words[Word.ENDED] if count is None else max(words[Word.WRITTEN], count)
        if self.is_written:
            self._arena_used = 0

    def _store(self, text: str) -> int:
        data = text.encode()
        begin = self._arena + self._arena_used
        self._bytes[begin : begin + len(data)] = data
        self._arena_used += len(data)
        return len(data)
