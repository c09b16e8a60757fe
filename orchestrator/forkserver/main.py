"""The forkserver's life: be told, import the app, tell its types, then fork one child for each request.

It must never start a thread, open a connection, or outlive its supervisor.
"""

import gc
import io
import os
import select
import socket
import sys
import traceback
from importlib import import_module
from typing import NoReturn

from setproctitle import setproctitle

from orchestrator.app import App
from orchestrator.app_loading import EXAMPLES, NO_TASKS
from orchestrator.board.birth import (
    MESSAGE_BYTES,
    TYPES_PER_MESSAGE,
    ForkRequest,
    ForkserverOrders,
    decode,
    encode,
    told_orders,
)
from orchestrator.board.kernel import be_killed_first, die_with_parent, file_identity, why_not_started
from orchestrator.board.reactions import let_forks_be_terminated, turn_deaf
from orchestrator.board.roster import Roster
from orchestrator.errors import AppError, AppLoadError
from orchestrator.exit_codes import ExitCode
from orchestrator.forkserver.fork import ChildMain, fork_child
from orchestrator.forkserver.importing import import_app
from orchestrator.forkserver.safety import CURE, inspect, mend
from orchestrator.telemetry import logs, multiprocess


class Identity:
    """Whose metrics files this process writes: the forkserver's, or after the fork those of the child's slot."""

    def __init__(self) -> None:
        self.name = "forkserver"

    def become(self, name: str) -> None:
        self.name = name


def main(descriptor: int) -> NoReturn:
    """Serve the supervisor at the other end of `descriptor` until it is gone."""
    code = int(ExitCode.BUG)
    identity = file_identity(descriptor)
    try:
        code = _serve(socket.socket(fileno=descriptor))
    except BaseException:  # noqa: BLE001 a border: the process ends here, whatever it was
        if file_identity(descriptor) == identity:
            traceback.print_exc()
        else:
            found = (
                "the app closed or replaced descriptors that are not its own (os.closerange?): it must not at import"
            )
            logs.get("forkserver").error("app_not_loaded", reason=found)
            code = int(ExitCode.APP)
    finally:
        os._exit(code)


def _serve(supervisor: socket.socket) -> int:
    turn_deaf()
    let_forks_be_terminated()
    die_with_parent()
    _show_prints_at_once()
    be_killed_first()
    message = supervisor.recv(MESSAGE_BYTES)
    if not message:  # it was killed before it could send any
        return 0
    kind, facts = decode(message)
    if kind != "orders":
        raise AssertionError(f"BUG: the first message was {kind!r}")
    orders = told_orders(facts)
    if os.getppid() != orders.supervisor_pid:
        return 0
    setproctitle("orchestratord: forkserver")
    logs.configure(debug=orders.child.debug, format=orders.child.log_format, process="forkserver")
    logs.hide_password_of(orders.child.database_url)
    identity = Identity()
    multiprocess.use_files(orders.metrics_path, lambda: identity.name)
    child_main = _child_main(orders.child_main)
    app = _import_app(orders, supervisor)
    if app is None:
        return int(ExitCode.APP)
    turn_deaf()  # the app may have set handlers of its own at import
    gc.collect()
    gc.freeze()  # what the app loaded stays shared: the collector would write to each of its pages
    _tell_types(supervisor, app)
    _fork_on_request(supervisor, orders, child_main, identity)
    return 0


def _show_prints_at_once() -> None:
    """What the app and its handlers print goes out line by line, into a pipe or a file too.

    A child leaves by os._exit, or is killed: what Python had kept back would never be seen.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def _child_main(name: str) -> ChildMain:
    module, _, attribute = name.partition(":")
    main: ChildMain = getattr(import_module(module), attribute)
    return main


def _import_app(orders: ForkserverOrders, supervisor: socket.socket) -> App | None:
    """The app, after the supervisor was told what is doubtful about it; or None: it was told why there is none."""
    try:
        app = import_app(orders)
    except AppError as error:
        supervisor.send(encode("refused", reason=str(error)[: MESSAGE_BYTES // 8]))
        return None
    if (reason := _why_useless(app)) is not None:
        refusal = AppLoadError(orders.app or EXAMPLES, reason)
        supervisor.send(encode("refused", reason=str(refusal)))
        return None
    mended = mend()
    findings = inspect(frozenset({supervisor.fileno()}))
    if findings.unsafe and not orders.may_have_threads:
        reason = f"importing {orders.app} left what forking breaks: {'; '.join(findings.unsafe)}. Cure: {CURE}"
        supervisor.send(encode("refused", reason=reason[: MESSAGE_BYTES // 8]))
        return None
    for doubt in (*mended, *findings.doubtful, *(f"{danger}: {CURE}" for danger in findings.unsafe)):
        supervisor.send(encode("doubtful", found=doubt[: MESSAGE_BYTES // 8]))
    return app


def _why_useless(app: App) -> str | None:
    if not app.types():
        return NO_TASKS
    if not hasattr(select, "poll"):
        return (
            "no child could wait, for select.poll is gone: eventlet's monkey_patch() takes it away, and its loop"
            " does not survive a fork. Call that in the web process only"
        )
    return None


def _tell_types(supervisor: socket.socket, app: App) -> None:
    types = [
        {
            "name": each.name,
            "max_retries": each.max_retries,
            "timeout_seconds": each.timeout_seconds,
            "retry_base_seconds": each.retry_base_seconds,
            "retry_cap_seconds": each.retry_cap_seconds,
        }
        for each in app.types()
    ]
    for begin in range(0, len(types), TYPES_PER_MESSAGE):
        supervisor.send(encode("types", types=types[begin : begin + TYPES_PER_MESSAGE]))
    for periodic in app.periodic_tasks:
        supervisor.send(encode("periodic", periodic))
    supervisor.send(encode("ready"))


def _fork_on_request(
    supervisor: socket.socket, orders: ForkserverOrders, child_main: ChildMain, identity: Identity
) -> None:
    """Fork until the supervisor closes its end."""
    roster = Roster(orders.child.pool_size)
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    while True:
        poll.poll()
        try:
            message, descriptors, _, _ = socket.recv_fds(supervisor, MESSAGE_BYTES, 8)
        except ConnectionResetError:  # it left something unread
            return
        if not message:
            return
        for descriptor in descriptors:  # recv_fds ignores its flags (seen in 3.11): CLOEXEC has to be set here
            os.set_inheritable(descriptor, False)
        _, facts = decode(message)
        request = ForkRequest(**facts)
        try:
            fork_child(
                request,
                orders.child,
                list(descriptors),
                supervisor_pid=orders.supervisor_pid,
                roster=roster,
                child_main=child_main,
                not_for_children=supervisor,
                become=identity.become,
            )
        except OSError as error:
            reason = why_not_started(error)
            supervisor.send(encode("not_forked", slot=request.slot, incarnation=request.incarnation, reason=reason))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
