"""The supervisor's half of a slot's board: it reads whole batches, and notes what it took back or wrote."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from orchestrator.board.layout import (
    ARENA_BYTES,
    FLAG_GIVEN_UP,
    FLAG_IS_RUNNING,
    HEADER_BYTES,
    OUTCOME_STATUSES,
    PLACE_BITS,
    RECORD,
    RECORD_BYTES,
    WORD,
    ChildOrder,
    Field,
    LeaveReason,
    SlotState,
    Word,
)
from orchestrator.board.memory import NANO, Board
from orchestrator.model import Outcome

_REASONS = {int(each): each for each in LeaveReason}


class BoardClaim(NamedTuple):
    """A claim as its record tells it. `started_ns` 0: not begun. `deadline_ns` 0: it may run for ever."""

    place: int
    task_id: str
    type: str
    token: int
    attempt: int
    max_retries: int
    is_running: bool
    started_ns: int
    deadline_ns: int


class BatchView(NamedTuple):
    """A batch read whole. `running` is the claim whose handler is at work, `unstarted` those handed to nobody yet;
    `given_up` are tokens of outcomes that the child leaves to us, `sent` of those that it has sent itself."""

    batch: int
    outcomes: tuple[Outcome, ...]
    running: BoardClaim | None
    unstarted: tuple[BoardClaim, ...]
    given_up: frozenset[int] = frozenset()
    sent: frozenset[int] = frozenset()


class Glance(NamedTuple):
    """Of a batch only what a look at all boards asks for: `unwritten_since` is the end of the first outcome that
    nobody has written, in CLOCK_MONOTONIC seconds; None: there is none."""

    running: BoardClaim | None
    unstarted: int
    unwritten_since: float | None


class SupervisorBoard(Board):
    """The supervisor's half: it reads whole batches, gives orders, and records what it took back or wrote."""

    def give(self, order: ChildOrder) -> None:
        self._words[Word.ORDER] = order

    def tell_slowness(self, task_seconds: float) -> None:
        """Tasks take so long, which is longer than this child may have learnt from those before."""
        self._words[Word.TASK_NS] = int(task_seconds * NANO)
        self._words[Word.SLOWNESS] += 1

    def tell_wake_owed(self, is_owed: bool) -> None:
        """While it is, the child need not say that its claim was full: that is known."""
        self._words[Word.WAKE_OWED] = int(is_owed)

    def batch_seconds(self, now: float) -> tuple[float, float]:
        """For how long a busy child has run its batch, and how long each of its tasks took so far; 0.0 if it is not."""
        if self.state is not SlotState.BUSY:
            return 0.0, 0.0
        seconds = now - self._words[Word.STATE_SINCE] / NANO
        return seconds, seconds / max(1, self._words[Word.STARTED] - self._words[Word.BEGAN_WITH])

    @property
    def leaving(self) -> LeaveReason:
        return _REASONS.get(self._words[Word.LEAVING], LeaveReason.NONE)

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
        if not 0 <= written <= ended <= started <= count <= self.capacity or not 0 <= handed_back <= count:
            return None
        unwritten = self._unwritten(written, ended)
        outcomes = tuple([self._outcome(index) for index in unwritten])
        sent_before = words[Word.SENT] - (batch << PLACE_BITS)  # negative: of an earlier batch
        sent = frozenset(each.token for index, each in zip(unwritten, outcomes, strict=True) if index < sent_before)
        running = self._claim(ended, has_started=True) if started > ended else None
        unstarted = tuple(self._claim(index, has_started=False) for index in range(started, count - handed_back))
        given_up = frozenset(self._given_up(range(written, ended)))
        if words[Word.BATCH] != batch or words[Word.WRITTEN] != written:
            return None
        if words[Word.ENDED] != ended or words[Word.STARTED] != started:
            return None  # whole, but old: the running claim has changed
        return BatchView(batch, outcomes, running, unstarted, given_up, sent)

    @property
    def offered_a_second(self) -> float:
        """How many outcomes the child leaves to us in a second; 0.0: none."""
        task_us = self._words[Word.OFFERED]
        return 1e6 / task_us if task_us > 0 else 0.0

    def tell_collecting(self, is_collecting: bool) -> None:
        """Whether we come for what is offered."""
        self._words[Word.COLLECTING] = int(is_collecting)

    def collect(self) -> Sequence[Outcome]:
        """The outcomes that the child offers and that were not collected before. It is told, and lets us write them."""
        words = self._words
        batch, written, ended = words[Word.BATCH], words[Word.WRITTEN], words[Word.ENDED]
        if batch & 1 or not 0 <= written <= ended <= self.capacity:
            return ()
        before = words[Word.COLLECTED] - (batch << PLACE_BITS)  # negative: of an earlier batch
        outcomes = [self._outcome(index) for index in self._unwritten(max(written, before), ended)]
        if not outcomes or words[Word.BATCH] != batch or words[Word.WRITTEN] != written or not words[Word.OFFERED]:
            return ()
        words[Word.COLLECTED] = (batch << PLACE_BITS) + ended
        return outcomes

    def glance(self) -> Glance | None:
        """A twentieth of the cost of `read`; None likewise."""
        words = self._words
        batch, written, ended = words[Word.BATCH], words[Word.WRITTEN], words[Word.ENDED]
        started, count, handed_back = words[Word.STARTED], words[Word.COUNT], words[Word.HANDED_BACK]
        if batch & 1 or not 0 <= written <= ended <= started <= count <= self.capacity:
            return None
        unwritten = self._unwritten(written, ended)
        unwritten_since = self._ended_at(unwritten[0]) if unwritten else None
        running = self._claim(ended, has_started=True) if started > ended else None
        if words[Word.BATCH] != batch or words[Word.ENDED] != ended or words[Word.STARTED] != started:
            return None
        return Glance(running, max(0, count - handed_back - started), unwritten_since)

    def last_end(self) -> float:
        """When the latest task of this batch ended, in CLOCK_MONOTONIC seconds; 0.0 if none has."""
        ended = self._words[Word.ENDED]
        if not 0 < ended <= self.capacity:
            return 0.0
        return self._ended_at(ended - 1)

    def _ended_at(self, index: int) -> float:
        return self._words[self._at(index, Field.ENDED_AT)] / NANO

    def hand_back(self, taken: int) -> tuple[BoardClaim, ...]:
        """Record that `taken` permissions were taken from the semaphore: those claims, from the rear, are ours.

        Between taking a permission and this call the child cannot replace the batch: it waits until the two sides'
        sums agree (`has_settled`). So the records read here are those the permissions stood for.
        """
        count, handed_back = self._words[Word.COUNT], self._words[Word.HANDED_BACK]
        rear = count - handed_back
        if not 0 <= rear - taken <= rear <= count <= self.capacity:
            return ()  # scribbled over: what was claimed is found in the database once the child is gone
        claims = tuple(self._claim(index, has_started=False) for index in range(rear - taken, rear))
        self._words[Word.HANDED_BACK] = handed_back + taken
        return claims

    def mark_written(self, tokens: frozenset[int], by_child: frozenset[int] = frozenset()) -> list[int]:
        """Tell the child that these claims' outcomes stand in the database, or are ours to write; those `by_child`
        it has written itself. Returns those of which it had not heard before, from us or otherwise.

        A batch replaced meanwhile does no harm: the child compares tokens, and tokens are never used twice.
        """
        words = self._words
        told = []
        for index in self._unwritten(max(words[Word.WRITTEN], 0), min(words[Word.ENDED], self.capacity)):
            token = words[self._at(index, Field.TOKEN)]
            if token in tokens:
                words[self._at(index, Field.SUPERVISOR_WROTE)] = -token if token in by_child else token
                words[Word.MARKS] = (words[Word.MARKS] + 1) & 0x7FFFFFFF
                told.append(token)
        return told

    def uncounted(self) -> tuple[Outcome, ...]:
        """Of a child that is dead: what it wrote, as we found, and it had not heard of and counted."""
        words = self._words
        written, ended = words[Word.WRITTEN], words[Word.ENDED]
        if words[Word.BATCH] & 1 or not 0 <= written <= ended <= self.capacity:
            return ()
        found = [index for index in range(written, ended) if self._is_written(index) and self._mark(index) < 0]
        return tuple(self._outcome(index) for index in found)

    def tokens(self) -> frozenset[int] | None:
        """Tokens of the batch's claims that are still the child's business; None: being replaced."""
        words = self._words
        batch = words[Word.BATCH]
        if batch & 1:
            return None
        indexes = range(max(words[Word.WRITTEN], 0), min(words[Word.COUNT] - words[Word.HANDED_BACK], self.capacity))
        held = frozenset(self._column(Field.TOKEN, indexes.start, indexes.stop))
        return held if words[Word.BATCH] == batch else None

    def _given_up(self, indexes: range) -> Iterator[int]:
        for index in indexes:
            if self._words[self._at(index, Field.FLAGS)] & FLAG_GIVEN_UP:
                yield self._words[self._at(index, Field.TOKEN)]

    def _unwritten(self, begin: int, end: int) -> list[int]:
        """Those from `begin` and before `end` whose outcomes we have not noted as written."""
        if begin >= end:
            return []
        tokens, marks = self._column(Field.TOKEN, begin, end), self._column(Field.SUPERVISOR_WROTE, begin, end)
        pairs = enumerate(zip(tokens, marks, strict=True), begin)
        return [index for index, (token, mark) in pairs if abs(mark) != token]

    def _column(self, field: int, begin: int, end: int) -> list[int]:
        """This word of all records from `begin` and before `end`, at a tenth of the cost of one by one."""
        return self._words[self._at(begin, field) : self._at(end, field) : RECORD_BYTES // WORD].tolist()

    def _is_written(self, index: int) -> bool:
        return abs(self._mark(index)) == self._words[self._at(index, Field.TOKEN)]

    def _mark(self, index: int) -> int:
        return self._words[self._at(index, Field.SUPERVISOR_WROTE)]

    def _claim(self, index: int, *, has_started: bool) -> BoardClaim:
        fields = RECORD.unpack_from(self._bytes, HEADER_BYTES + index * RECORD_BYTES)
        return BoardClaim(
            place=index,
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
            fields[14].decode(errors="replace"),
            fields[Field.TOKEN],
            fields[15][: fields[Field.TYPE_LENGTH]].decode(errors="replace"),
            OUTCOME_STATUSES[fields[Field.STATUS] % len(OUTCOME_STATUSES)],
            fields[Field.ATTEMPT],
            fields[Field.STARTED_AT] / NANO,
            fields[Field.ENDED_AT] / NANO,
            None if error_length < 0 else self._text(offset, error_length),
            None if result_length < 0 else self._text(offset + max(error_length, 0), result_length),
            fields[Field.DELAY] / NANO,
        )

    def _text(self, offset: int, length: int) -> str | None:
        if offset < 0 or not 0 <= length <= ARENA_BYTES - offset:
            return None
        return bytes(self._bytes[self._arena + offset : self._arena + offset + length]).decode(errors="replace")
