"""The supervisor's end of one child: its board, permissions, channel, and the file its stacks come in."""

import contextlib
import os
import signal
import threading
import time

from orchestrator.board.birth import ForkRequest
from orchestrator.board.channel import LOOK, Channel, Permits
from orchestrator.board.layout import ChildOrder, SlotState, Word
from orchestrator.board.memory import NANO, create_memory
from orchestrator.board.supervisor_half import BoardClaim, SupervisorBoard

STUCK_SECONDS = 60.0

STUCK_CONNECTING_SECONDS = 300.0
"""To look a name up may take the system's resolver a minute, and a DATABASE_URL may name several hosts."""


class Link:
    """Made before the fork is asked for, closed after the child was reaped. OSError: no descriptors or no memory."""

    def __init__(self, request: ForkRequest, capacity: int, app: str = "") -> None:
        """`app`: the marker of the forkserver that is asked."""
        self.request = request
        self.app = app
        self.woken_at: float | None = None  # told to look, and not heard of since
        self.unconnected_since: float | None = None  # since when it has tried to connect, as the watch has seen
        self.is_cut = False  # it closed its end of the channel
        self._lock = threading.Lock()  # the pulse thread wakes children too (mailbox.Sleeper)
        self._is_closed = False
        with contextlib.ExitStack() as undo:
            self._memory = create_memory(f"orchestrator {request.marker}"[:200], capacity)
            undo.callback(os.close, self._memory)
            self.stacks = os.memfd_create("stacks", os.MFD_CLOEXEC)
            undo.callback(os.close, self.stacks)
            self.board = SupervisorBoard(self._memory)
            undo.callback(self.board.close)
            self.permits = Permits.create()
            undo.callback(self.permits.close)
            self.channel, self._childs_end = Channel.pair()
            undo.pop_all()  # nothing failed: they are the link's now

    def descriptors(self) -> list[int]:
        """What the child gets, in the order of board.birth."""
        return [self._memory, self.permits.descriptor, self._childs_end.fileno(), self.stacks]

    def sent(self) -> None:
        """The descriptors are on their way: ours of the child's end would keep its EOF from us."""
        self._childs_end.close()
        os.close(self._memory)
        self._memory = -1

    def order(self, order: ChildOrder) -> None:
        """Say what we want; the child looks between tasks, and at once if it sleeps."""
        with self._lock:
            self.board.give(order)
            self._tell_to_look()

    @property
    def is_asleep(self) -> bool:
        """Whether the child sleeps, may claim, and was not told to look: two wakes of one child are one, though each
        may be for a task of its own."""
        board = self.board
        return board.state is SlotState.IDLE and self.woken_at is None and board.order is ChildOrder.WORK

    def wake(self) -> bool:
        """Whether the child is asleep and could be told to look. Any thread may call this at any time."""
        with self._lock:
            return not self._is_closed and self.is_asleep and self._tell_to_look()

    def _tell_to_look(self) -> bool:
        """Noted before it is sent: this may be the pulse thread, and the loop hear of the child before it returns."""
        self.woken_at = time.monotonic()
        if self.channel.send(LOOK):
            return True
        self.woken_at = None
        return False

    def stuck_in(self, now: float, *, since: float) -> SlotState | None:
        """The state in which the child has hung from `since` or later though it runs no task; None if it moves, or may
        rightly wait.

        Its own waits all have deadlines that are shorter. A stopped child would hold its claims for ever.
        """
        board, woken_at = self.board, self.woken_at
        state = board.state
        if state is SlotState.IDLE:
            if woken_at is None:
                return None
            moved_at = woken_at  # perhaps long ago: it is not forgotten before we hear that the child sleeps again
        elif board.word(Word.STARTED) > board.word(Word.ENDED):
            return None
        else:
            moved_at = board.last_end()
        # read last: the child writes since when before it writes what, and before it replaces its batch
        moved_at = max(moved_at, since, board.word(Word.STATE_SINCE) / NANO)
        limit = STUCK_CONNECTING_SECONDS if state is SlotState.CONNECTING else STUCK_SECONDS
        return state if now - moved_at > limit else None

    def take_back(self) -> tuple[BoardClaim, ...]:
        """All claims that the child has not started: from now on they are ours."""
        taken = self.permits.take_up_to(self.board.capacity)
        return self.board.hand_back(taken) if taken else ()

    def close(self) -> None:
        with self._lock:
            self._is_closed = True  # its descriptors will soon be another's
        self.board.close()
        self.permits.close()
        self.channel.close()
        self._childs_end.close()
        if self._memory >= 0:
            os.close(self._memory)
        os.close(self.stacks)


def kill_group(pid: int) -> None:
    """SIGKILL for an unreaped child and all that is in its process group."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)
