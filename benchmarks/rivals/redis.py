"""A Redis of our own, for the rival that keeps its tasks there: with its default settings, on a unix socket."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

START_SECONDS = 10.0


def find() -> str | None:
    """The server's program. Debian's package redis-tools has it too, by the name of a tool that is the same file."""
    return shutil.which("redis-server") or shutil.which("redis-check-rdb")


def install() -> None:
    """Asks Debian for the package that has the program and starts no service; for root only."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "redis-tools"]):
        subprocess.run(["apt-get", "-qq", *command], env=environ, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def redis() -> Iterator[str]:
    """Its URL; at the end it is gone, with all that was in it."""
    program = find()
    assert program is not None
    with TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        socket = Path(folder) / "socket"
        # what it is called decides what it is
        command = ["redis-server", "--port", "0", "--unixsocket", str(socket), "--dir", folder]
        process = subprocess.Popen(command, executable=program, stdout=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not socket.exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("redis-server does not start")
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()
