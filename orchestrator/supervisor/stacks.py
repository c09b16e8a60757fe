"""Ask a child for its Python stacks, without waiting for it: it may be hung in C, stopped, or block every signal."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.board.kernel import wait_channel
from orchestrator.board.reactions import HUNG_STACK_SIGNAL, STACK_SIGNAL

ASK_AGAIN_SECONDS = 0.25
"""A child that has not answered after this is in C, and is asked in the way that reaches it there."""

ANSWER_SECONDS = 0.6
QUIET_SECONDS = 0.03
LONGEST_BYTES = 12 << 10

_FATAL = "Fatal Python error"
_PACKAGE = Path(__file__).parents[1]
_OURS = f'  File "{_PACKAGE}{os.sep}'
_OUR_CALL = f'  File "{_PACKAGE / "child" / "execution.py"}"'
_EXAMPLES = f'  File "{_PACKAGE / "examples.py"}"'


def last_words(stacks: int) -> str:
    """What a child that crashed in C wrote in its last moment (faulthandler), or nothing."""
    text = os.pread(stacks, LONGEST_BYTES * 4, 0).decode(errors="replace")
    begin = text.rfind(_FATAL)
    return text[begin:][:LONGEST_BYTES].rstrip() if begin >= 0 else ""


def of_the_task(stacks: str) -> str:
    """Without the calls by which we came to a handler, and by which we answered: they are the same for every task."""
    if _OUR_CALL not in stacks:
        return stacks
    lines = stacks.split("\n")
    return "\n".join(line for line in lines if not line.startswith(_OURS) or line.startswith(_EXAMPLES))


@dataclass(slots=True)
class Inquiry:
    """One question to one child; `poll` until it has a text."""

    pid: int
    stacks: int  # the memfd that child writes to; nobody else does
    asked_at: float
    size: int = 0
    grown_at: float = 0.0
    was_asked_again: bool = False

    @staticmethod
    def ask(pid: int, stacks: int) -> "Inquiry":
        with contextlib.suppress(OSError):
            os.ftruncate(stacks, 0)
            os.lseek(stacks, 0, os.SEEK_SET)  # the child shares this file position
            os.kill(pid, STACK_SIGNAL)
        return Inquiry(pid, stacks, time.monotonic())

    def poll(self, now: float) -> str | None:
        """The stacks, or a line that says there was no answer; None: ask again soon."""
        size = os.fstat(self.stacks).st_size
        if size != self.size:
            self.size, self.grown_at = size, now
        if self.size == 0 and not self.was_asked_again and now - self.asked_at >= ASK_AGAIN_SECONDS:
            self.was_asked_again = True
            with contextlib.suppress(OSError):
                os.kill(self.pid, HUNG_STACK_SIGNAL)
        is_complete = self.size > 0 and now - self.grown_at >= QUIET_SECONDS
        if not is_complete and now - self.asked_at < ANSWER_SECONDS:
            return None
        if self.size == 0:
            return f"no Python stack: the child did not answer ({wait_channel(self.pid)})"
        return os.pread(self.stacks, LONGEST_BYTES, 0).decode(errors="replace").rstrip()
