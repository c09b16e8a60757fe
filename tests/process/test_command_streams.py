"""The commands' standard streams: closed, full, without a reader, or of another encoding."""

import os
import subprocess
from typing import IO

import pytest

from tests.fixtures.command import ENTRY, Command, clean_environment
from tests.fixtures.psql import sql


def stats_into(stdout: IO[bytes], database_url: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [*ENTRY, "stats"],
        env=clean_environment(DATABASE_URL=database_url),
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
    )


def test_a_reader_that_goes_away_is_no_error(database_url: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as nobody_reads:
        done = stats_into(nobody_reads, database_url)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_an_answer_that_cannot_be_written_is_told_in_a_line(database_url: str) -> None:
    with open("/dev/full", "wb") as full:
        done = stats_into(full, database_url)
    said = b"orchestratord: the answer could not be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_what_the_terminal_has_no_characters_for_is_spelt_out(orchestratord: Command, database_url: str) -> None:
    sql(database_url, f"INSERT INTO tasks (type, status, last_error) VALUES ('a', 'failed', '{'€' * 80}')")
    for command in (("list",), ("retry", "€")):
        done = orchestratord("tasks", *command, DATABASE_URL=database_url, PYTHONIOENCODING="latin-1")
        said = done.stdout + done.stderr
        assert (done.returncode, "Traceback" in said, "\\u20ac" in said) == (2 * (command[0] == "retry"), False, True)


def redirected(redirection: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[bytes]":
    """A command whose streams a shell has closed or sent elsewhere: `>&-`."""
    return subprocess.run(
        ["sh", "-c", f'exec "$0" "$@" {redirection}', *ENTRY, *arguments],
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("redirection", "commands"),
    [
        (">&-", ["stats", "migrate"]),
        ("<&- >&-", ["enqueue ok"]),
        ("<&- >&- 2>&-", ["check", "tasks list --json"]),
        ("2>&-", ["workers"]),
        pytest.param(">&-", ["check"], marks=pytest.mark.slow),
        pytest.param("<&- >&-", ["stats", "check"], marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", ["stats"], marks=pytest.mark.slow),
        pytest.param("2>&-", ["stats", "check"], marks=pytest.mark.slow),
    ],
)
def test_nobody_who_wants_an_answer_is_no_error(database_url: str, redirection: str, commands: list[str]) -> None:
    for command in commands:
        done = redirected(redirection, *command.split(), DATABASE_URL=database_url)
        assert (command, done.returncode, done.stderr) == (command, 0, b"")


@pytest.mark.parametrize(
    ("redirection", "commands"),
    [
        ("2>&-", ["stats"]),
        ("2>/dev/full", ["start"]),
        ("<&- >&- 2>&-", ["start", "tasks show a"]),
        pytest.param("2>&-", ["start", "migrate"], marks=pytest.mark.slow),
        pytest.param("2>/dev/full", ["stats", "check"], marks=pytest.mark.slow),
        pytest.param("<&- >&- 2>&-", ["stats", "enqueue ok"], marks=pytest.mark.slow),
    ],
)
def test_an_error_that_nobody_can_read_is_told_by_the_exit_code(redirection: str, commands: list[str]) -> None:
    variables = {"DATABASE_URL": "postgres://127.0.0.1:1/x", "DATABASE_WAIT": "0s", "METRICS_PORT": "0"}
    for command in commands:
        assert (command, redirected(redirection, *command.split(), **variables).returncode) == (command, 4)
    wrong = redirected(redirection, *commands[-1].split(), "--no-such-flag", **variables)
    assert (wrong.returncode, wrong.stdout) == (2, b"")


def test_a_payload_from_a_closed_standard_input_is_wrong_usage(database_url: str) -> None:
    done = redirected("<&-", "enqueue", "ok", "-", DATABASE_URL=database_url)
    said = b"orchestratord: the payload cannot be read: standard input is closed\n"
    assert (done.returncode, done.stderr) == (2, said)
    assert redirected("0>/dev/null", "enqueue", "ok", "-", DATABASE_URL=database_url).returncode == 2
