"""The only os.fork() of the project. Runs in the forkserver, which is single-threaded and has no connection.

A child is born in an order of which each other one was seen to fail: its middle process leaves, so that the kernel
hands it to the supervisor (a subreaper); it waits until the supervisor is its parent; only then it arms "die with my
parent" (armed earlier, the middle process's end would kill it) and looks once more; it says hello with its pid, and
runs nothing before the supervisor's go.
"""

import errno
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from orchestrator.board.birth import (
    BOARD,
    CHANNEL,
    MARKER_VARIABLE,
    PERMITS,
    STACKS,
    ChildContext,
    ChildSettings,
    ForkRequest,
)
from orchestrator.board.channel import GO, HELLO, Channel
from orchestrator.board.kernel import be_killed_first, die_with_parent, out_of_the_way
from orchestrator.board.reactions import block_all, turn_deaf, unblock_all
from orchestrator.board.roster import Roster
from orchestrator.exit_codes import ExitCode

ADOPTION_SECONDS = 10.0
ADOPTION_LOOK_SECONDS = 0.001
GO_SECONDS = 60.0

_NO_FORK = (errno.EAGAIN, errno.ENOMEM)
"""Why a fork fails; as the exit code of a middle process, it could not fork the child."""

ChildMain = Callable[[ChildContext], None]


def fork_child(
    request: ForkRequest,
    settings: ChildSettings,
    descriptors: list[int],
    *,
    supervisor_pid: int,
    roster: Roster,
    child_main: ChildMain,
    not_for_children: socket.socket,
    become: Callable[[str], None],
) -> None:
    """Fork one child by way of a middle process. Raises OSError if either cannot be forked.

    `descriptors` stay open here: the supervisor is to hear of a failure before it hears the end of the channel.
    """
    block_all()
    try:
        middle = os.fork()
        if middle == 0:
            _middle(
                lambda: _context(request, settings, descriptors, supervisor_pid, roster, become),
                child_main,
                not_for_children,
            )
    finally:
        unblock_all()
    _, status = os.waitpid(middle, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) in _NO_FORK:
        raise OSError(os.WEXITSTATUS(status), os.strerror(os.WEXITSTATUS(status)))


def _context(
    request: ForkRequest,
    settings: ChildSettings,
    descriptors: list[int],
    supervisor_pid: int,
    roster: Roster,
    become: Callable[[str], None],
) -> ChildContext:
    descriptors = [out_of_the_way(each) for each in descriptors]
    return ChildContext(
        request=request,
        settings=settings,
        supervisor_pid=supervisor_pid,
        board=descriptors[BOARD],
        permits=descriptors[PERMITS],
        channel=socket.socket(fileno=descriptors[CHANNEL]),
        stacks=descriptors[STACKS],
        roster=roster,
        become=become,
    )


def _middle(prepare: Callable[[], ChildContext], child_main: ChildMain, not_for_children: socket.socket) -> NoReturn:
    code = int(ExitCode.BUG)
    try:
        context = prepare()
        child = _forked()
        if child < 0:
            code = -child
        elif child != 0:
            code = 0
        else:
            not_for_children.close()
            if _is_born(context):
                child_main(context)
            code = 0
    except BaseException:  # noqa: BLE001 a border: the child ends here, whatever it was
        traceback.print_exc()
    finally:
        os._exit(code)  # never back into the forkserver's loop, and no atexit or destructor of its


def _forked() -> int:
    """As os.fork(); an errno of _NO_FORK, negative, if there are too many processes or no memory for one more."""
    try:
        return os.fork()
    except OSError as error:
        if error.errno not in _NO_FORK:
            raise
        return -error.errno


def _is_born(context: ChildContext) -> bool:
    """Whether this process is the supervisor's child, known to it, and told to go."""
    os.setsid()
    channel = Channel(context.channel)
    deadline = time.monotonic() + ADOPTION_SECONDS
    while os.getppid() != context.supervisor_pid:
        # the middle process is leaving, on which nobody can wait; or the supervisor died, which the channel tells
        if time.monotonic() > deadline or (channel.wait(ADOPTION_LOOK_SECONDS) and channel.receive() is None):
            return False
    die_with_parent()
    if os.getppid() != context.supervisor_pid:
        return False
    be_killed_first()
    turn_deaf()
    unblock_all()
    os.environ[MARKER_VARIABLE] = context.request.marker
    return channel.send(HELLO + b" %d" % os.getpid()) and _is_told_to_go(channel)


def _is_told_to_go(channel: Channel) -> bool:
    """Whether the supervisor's go came in time. A LOOK may come before it: an order to all, given meanwhile."""
    deadline = time.monotonic() + GO_SECONDS
    while channel.wait(deadline - time.monotonic()):
        messages = channel.receive()
        if messages is None:
            return False
        if GO in messages:
            return True
    return False
