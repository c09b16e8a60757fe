"""Find the processes of a private server again, whoever started them, and end them.

They are known by their cluster_name, which PostgreSQL shows in the command line of each of its processes: that can be
read by everybody, also in a container where root may not look into other users' processes.
"""

import os
import select
import signal
import time
from pathlib import Path

from orchestrator.errors import PrivatePostgresError

_STOPS = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))


def stop_servers(cluster_name: str) -> None:
    """End what still runs of that server, gently first. Only its first process is told; the others follow it."""
    for number, seconds in _STOPS:
        if not _processes(cluster_name):
            return
        for pid in _postmasters(cluster_name):
            _send(pid, number)
        if _wait_until_gone(cluster_name, seconds):
            return
    kill_servers(cluster_name)


def kill_servers(cluster_name: str) -> None:
    """SIGKILL to all of its processes, and wait until they are gone."""
    for pid in _processes(cluster_name):
        _send(pid, signal.SIGKILL)
    if not _wait_until_gone(cluster_name, 10.0):
        raise PrivatePostgresError(f"processes of an earlier PostgreSQL do not end: {_processes(cluster_name)}")


def _processes(cluster_name: str) -> list[int]:
    title = f"postgres: {cluster_name}: ".encode()
    return _postmasters(cluster_name) + [pid for pid, line in _command_lines() if line.startswith(title)]


def _postmasters(cluster_name: str) -> list[int]:
    setting = f"\0cluster_name={cluster_name}\0".encode()
    return [pid for pid, line in _command_lines() if setting in line and b"/postgres\0" in line[: line.find(b"\0") + 1]]


def _command_lines() -> list[tuple[int, bytes]]:
    """Of all processes; a zombie has none, so what is dead and not reaped counts as gone."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                found.append((int(entry), Path("/proc", entry, "cmdline").read_bytes()))
            except OSError:
                continue  # it ended meanwhile
    return found


def _wait_until_gone(cluster_name: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while processes := _processes(cluster_name):
        if time.monotonic() > deadline:
            return False
        _wait_for_end(processes[0], 0.1)
    return True


def _wait_for_end(pid: int, seconds: float) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        select.select([process], [], [], seconds)
    finally:
        os.close(process)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
