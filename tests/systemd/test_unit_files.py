"""The unit files by themselves: what systemd-analyze says of them, and that the two say the same."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.config import FIELDS, Settings
from orchestrator.exit_codes import ExitCode
from orchestrator.supervisor.stop_timeout import END_SECONDS, span_seconds

UNITS = Path(__file__).parents[2] / "systemd"
OK = 50
"""Of 100, which is unsafe: above, systemd-analyze speaks of MEDIUM, and says OK below."""


@pytest.mark.parametrize("name", ["orchestratord.service", "orchestratord@.service"])
def test_the_sandbox_is_rated_ok_without_any_of_the_machine(name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze: apt-get install systemd")
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={OK}", "--no-pager", UNITS / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("systemd-analyze is older than 250, which rates files")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK" in done.stdout.splitlines()[-1]
    for word in ("Unknown", "Failed to parse", "Invalid"):
        assert word not in done.stderr


def settings(name: str) -> list[str]:
    lines = (UNITS / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "Description=", "MemoryMax="))]


def test_the_template_differs_only_in_what_has_its_name() -> None:
    single, template = settings("orchestratord.service"), settings("orchestratord@.service")
    assert [line.replace("-%i", "") for line in template if "%i.env" not in line] == single
    assert [line for line in template if "%i.env" in line] == [
        "AssertPathExists=/etc/orchestratord/%i.env",
        "EnvironmentFile=/etc/orchestratord/%i.env",
    ]


def value(key: str) -> str:
    (found,) = [line.partition("=")[2] for line in settings("orchestratord.service") if line.startswith(f"{key}=")]
    return found


def test_what_it_makes_of_exit_codes_is_what_they_mean() -> None:
    for_ever = {ExitCode.USAGE, ExitCode.APP, ExitCode.OTHER_INSTANCE, ExitCode.SCHEMA}
    assert {int(code) for code in value("RestartPreventExitStatus").split()} == for_ever
    assert int(value("SuccessExitStatus")) == ExitCode.REQUEUED


def test_systemd_is_more_patient_than_a_drain_by_default() -> None:
    patience = span_seconds(value("TimeoutStopSec"))
    assert patience is not None and patience > Settings(database_url="postgres://").shutdown_timeout + END_SECONDS


def test_the_settings_file_has_settings_that_there_are() -> None:
    named = re.findall(r"^#?([A-Z_]+)=", (UNITS / "orchestratord.env").read_text(), re.MULTILINE)
    assert len(named) >= 5 and set(named) <= {field.variable for field in FIELDS}
