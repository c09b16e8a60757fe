"""The daemon under measurement: started on the server, told to claim, ended."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cpu import cpu_seconds
from benchmarks.server import Server

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 30.0
OURS, EXAMPLES = "benchmarks.app:app", None
"""Apps: the handlers that are measured, or what is served without `--app`."""


@dataclass(frozen=True)
class Worker:
    """A running one."""

    pid: int
    log: Path

    def cpu_seconds(self) -> float:
        return cpu_seconds(self.pid)

    def toggle_pause(self) -> None:
        """Claiming stops, or goes on; returns once it is so."""
        before = len(self._pauses())
        os.kill(self.pid, signal.SIGUSR2)
        _wait(lambda: len(self._pauses()) > before, self.log)

    def _pauses(self) -> list[str]:
        return re.findall(r"\b(claiming_paused|claiming_resumed)\b", self.log.read_text())


@contextmanager
def worker(server: Server, pool_size: int, *, app: str | None = OURS, **variables: str) -> Iterator[Worker]:
    """A daemon with the settings it has by default, that is ready."""
    with TemporaryDirectory(prefix="orchestrator-bench-") as folder:
        log = Path(folder) / "log"
        environ: Mapping[str, str] = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ},
            "DATABASE_URL": server.url,
            "METRICS_PORT": "0",
            "METRICS_HOST": "127.0.0.1",
            **variables,
        }
        command = [sys.executable, "-m", "orchestrator", "start", *(["--app", app] if app else [])]
        with log.open("w") as file:
            process = subprocess.Popen(
                [*command, "--pool-size", str(pool_size)], cwd=ROOT, env=environ, stdout=file, stderr=file
            )
        try:
            _wait(lambda: "ready in" in log.read_text() or process.poll() is not None, log)
            if process.poll() is not None:
                raise SystemExit(f"orchestratord ended with {process.returncode}:\n{log.read_text()}")
            yield Worker(process.pid, log)
        finally:
            process.terminate()
            process.wait()


def _wait(condition: object, log: Path) -> None:
    assert callable(condition)
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"orchestratord does not do as it is told:\n{log.read_text()}")
        time.sleep(0.01)
