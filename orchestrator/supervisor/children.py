"""The table of children: which seat has whom, in which phase. No system call in it, so it is tested without a fork."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from enum import Enum

from orchestrator.supervisor.restarts import Backoff

SETTLED_SECONDS = 10.0
"""A child that lives so long after failures of its seat is no part of a crash loop."""

MOST_FORKING = 50
"""So many births are on their way at once: the forkserver's socket holds no more than a few hundred requests."""


class Phase(Enum):
    """A seat's phases, in the order of a child's life."""

    VACANT = "vacant"  # nobody; to be forked once its backoff is over
    FORKING = "forking"  # requested; it has not said hello
    BOOTING = "booting"  # known and told to go; start hooks run
    LIVE = "live"
    DOOMED = "doomed"  # SIGKILL sent; to be reaped


class Doom(Enum):
    """Why we killed a child. The value labels `worker_child_restarts_total`."""

    TIMEOUT = "timeout"  # its task overran timeout and grace: the task pays
    MEMORY = "memory"  # its task overran TASK_MEMORY_LIMIT: the task pays
    BOOT = "boot"  # it did not become ready in time
    DRAIN = "drain"  # the drain's time is up, or a stop was asked for: the task is requeued and pays nothing
    STUCK = "stuck"  # it did not move although no task of its ran: stopped, or hung on its way out


@dataclass(slots=True)
class Seat:
    """One slot and who sits there. Its child is known by pid while unreaped: the kernel cannot reuse that pid."""

    number: int
    phase: Phase = Phase.VACANT
    since: float = 0.0
    incarnation: int = 0
    generation: int = 0
    pid: int | None = None
    doom: Doom | None = None
    backoff: Backoff = field(default_factory=Backoff)
    is_retiring: bool = False  # its child was told to leave
    is_surplus: bool = False  # the seat goes with its child
    has_been_live: bool = False


class Children:
    """All seats of the pool."""

    def __init__(self, size: int) -> None:
        self._seats: dict[int, Seat] = {number: Seat(number) for number in range(size)}
        self._incarnations = 0

    def __iter__(self) -> Iterator[Seat]:
        return iter(list(self._seats.values()))

    def __getitem__(self, number: int) -> Seat:
        return self._seats[number]

    def get(self, number: int) -> Seat | None:
        return self._seats.get(number)

    @property
    def capacity(self) -> int:
        """Seats that stay."""
        return sum(1 for seat in self._seats.values() if not seat.is_surplus)

    @property
    def have_been_live(self) -> bool:
        """Whether every seat has had its child: they may never be there together, if each leaves after a task."""
        return all(seat.has_been_live for seat in self._seats.values())

    def in_phase(self, *phases: Phase) -> list[Seat]:
        return [seat for seat in self._seats.values() if seat.phase in phases]

    def by_pid(self, pid: int) -> Seat | None:
        return next((seat for seat in self._seats.values() if seat.pid == pid), None)

    def grow(self) -> Seat:
        """One seat more: the one that was about to go, else the lowest free number."""
        for seat in self._seats.values():
            if seat.is_surplus:
                seat.is_surplus = False
                return seat
        number = next(n for n in range(len(self._seats) + 1) if n not in self._seats)
        self._seats[number] = Seat(number)
        return self._seats[number]

    def shrink(self) -> Seat | None:
        """The highest seat becomes surplus, but never the last one. A vacant one is gone at once."""
        staying = [seat for seat in self._seats.values() if not seat.is_surplus]
        if len(staying) <= 1:
            return None
        seat = max(staying, key=lambda each: each.number)
        seat.is_surplus = True
        if seat.phase is Phase.VACANT:
            del self._seats[seat.number]
        return seat

    def due(self, now: float) -> list[Seat]:
        """Seats to fork for, as many as may be on their way at once."""
        due = [s for s in self._seats.values() if s.phase is Phase.VACANT and s.backoff.is_due(now)]
        return due[: self._room()]

    def next_due(self) -> float | None:
        """When the next vacant seat's backoff is over. None: there is none, or births have to be waited for first."""
        if not self._room():
            return None
        return min((s.backoff.not_before for s in self._seats.values() if s.phase is Phase.VACANT), default=None)

    def _room(self) -> int:
        return max(0, MOST_FORKING - len(self.in_phase(Phase.FORKING)))

    def fork_requested(self, seat: Seat, generation: int, now: float) -> int:
        """The seat's next child is on its way; returns its incarnation, unique in this worker's life."""
        self._require(seat, Phase.VACANT)
        self._incarnations += 1
        seat.incarnation, seat.generation = self._incarnations, generation
        self._enter(seat, Phase.FORKING, now)
        return seat.incarnation

    def said_hello(self, seat: Seat, pid: int, now: float) -> None:
        self._require(seat, Phase.FORKING)
        seat.pid = pid
        self._enter(seat, Phase.BOOTING, now)

    def became_ready(self, seat: Seat, now: float) -> None:
        self._require(seat, Phase.BOOTING)
        seat.has_been_live = True
        self._enter(seat, Phase.LIVE, now)

    def doomed(self, seat: Seat, doom: Doom, now: float) -> None:
        self._require(seat, Phase.BOOTING, Phase.LIVE)
        seat.doom = doom
        self._enter(seat, Phase.DOOMED, now)

    def ended(self, seat: Seat, now: float, *, is_fault: bool, has_finished_tasks: bool) -> None:
        """Its child is reaped, or was never born. `is_fault`: it died before it was ready or while idle."""
        seat.pid = None
        seat.doom = None
        seat.is_retiring = False
        if has_finished_tasks:
            seat.backoff.succeeded()
        if is_fault:
            seat.backoff.failed(now)
        self._enter(seat, Phase.VACANT, now)
        if seat.is_surplus:
            del self._seats[seat.number]

    def worked(self, seat: Seat) -> None:
        """Its child has finished a task: whatever those before it died of, the seat is no part of a crash loop."""
        seat.backoff.succeeded()

    def forget_failures(self) -> None:
        """The code is new, or the worker registered anew: how children fared before says nothing about it."""
        for seat in self._seats.values():
            seat.backoff.succeeded()

    def backing_off(self, now: float, *, is_app_lost: bool = False) -> int:
        """Seats whose children keep dying: two failures or more, and since then none has finished a task or lived for
        SETTLED_SECONDS. Those that are vacant too, if nobody can be forked for them."""
        lost = (Phase.VACANT,) if is_app_lost else ()
        return sum(1 for seat in self._seats.values() if self._backs_off(seat, now) or seat.phase in lost)

    def settled(self, now: float, unconnected: Collection[int] = ()) -> int:
        """Seats with a live child, of those that do not back off and are not `unconnected`."""
        live = self.in_phase(Phase.LIVE)
        return sum(1 for seat in live if seat.number not in unconnected and not self._backs_off(seat, now))

    def is_failing(self, generation: int, now: float) -> bool:
        """Whether a child of this generation failed, and since then none in its seat has finished a task or lived for
        SETTLED_SECONDS."""
        return any(
            seat.generation == generation and seat.backoff.failures > 0 and not self._has_settled(seat, now)
            for seat in self._seats.values()
        )

    def _backs_off(self, seat: Seat, now: float) -> bool:
        return seat.backoff.failures > 1 and not self._has_settled(seat, now)

    @staticmethod
    def _has_settled(seat: Seat, now: float) -> bool:
        return seat.phase is Phase.LIVE and now - seat.since > SETTLED_SECONDS

    @staticmethod
    def _enter(seat: Seat, phase: Phase, now: float) -> None:
        seat.phase = phase
        seat.since = now

    @staticmethod
    def _require(seat: Seat, *phases: Phase) -> None:
        if seat.phase not in phases:
            raise AssertionError(
                f"BUG: seat {seat.number} is {seat.phase.value}, not {[each.value for each in phases]}"
            )
