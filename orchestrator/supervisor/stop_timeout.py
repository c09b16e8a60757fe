"""How long the service manager lets this service end: a drain that may take longer is worth a warning at start.

Asked once, before there is a loop, by the one program that knows: systemctl. Answers None wherever that cannot tell.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

ASK_SECONDS = 2.0

END_SECONDS = 10.0
"""After SHUTDOWN_TIMEOUT: to kill what still runs, write outcomes and sign off takes less than that."""

_UNITS = {
    "us": 1e-6, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0, "month": 2629800.0,
    "y": 31557600.0,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)([a-z]+)", re.ASCII)
_PASSED_ON = ("PATH", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS")


def stop_timeout_seconds(environ: Mapping[str, str]) -> float | None:
    """TimeoutStopSec of the unit that this process runs in; None: unknown, or none. Takes at most ASK_SECONDS."""
    unit = _unit()
    if unit is None:
        return None
    whose = "--user" if "MANAGERPID" in environ else "--system"  # set by user managers alone: systemd.exec(5)
    try:
        answer = subprocess.run(
            ["systemctl", whose, "show", "--property=TimeoutStopUSec", "--value", "--", unit],
            env={name: environ[name] for name in _PASSED_ON if name in environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ASK_SECONDS,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return span_seconds(answer.stdout.strip()) if answer.returncode == 0 else None


def span_seconds(text: str) -> float | None:
    """A time span as systemd writes it: `1min 30s`, `500ms`. None for `infinity`, or if it is none."""
    parts = _PART.findall(text)
    if not parts or any(unit not in _UNITS for _, unit in parts):
        return None
    return float(sum(float(count) * _UNITS[unit] for count, unit in parts))


def _unit() -> str | None:
    """By the cgroup: .../orchestratord.service."""
    try:
        lines = Path(f"/proc/{os.getpid()}/cgroup").read_text().splitlines()
    except OSError:
        return None
    names = [line.rpartition("/")[2] for line in lines]
    return next((name for name in names if name.endswith(".service")), None)
