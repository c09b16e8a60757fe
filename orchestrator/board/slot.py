"""A slot's board: the child's writing half and the supervisor's reading half of one memfd."""

import fcntl
import mmap
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.board.layout import (
    ARENA_BYTES,
    FLAG_IS_RUNNING,
    HEADER_BYTES,
    MAX_INLINE_BYTES,
    OUTCOME_STATUSES,
    RECORD,
    RECORD_BYTES,
    WORD,
    ChildOrder,
    Field,
    LeaveReason,
    SlotState,
    Word,
    board_bytes,
)
from orchestrator.model import MAX_ERROR_BYTES, Claim, Outcome

NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class BoardClaim:
    """A claim as its record tells it. `started_ns` 0: not begun. `deadline_ns` 0: it may run for ever."""

    index: int
    task_id: str
    type: str
    token: int
    attempt: int
    max_retries: int
    is_running: bool
    started_ns: int
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch read whole. `running` is the claim whose handler is at work, `unstarted` those handed to nobody yet."""

    batch: int
    outcomes: tuple[Outcome, ...]
    running: BoardClaim | None
    unstarted: tuple[BoardClaim, ...]


def create_memory(name: str, capacity: int) -> int:
    """A new memfd for a board; sealed, so that a task cannot truncate it under the supervisor's feet (SIGBUS)."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, board_bytes(capacity))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Board:
    """The mapped memory. One child and the supervisor hold one each over the same memfd."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("q")
        self.capacity = (len(self._map) - HEADER_BYTES - ARENA_BYTES) // RECORD_BYTES
        self._arena = HEADER_BYTES + self.capacity * RECORD_BYTES

    def close(self) -> None:
        self._words.release()
        self._bytes.release()
        self._map.close()

    def word(self, word: Word) -> int:
        return self._words[word]

    @property
    def state(self) -> SlotState:
        return SlotState(self._words[Word.STATE])

    @property
    def order(self) -> ChildOrder:
        return ChildOrder(self._words[Word.ORDER])


class ChildBoard(Board):
    """The child's half: it writes its state, its claims and their ends."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self._arena_used = 0
        self._words[Word.PID] = os.getpid()

    def enter(self, state: SlotState) -> None:
        """Say what the child does now."""
        self._words[Word.STATE_SINCE] = time.monotonic_ns()
        self._words[Word.STATE] = state

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

    def publish(self, claims: Sequence[tuple[Claim, int]]) -> None:
        """Replace the batch by these claims, each with its effective `max_retries`. No permission may be out."""
        if not self.has_settled or self._words[Word.WRITTEN] != self._words[Word.ENDED]:
            raise AssertionError("BUG: a batch was replaced before it was settled")
        words = self._words
        words[Word.BATCH] += 1
        words[Word.STARTED] = words[Word.ENDED] = words[Word.WRITTEN] = words[Word.HANDED_BACK] = 0
        self._arena_used = 0
        position = HEADER_BYTES
        for claim, max_retries in claims:
            type_bytes = claim.type.encode()
            flags = FLAG_IS_RUNNING if claim.is_running else 0
            RECORD.pack_into(
                self._bytes, position,
                claim.token, claim.attempt, max_retries, flags, len(type_bytes), 0, 0, 0, 0, 0, 0, -1, -1, 0,
                claim.task_id.encode(), type_bytes,
            )  # fmt: skip
            position += RECORD_BYTES
        words[Word.COUNT] = len(claims)
        words[Word.BATCH] += 1

    def start(self, deadline_ns: int) -> int:
        """The next claim's handler begins (its permission was taken). Returns when, in nanoseconds."""
        words = self._words
        index = words[Word.STARTED]
        record = (HEADER_BYTES + index * RECORD_BYTES) // WORD
        now = time.monotonic_ns()
        words[record + Field.STARTED_AT] = now
        words[record + Field.DEADLINE] = now + deadline_ns if deadline_ns else 0
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
        record = (HEADER_BYTES + index * RECORD_BYTES) // WORD
        words[record + Field.ENDED_AT] = int(outcome.ended_monotonic * NANO)
        words[record + Field.STATUS] = OUTCOME_STATUSES.index(outcome.status)
        if outcome.delay_seconds:
            words[record + Field.DELAY] = int(outcome.delay_seconds * NANO)
        if outcome.error is not None or outcome.result is not None:
            words[record + Field.TEXT_OFFSET] = self._arena_used
            words[record + Field.ERROR_LENGTH] = self._store(outcome.error)
            words[record + Field.RESULT_LENGTH] = self._store(outcome.result)
        words[Word.ENDED] = index + 1
        words[Word.FINISHED] += 1

    def handler_ended(self) -> None:
        """The running claim's handler is done, its outcome is not yet anywhere: it can no longer be overdue."""
        index = self._words[Word.ENDED]
        self._words[(HEADER_BYTES + index * RECORD_BYTES) // WORD + Field.DEADLINE] = 0

    def end_elsewhere(self) -> None:
        """The running claim's outcome was written to the database by the child itself (too large for the board)."""
        if self._words[Word.WRITTEN] != self._words[Word.ENDED]:
            raise AssertionError("BUG: outcomes before this one have not been written")
        index = self._words[Word.ENDED]
        record = (HEADER_BYTES + index * RECORD_BYTES) // WORD
        self._words[record + Field.SUPERVISOR_WROTE] = self._words[record + Field.TOKEN]
        self._words[Word.ENDED] = index + 1
        self._words[Word.WRITTEN] = index + 1
        self._words[Word.FINISHED] += 1

    def supervisor_wrote(self, index: int, token: int) -> bool:
        """Whether the supervisor has written this claim's outcome for us."""
        return self._words[(HEADER_BYTES + index * RECORD_BYTES) // WORD + Field.SUPERVISOR_WROTE] == token

    def outcomes_written(self) -> None:
        """All outcomes so far stand in the database; their texts may be overwritten."""
        self._words[Word.WRITTEN] = self._words[Word.ENDED]
        self._arena_used = 0

    def _store(self, text: str | None) -> int:
        if text is None:
            return -1
        data = text.encode()
        begin = self._arena + self._arena_used
        self._bytes[begin : begin + len(data)] = data
        self._arena_used += len(data)
        return len(data)


class SupervisorBoard(Board):
    """The supervisor's half: it reads whole batches, gives orders, and records what it took back or wrote."""

    def give(self, order: ChildOrder) -> None:
        self._words[Word.ORDER] = order

    @property
    def leaving(self) -> LeaveReason:
        return LeaveReason(self._words[Word.LEAVING])

    def may_await_claim(self) -> bool:
        """Whether a claim statement of the child may be under way: the database may know more than the board."""
        return bool(self._words[Word.CLAIM_SEQUENCE] & 1)

    def read(self) -> BatchView | None:
        """The batch, whole; None if it was being replaced meanwhile (look again)."""
        words = self._words
        batch, written, ended = words[Word.BATCH], words[Word.WRITTEN], words[Word.ENDED]
        if batch & 1:
            return None
        started, count, handed_back = words[Word.STARTED], words[Word.COUNT], words[Word.HANDED_BACK]
        if not written <= ended <= started <= count <= self.capacity:
            return None
        outcomes = tuple(self._outcome(index) for index in range(written, ended) if not self._is_written(index))
        running = self._claim(ended, has_started=True) if started > ended else None
        unstarted = tuple(self._claim(index, has_started=False) for index in range(started, count - handed_back))
        if words[Word.BATCH] != batch or words[Word.WRITTEN] != written:
            return None
        if words[Word.ENDED] != ended or words[Word.STARTED] != started:
            return None  # whole, but old: the running claim has changed
        return BatchView(batch, outcomes, running, unstarted)

    def last_end(self) -> float:
        """When the latest task of this batch ended, in CLOCK_MONOTONIC seconds; 0.0 if none has."""
        ended = self._words[Word.ENDED]
        if not 0 < ended <= self.capacity:
            return 0.0
        return self._words[(HEADER_BYTES + (ended - 1) * RECORD_BYTES) // WORD + Field.ENDED_AT] / NANO

    def hand_back(self, taken: int) -> tuple[BoardClaim, ...]:
        """Record that `taken` permissions were taken from the semaphore: those claims, from the rear, are ours.

        Between taking a permission and this call the child cannot replace the batch: it waits until the two sides'
        sums agree (`has_settled`). So the records read here are those the permissions stood for.
        """
        count, handed_back = self._words[Word.COUNT], self._words[Word.HANDED_BACK]
        rear = count - handed_back
        claims = tuple(self._claim(index, has_started=False) for index in range(rear - taken, rear))
        self._words[Word.HANDED_BACK] = handed_back + taken
        return claims

    def mark_written(self, tokens: frozenset[int]) -> None:
        """Tell the child that these claims' outcomes stand in the database.

        A batch replaced meanwhile does no harm: the child compares tokens, and tokens are never used twice.
        """
        for index in range(min(self._words[Word.COUNT], self.capacity)):
            record = (HEADER_BYTES + index * RECORD_BYTES) // WORD
            token = self._words[record + Field.TOKEN]
            if token in tokens:
                self._words[record + Field.SUPERVISOR_WROTE] = token

    def tokens(self) -> frozenset[int] | None:
        """Tokens of the batch's claims that are still the child's business; None: being replaced."""
        words = self._words
        batch = words[Word.BATCH]
        if batch & 1:
            return None
        indexes = range(words[Word.WRITTEN], min(words[Word.COUNT] - words[Word.HANDED_BACK], self.capacity))
        held = frozenset(words[(HEADER_BYTES + i * RECORD_BYTES) // WORD + Field.TOKEN] for i in indexes)
        return held if words[Word.BATCH] == batch else None

    def _is_written(self, index: int) -> bool:
        record = (HEADER_BYTES + index * RECORD_BYTES) // WORD
        return self._words[record + Field.SUPERVISOR_WROTE] == self._words[record + Field.TOKEN]

    def _claim(self, index: int, *, has_started: bool) -> BoardClaim:
        fields = RECORD.unpack_from(self._bytes, HEADER_BYTES + index * RECORD_BYTES)
        return BoardClaim(
            index=index,
            task_id=fields[14].decode(errors="replace"),
            type=fields[15][: fields[Field.TYPE_LENGTH]].decode(errors="replace"),
            token=fields[Field.TOKEN],
            attempt=fields[Field.ATTEMPT],
            max_retries=fields[Field.MAX_RETRIES],
            is_running=bool(fields[Field.FLAGS] & FLAG_IS_RUNNING),
            started_ns=fields[Field.STARTED_AT] if has_started else 0,
            deadline_ns=fields[Field.DEADLINE] if has_started else 0,
        )

    def _outcome(self, index: int) -> Outcome:
        fields = RECORD.unpack_from(self._bytes, HEADER_BYTES + index * RECORD_BYTES)
        offset = fields[Field.TEXT_OFFSET]
        error_length, result_length = fields[Field.ERROR_LENGTH], fields[Field.RESULT_LENGTH]
        return Outcome(
            task_id=fields[14].decode(errors="replace"),
            token=fields[Field.TOKEN],
            type=fields[15][: fields[Field.TYPE_LENGTH]].decode(errors="replace"),
            status=OUTCOME_STATUSES[fields[Field.STATUS] % len(OUTCOME_STATUSES)],
            attempt=fields[Field.ATTEMPT],
            started_monotonic=fields[Field.STARTED_AT] / NANO,
            ended_monotonic=fields[Field.ENDED_AT] / NANO,
            error=self._text(offset, error_length),
            result=self._text(offset + max(error_length, 0), result_length),
            delay_seconds=fields[Field.DELAY] / NANO,
        )

    def _text(self, offset: int, length: int) -> str | None:
        if not 0 <= length <= ARENA_BYTES - offset:
            return None
        return bytes(self._bytes[self._arena + offset : self._arena + offset + length]).decode(errors="replace")
