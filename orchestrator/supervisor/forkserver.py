"""The supervisor's handle of one forkserver: exec it, hear what the app is, ask it for children."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from orchestrator.board.birth import (
    MESSAGE_BYTES,
    ForkRequest,
    ForkserverOrders,
    app_marker,
    decode,
    encode,
    told_periodic,
    told_types,
)
from orchestrator.board.kernel import catches
from orchestrator.board.reactions import STACK_SIGNAL
from orchestrator.model import PeriodicTask, TaskType

_ENTRY = Path(__file__).resolve().parent.parent / "forkserver" / "__main__.py"
SERVICE_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
"""The service manager's words to the supervisor: no task shall speak to it in our name."""


class Stage(Enum):
    """How far a forkserver is."""

    IMPORTING = "importing"
    READY = "ready"
    REFUSED = "refused"  # the app cannot serve; `reason` says why
    DEAD = "dead"


class NotForked(NamedTuple):
    """A fork request that failed (no memory, no pids)."""

    slot: int
    incarnation: int
    reason: str


class Forkserver:
    """One forkserver process. Started with exec by the main thread: its PDEATHSIG fires when that thread ends.

    OSError if it cannot be started: no memory, no pids, or the interpreter is gone (an upgrade goes on).
    """

    def __init__(
        self, generation: int, orders: ForkserverOrders, environment: Mapping[str, str], *, stdout: int | None = None
    ) -> None:
        """`stdout`: the descriptor for what the app prints; None: ours."""
        self.generation = generation
        self.stage = Stage.IMPORTING
        self.reason = ""
        self.types: tuple[TaskType, ...] = ()
        self.periodic: tuple[PeriodicTask, ...] = ()
        self.doubts: tuple[str, ...] = ()
        """What importing the app left that forking might break."""
        self.since = time.monotonic()
        self.ready_since: float | None = None
        self.called_slow_at = self.since
        self.silent_since: float | None = None  # when it closed its end: it is dead, or will soon be
        self.status: int | None = None  # its wait status, once it was reaped
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, str(_ENTRY), str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    env={name: value for name, value in environment.items() if name not in SERVICE_VARIABLES},
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        self.pid = self._process.pid
        self.marker = app_marker(orders.supervisor_pid, self.pid)
        self._socket = ours
        ours.setblocking(False)
        with contextlib.suppress(OSError):  # it has died already: its end will be heard
            ours.send(encode("orders", orders))

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> list[NotForked]:
        """Take what it says: `stage`, `types`, `periodic`, `doubts`, `reason` follow; returns the forks that failed."""
        failed: list[NotForked] = []
        while True:
            try:
                message = self._socket.recv(MESSAGE_BYTES)
            except BlockingIOError:
                return failed
            except ConnectionResetError:
                message = b""
            if not message:
                self.silent_since = self.silent_since or time.monotonic()
                if self.stage is not Stage.REFUSED:
                    self.stage = Stage.DEAD
                return failed
            kind, facts = decode(message)
            if kind == "types":
                self.types += told_types(facts)
            elif kind == "periodic":
                self.periodic += (told_periodic(facts),)
            elif kind == "doubtful":
                self.doubts += (facts["found"],)
            elif kind == "ready":
                self.stage, self.ready_since = Stage.READY, time.monotonic()
            elif kind == "refused":
                self.stage, self.reason = Stage.REFUSED, facts["reason"]
            elif kind == "not_forked":
                failed.append(NotForked(**facts))

    def request(self, request: ForkRequest, descriptors: list[int]) -> bool:
        """Ask for one child. False: it does not take requests now (it is dead or stopped, or the processes of this user
        have too many descriptors on their way to each other)."""
        try:
            socket.send_fds(self._socket, [encode("fork", request)], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def ask_for_stack(self) -> None:
        """While it imports it tells on standard error where it is, unless it has not even begun."""
        if catches(self.pid, STACK_SIGNAL):
            os.kill(self.pid, STACK_SIGNAL)

    def was_reaped(self, status: int) -> None:
        self.status = status
        self.stage = Stage.DEAD if self.stage is not Stage.REFUSED else self.stage
        self._process.returncode = os.waitstatus_to_exitcode(status)  # else Popen would wait for a stranger's pid

    @property
    def is_reaped(self) -> bool:
        return self._process.returncode is not None

    def kill(self) -> None:
        """End it now; children it has forked are not its own and go on."""
        if not self.is_reaped:
            os.kill(self.pid, signal.SIGKILL)  # Popen.send_signal would reap it, and its end would never be heard of

    def close(self) -> None:
        """Let go of it: it leaves when it reads the end of its socket."""
        self._socket.close()
