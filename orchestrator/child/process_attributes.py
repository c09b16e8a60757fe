"""What the kernel keeps of a process and a handler may have changed: put back where it can be, else told in words.

Runs in a child, where child/sanity.py inspects: a system call for each of them, about 6 us together, and 5 more where
the process has rights to change what it sees of the file system. What takes rights that it has not is not looked at.
"""

import os
import resource
import signal

_LIMITS = {
    resource.RLIMIT_AS: "RLIMIT_AS",
    resource.RLIMIT_DATA: "RLIMIT_DATA",
    resource.RLIMIT_STACK: "RLIMIT_STACK",
    resource.RLIMIT_CPU: "RLIMIT_CPU",
    resource.RLIMIT_NOFILE: "RLIMIT_NOFILE",
    resource.RLIMIT_FSIZE: "RLIMIT_FSIZE",
    resource.RLIMIT_NPROC: "RLIMIT_NPROC",
}
"""Those that make tasks fail. At half a microsecond each, the others are not looked at."""

_TIMERS = (signal.ITIMER_PROF, signal.ITIMER_VIRTUAL)


class ProcessAttributes:
    """Limits, timers, user, root directory and scheduling of a healthy child, and the way back to them."""

    def __init__(self) -> None:
        self._limits = list(map(resource.getrlimit, _LIMITS))
        # one that a start hook has started is a profiler's
        self._timers = [int(each) for each in _TIMERS if not any(signal.getitimer(each))]
        may_change_more = _has_capabilities() or len({*os.getresuid()}) > 1 or len({*os.getresgid()}) > 1
        self._user = _user() if may_change_more else None
        self._view = _view() if may_change_more else None
        self._nice = os.getpriority(os.PRIO_PROCESS, 0)
        self._processors = os.sched_getaffinity(0)

    def restore(self) -> list[str]:
        """Put back what can be put back; the rest is returned in words, which name what was changed."""
        for timer in self._timers:
            signal.setitimer(timer, 0)
        wrong = []
        if list(map(resource.getrlimit, _LIMITS)) != self._limits:
            wrong += self._restore_limits()
        if self._user is not None and _user() != self._user:
            # going back would not bring back the signal for its parent's death, which the kernel dropped on the way
            wrong.append("the user, group or supplementary groups were changed")
        if os.getpriority(os.PRIO_PROCESS, 0) != self._nice:
            wrong += self._restore_nice()
        if os.sched_getaffinity(0) != self._processors:
            wrong += self._restore_processors()
        if self._view is not None and _view() != self._view:
            wrong.append("the root directory or mount namespace was changed")
        return wrong

    def _restore_limits(self) -> list[str]:
        """Soft limits go up to the hard ones. A hard one that was lowered stays so for all but root."""
        wrong = []
        for (limit, name), healthy in zip(_LIMITS.items(), self._limits, strict=True):
            if resource.getrlimit(limit) != healthy:
                try:
                    resource.setrlimit(limit, healthy)
                except (ValueError, OSError) as error:
                    wrong.append(f"the resource limit {name} was changed and cannot be put back: {error}")
        return wrong

    def _restore_nice(self) -> list[str]:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, self._nice)
        except OSError as error:
            return [f"the nice value was changed and cannot be put back: {error}"]
        return []

    def _restore_processors(self) -> list[str]:
        try:
            os.sched_setaffinity(0, self._processors)
        except OSError as error:
            return [f"the processor affinity was changed and cannot be put back: {error}"]
        # fewer than before, if it was the cgroup that lost some: no handler's doing, and not to be tried each time
        self._processors = os.sched_getaffinity(0)
        return []


def _user() -> tuple[tuple[int, int, int], tuple[int, int, int], list[int]]:
    return os.getresuid(), os.getresgid(), os.getgroups()


def _view() -> tuple[int, int, str] | None:
    """Which root directory and mount namespace this process has. None: there is no /proc, now or ever."""
    try:
        root = os.stat("/")
        return root.st_dev, root.st_ino, os.readlink("/proc/self/ns/mnt")
    except OSError:
        return None


def _has_capabilities() -> bool:
    """Whether the process may do more than an ordinary user's. Where that cannot be told: yes."""
    try:
        with open("/proc/self/status") as status:
            permitted = next(line.split()[1] for line in status if line.startswith("CapPrm:"))
    except (OSError, StopIteration):
        return True
    return int(permitted, 16) != 0
