"""Processes that a task, or an import of the app, started and left. Found by mark or session, killed by pidfd.

A subprocess carries the marker of its child or forkserver in its environment; a process that was forked without exec
has the child's board mapped, or what a forkserver has mapped while it imports. A pid alone is no identity: the mark is
looked at once a pidfd holds the process.

One kind is let be: multiprocessing's resource tracker. It ends by itself after those whom it serves, and has removed by
then what they left in shared memory; if it is killed, that stays there for ever.

All of it reads /proc, and raises OSError if no descriptor is left to do it with.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from orchestrator.board.birth import MARKER_VARIABLE
from orchestrator.board.kernel import parent_pid, stat_fields

LOOKS_FOR_THE_GONE = 5
"""No more, since what living tasks start comes and goes as well."""

LOOKS_AT_AN_EXEC = 500
"""A millisecond apart; an exec is over sooner."""

LONG_SECONDS = 1.0
"""A search that takes longer is held up by whom it looks at: memory that is being forked cannot be read meanwhile, and
hundreds that fork without end come to the end of a fork only when it is their turn."""

DESCRIPTORS = 3
"""To look with: a pidfd, a file, and one that another thread may take meanwhile."""

_TRACKER = b"multiprocessing.resource_tracker"

_MARK = MARKER_VARIABLE.encode() + b"="
_GONE = (b"Z", b"X")
_STOPPED = (b"T", b"t")
_SESSION = 3
_BEGAN = 19
_MEMORY = 20
_ENVIRONMENT = slice(47, 49)
"""Places among the fields: of the session, of the time when it began, of vsize, and of env_start and env_end."""
_IN_EXEC = [b"0", b"0"]


Matches = Callable[[int], bool | None]
"""Whether the process with this pid is to be killed. None: that cannot be told yet."""


def kill_left_by(pid: int, marker: str, *, living: Collection[int] = ()) -> int:
    """Kill all that the process left which was named by `marker` and led a session of its own; returns how many.

    It has ended, and is not reaped yet: so nobody else's session can have its pid. `living`: other children and
    forkservers of this process. What is theirs, or below them, is not looked at: to ask a hundred children took longer
    than all else that the end of one asks for.
    """
    with _standing_still(pid):
        return _kill_below_us(living, _left_by(pid, marker), gone={pid})


def kill_marked(marker: str, *, living: Collection[int] = ()) -> int:
    """Kill all that the child named by `marker` left; returns how many. Its own process must have been reaped.

    Only what stands below this process is looked at: as it adopts orphans, a leftover does, and a look at every
    process of a busy machine takes a tenth of a second. `living` as for kill_left_by().
    """
    return _kill_below_us(living, _by_marker(lambda found: found == marker))


def kill_unowned(alive: Collection[str], *, living: Collection[int] = ()) -> int:
    """Kill what children and forkservers of this process left whose marker is not `alive`; returns how many. `living`
    as for kill_left_by()."""
    me = str(os.getpid())
    matches = _by_marker(lambda found: _supervisor_of(found) == me and found not in alive)
    return _kill_below_us(living, matches)


def kill_orphans_of(pid: int, marker: str) -> int:
    """As kill_left_by(), for a process that adopts no orphans."""
    with _standing_still(pid):
        return _kill(_in_our_namespace, _left_by(pid, marker), gone={pid})


@contextlib.contextmanager
def _standing_still(group: int) -> Iterator[None]:
    """Nobody of this process group runs meanwhile, and whoever is let be goes on afterwards.

    The kernel stops all of them at once. One by one they would fork faster than they are found, and hundreds that do so
    would leave us hardly any of the processor to find them with.
    """
    _signal_group(group, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal_group(group, signal.SIGCONT)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def kill_of_dead_workers(own_worker_id: str) -> int:
    """Kill what workers left whose supervisor is gone (kill -9 leaves their tasks' subprocesses to init).

    What runs in a PID namespace below ours is a container's: the pid in its marker means another process there.
    """

    def is_orphaned(marker: str) -> bool:
        pid = _supervisor_of(marker)
        return marker.partition("/")[0] != own_worker_id and pid.isdigit() and not os.path.exists(f"/proc/{pid}")

    return _kill(_in_our_namespace, _by_marker(is_orphaned))


def _supervisor_of(marker: str) -> str:
    """The pid in a marker, which begins with the worker's id; "": there is none."""
    _, pid, _ = ("--" + marker.partition("/")[0]).rsplit("-", 2)
    return pid


def _left_by(leader: int, marker: str) -> Matches:
    session = str(leader).encode()
    carries = _by_marker(lambda found: found == marker)
    return lambda pid: stat_fields(pid)[_SESSION : _SESSION + 1] == [session] or carries(pid)


def _by_marker(is_meant: Callable[[str], bool]) -> Matches:
    def matches(pid: int) -> bool | None:
        found = _marker(pid)
        return None if found is None else is_meant(found)

    return matches


def _kill_below_us(living: Collection[int], matches: Matches, *, gone: Collection[int] = ()) -> int:
    """As _kill(). If that takes long, all that may be meant stand still, and those that are let be go on afterwards."""
    descendants = _descendants_but(living)
    stopped: dict[int, bytes] = {}
    late = time.monotonic() + LONG_SECONDS
    is_first = True

    def candidates() -> list[int]:
        found = list(descendants())
        if time.monotonic() > late:
            _stop(found, stopped)
        return found

    def matches_in_time(pid: int) -> bool | None:
        nonlocal is_first
        if is_first and time.monotonic() > late:
            is_first = False
            _stop(descendants(), stopped)
        return matches(pid)

    try:
        return _kill(candidates, matches_in_time, gone=gone)
    finally:
        for pid, began in stopped.items():
            if stat_fields(pid)[_BEGAN : _BEGAN + 1] in ([began], []):  # nothing: no descriptor was free
                _signal(pid, signal.SIGCONT)


def _stop(pids: Iterable[int], stopped: dict[int, bytes]) -> None:
    """Those that run; `stopped` takes down which, and when each began."""
    for pid in pids:
        fields = stat_fields(pid)
        if pid not in stopped and fields and fields[0] not in (*_GONE, *_STOPPED):
            stopped[pid] = fields[_BEGAN]
            _signal(pid, signal.SIGSTOP)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _kill(candidates: Callable[[], Iterable[int]], matches: Matches, *, gone: Collection[int] = ()) -> int:
    """What is being killed may have forked meanwhile, and so may what ended of itself after the list was made: look
    until nothing new is there, and some times more if somebody is gone, save those of whom that is known."""
    _require_descriptors()
    killed: set[int] = set()
    gone = set(gone)
    looks_left, execs_left = LOOKS_FOR_THE_GONE, LOOKS_AT_AN_EXEC
    while True:
        found = {pid for pid in candidates() if pid not in killed}
        is_killed = {pid: _kill_if(pid, matches) for pid in found}
        while execs_left and (unclear := [pid for pid in found if is_killed[pid] is None]):
            execs_left -= 1
            select.select([], [], [], 0.001)  # time.sleep fails under libfaketime, always
            is_killed |= {pid: _kill_if(pid, matches) for pid in unclear}
        new = {pid for pid in found if is_killed[pid]}
        newly_gone = {pid for pid in found - new - gone if _is_zombie(pid)}
        killed |= new
        gone |= newly_gone
        if new:
            continue
        looks_left -= 1
        if not newly_gone or not looks_left:
            return len(killed)


def _require_descriptors() -> None:
    """OSError: there are too few. What cannot be opened for want of them looks as if it were nobody's."""
    held: list[int] = []
    try:
        while len(held) < DESCRIPTORS:
            held.append(os.open("/proc", os.O_PATH | os.O_CLOEXEC))
    finally:
        for each in held:
            os.close(each)


def _kill_if(pid: int, matches: Matches) -> bool | None:
    """Whether it was killed. None: that cannot be told yet."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        is_meant = matches(pid)  # if that is another process by now, the one that is held is gone and hears nothing
        if not is_meant:
            return is_meant
        if _is_zombie(pid) or _is_tracker(pid):
            return False
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return True
        return False
    finally:
        os.close(descriptor)


def _is_tracker(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as cmdline:
            return _TRACKER in cmdline.read()
    except OSError:
        return False


def _descendants_but(living: Collection[int]) -> Callable[[], Iterator[int]]:
    """All of this process but these and what is below them, which is theirs."""

    def descendants() -> Iterator[int]:
        offspring: dict[int | None, list[int]] = {}
        for pid in _pids():
            if pid not in living:
                offspring.setdefault(parent_pid(pid), []).append(pid)
        generation = [os.getpid()]
        while generation:  # popped: what was read of pids that change meanwhile may be a circle
            generation = [pid for parent in generation for pid in offspring.pop(parent, ())]
            yield from generation

    return descendants


def _in_our_namespace() -> Iterator[int]:
    ours = os.readlink("/proc/self/ns/pid")
    for pid in _pids():
        with contextlib.suppress(OSError):  # gone, or another user's
            if os.readlink(f"/proc/{pid}/ns/pid") == ours:
                yield pid


def _pids() -> list[int]:
    """All processes but this one."""
    me = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != me]


def _marker(pid: int) -> str | None:
    """Empty: it has none, or is gone.

    None: it is, or just was, in the midst of an exec. Neither what it was nor what it will be can be seen there.
    """
    image = _image(pid)
    found = _shown_marker(pid)
    is_whole = image != _IN_EXEC and image == _image(pid)
    return found or ("" if is_whole else None)


def _shown_marker(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as environ:
        for entry in environ.read().split(b"\0"):
            if entry.startswith(_MARK):
                return entry[len(_MARK) :].decode(errors="replace")
    with contextlib.suppress(OSError), open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            _, found, name = line.rstrip().partition(b"/memfd:orchestrator ")
            if found:
                return name.removesuffix(b" (deleted)").decode(errors="replace")
    return ""


def _image(pid: int) -> list[bytes]:
    """Where its environment lies, which is elsewhere after each exec. []: it has none, or none that we may see."""
    fields = stat_fields(pid)
    has_memory = len(fields) > _MEMORY and fields[_MEMORY] != b"0"  # a zombie has none, nor has a thread of the kernel
    return fields[_ENVIRONMENT] if has_memory and _may_see(pid) else []


def _may_see(pid: int) -> bool:
    """Whether the kernel shows us more of it than zeroes: a container's root may not see another user's, though
    os.access() says yes to it."""
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    return True


def _is_zombie(pid: int) -> bool:
    """Or gone altogether."""
    fields = stat_fields(pid)
    return not fields or fields[0] in _GONE
