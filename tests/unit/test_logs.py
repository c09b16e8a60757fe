"""Log lines: their shape, what they must never show, and that nothing about writing them can hurt the process."""

import json
import logging
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from orchestrator.errors import TaskTimeout
from orchestrator.telemetry.lines import LineFormatter, LogFormat, Secrets

PATIENCE = 60.0


def run(program: str, **more: object) -> subprocess.CompletedProcess[str]:
    """A program of its own, because logging belongs to a whole process."""
    head = "import logging, os, sys, time\nfrom orchestrator.telemetry import logs\n"
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-c", head + program], capture_output=True, text=True, timeout=PATIENCE, check=True, **more
    )


def lines_of(program: str, format: str = "json") -> list[str]:
    configured = f"logs.configure(debug=False, format={format!r}, process='child-3')\nlog = logs.get('child')\n"
    return run(configured + program).stderr.splitlines()


def facts_of(program: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in lines_of(program)]


def formatted(message: str, *arguments: object, format: LogFormat = "text", **facts: object) -> str:
    record = logging.LogRecord("orchestrator.child", logging.WARNING, "", 0, message, arguments, None)
    if facts:
        record.facts = facts
    return LineFormatter(format, "supervisor", Secrets()).format(record)


class TestLines:
    def test_a_text_line_has_time_level_event_and_facts(self) -> None:
        line = formatted("task_failed", task_id="8f3c", attempt=2, seconds=1.23456789, is_last=True, result=None)
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z WARNING task_failed "
            r"task_id=8f3c attempt=2 seconds=1\.23457 is_last=true result=- process=supervisor\n",
            line,
        )

    def test_a_json_line_is_one_object_with_typed_facts(self) -> None:
        told = json.loads(formatted("task_failed", format="json", attempt=2, types=("a", "b"), error="x\ny"))
        assert {**told, "time": ""} == {
            "time": "", "level": "warning", "event": "task_failed", "attempt": 2, "types": ["a", "b"], "error": "x\ny",
            "process": "supervisor",
        }  # fmt: skip

    @pytest.mark.parametrize("format", ["text", "json"])
    @pytest.mark.parametrize("odd", ["\n", "\r", "\x1b[31m", "\x00", "\x85", "\u2028", "\u202e", "\udcff"])
    def test_no_character_of_a_value_can_begin_a_line_or_steer_a_terminal(self, format: LogFormat, odd: str) -> None:
        line = formatted("seen", format=format, value=f"before{odd}2026-01-01 ERROR forged=yes")
        assert line.count("\n") == 1
        assert odd not in line[:-1]
        line.encode()

    def test_a_value_cannot_pass_for_further_facts(self) -> None:
        assert 'value="a task_id=1" process' in formatted("seen", value="a task_id=1")
        assert r'value="say \"hi\" \\ there" process' in formatted("seen", value='say "hi" \\ there')

    def test_an_event_of_words_reads_as_words_and_one_that_looks_like_facts_is_quoted(self) -> None:
        assert "WARNING ready in 0.4 s pool=3 process" in formatted("ready in 0.4 s", pool=3)
        assert 'WARNING "sent task_id=1" logger=orchestrator.child process' in formatted("sent task_id=%d", 1)

    def test_a_fact_cannot_replace_time_level_or_event(self) -> None:
        told = json.loads(formatted("seen", format="json", level="none", event="other", time="never"))
        assert (told["level"], told["event"]) == ("warning", "seen")

    def test_a_huge_value_is_shortened(self) -> None:
        assert len(formatted("seen", value="x" * 1_000_000)) < 20_000

    def test_an_object_whose_str_raises_is_named_instead(self) -> None:
        class Broken:
            def __str__(self) -> str:
                raise RuntimeError("no")

        assert "a Broken that cannot be printed: RuntimeError" in formatted("seen", value=Broken())

    @pytest.mark.parametrize("format", ["text", "json"])
    def test_a_number_too_long_to_be_printed_costs_no_line(self, format: LogFormat) -> None:
        line = formatted("seen", format=format, value=10**5000, other=2**63)
        assert "an int that cannot be printed: ValueError" in line
        assert str(2**63) in line

    def test_a_message_whose_arguments_do_not_fit_is_still_a_line(self) -> None:
        assert "arguments do not fit" in formatted("%d of %d", "many")

    def test_a_task_whose_time_is_up_while_it_logs_learns_so(self) -> None:
        class Slow:
            def __str__(self) -> str:
                raise TaskTimeout("time is up")

        with pytest.raises(TaskTimeout):
            formatted("seen", value=Slow())


class TestSecrets:
    @pytest.mark.parametrize("format", ["text", "json"])
    @pytest.mark.parametrize("shown", ["p@ss/w\"ör'd", "p%40ss%2Fw%22%C3%B6r%27d", r"p@ss/w\"ör'd"])
    def test_a_hidden_secret_is_shown_in_no_form(self, format: LogFormat, shown: str) -> None:
        secrets = Secrets()
        secrets.add("p@ss/w\"ör'd")
        record = logging.LogRecord("x", logging.INFO, "", 0, f"connecting to {shown}", None, None)
        record.facts = {"url": f"postgres://ann:{shown}@host/db", "repr": repr(shown), "many": [shown]}
        line = LineFormatter(format, "supervisor", secrets).format(record)
        assert "ss/w" not in line
        assert "ss%2Fw" not in line
        assert line.count("***") == 4

    def test_a_password_is_hidden_in_tracebacks_too(self) -> None:
        [text] = facts_of(
            "logs.hide_password_of('postgres://ann:s3cret%21word@host/db')\n"
            "try:\n    raise ValueError('could not connect with s3cret!word')\n"
            "except ValueError:\n    log.exception('connection_failed')\n"
        )
        assert "s3cret" not in json.dumps(text)
        assert "could not connect with ***" in str(text["traceback"])

    @pytest.mark.parametrize(
        "url",
        [
            "postgres://ann:s3cretword@host/db",
            "postgres://host/db?user=ann&password=s3cretword",
            "host=h password=s3cretword user=u",
            "host=h password = 's3cretword' user=u",
        ],
    )
    def test_the_password_of_any_kind_of_connection_string_is_found(self, url: str) -> None:
        [seen] = facts_of(f"logs.hide_password_of({url!r})\nlog.info('seen', url={url!r}, word='a s3cretword b')")
        assert "s3cretword" not in json.dumps(seen)
        assert seen["word"] == "a *** b"

    def test_a_password_beside_the_connection_string_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As in docker-compose.yml."""
        monkeypatch.setenv("PGPASSWORD", "s3cret%21word")
        [seen] = facts_of("logs.hide_password_of('postgres://ann@host/db')\nlog.info('seen', word='a s3cret%21word b')")
        assert seen["word"] == "a *** b"

    def test_a_password_that_is_also_the_users_name_leaves_the_name_readable(self) -> None:
        url = "postgres://postgres:postgres@localhost/postgres"
        [seen] = facts_of(f"logs.hide_password_of({url!r})\nlog.info('seen', url={url!r})")
        assert seen["url"] == "postgres://postgres:***@localhost/postgres"


class TestTaskContext:
    def test_every_line_of_user_code_carries_its_task_on_any_thread(self) -> None:
        inside, thread, outside = facts_of(
            "import threading\n"
            "def speak(): logging.getLogger('shop').info('sent %d', 5, extra={'order': 7})\n"
            "logs.task_begins('8f3c', 'email:send', 2)\n"
            "speak()\n"
            "t = threading.Thread(target=speak); t.start(); t.join()\n"
            "logs.task_ended()\n"
            "speak()\n"
        )
        task = {"task_id": "8f3c", "type": "email:send", "attempt": 2}
        for told in (inside, thread):
            assert task.items() <= told.items()
            assert {"event": "sent 5", "logger": "shop", "order": 7, "process": "child-3"}.items() <= told.items()
        assert "task_id" not in outside

    def test_extra_facts_of_user_code_cannot_change_the_task_of_a_line(self) -> None:
        [told] = facts_of(
            "logs.task_begins('8f3c', 'email:send', 2)\n"
            "logging.warning('x', extra={'task_id': 'forged', 'type': 'forged'})\n"
        )
        assert (told["task_id"], told["type"]) == ("8f3c", "email:send")

    def test_a_traceback_of_user_code_is_indented_so_that_it_forges_no_line(self) -> None:
        first, *rest = lines_of(
            "try:\n    raise ValueError('a\\n2026-01-01 ERROR forged')\n"
            "except ValueError:\n    logging.exception('oops')\n",
            format="text",
        )
        assert "oops" in first
        assert rest
        assert all(line.startswith("    ") for line in rest)


class TestConfigure:
    def test_debug_lines_appear_only_when_asked_for(self) -> None:
        speak = "log = logs.get('x')\nlog.debug('quiet'); logging.debug('quiet too')\n"
        assert lines_of(speak) == []
        assert len(run(f"logs.configure(debug=True, format='text', process='x')\n{speak}").stderr.splitlines()) == 2

    def test_configuring_again_renames_the_process_and_doubles_nothing(self) -> None:
        told = facts_of(
            "logs.configure(debug=False, format='json', process='child-4')\nlog.info('x'); logging.info('y')"
        )
        assert [each["process"] for each in told] == ["child-4", "child-4"]

    def test_an_app_that_configures_logging_for_itself_keeps_its_handlers_and_we_ours(self) -> None:
        done = run(
            "import logging.config\n"
            "logs.configure(debug=False, format='json', process='forkserver')\n"
            "log = logs.get('child')\n"
            "logging.config.dictConfig({'version': 1, 'handlers': {'h': {'class': 'logging.StreamHandler',"
            " 'stream': 'ext://sys.stdout'}}, 'root': {'handlers': ['h'], 'level': 'INFO'}})\n"
            "logs.configure(debug=False, format='json', process='child-3')\n"
            "log.info('ours'); logging.info('theirs')\n"
        )
        assert done.stdout == "theirs\n"
        assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["ours"]

    @pytest.mark.parametrize(
        "setup",
        [
            "logging.setLogRecordFactory(lambda *a, **k: 1 / 0)",
            "logging.getLogger().handlers[0].addFilter(lambda record: 1 / 0)",
        ],
        ids=["a record factory", "a filter"],
    )
    def test_what_an_app_added_to_logging_cannot_make_a_log_call_of_ours_raise(self, setup: str) -> None:
        told, thrown = facts_of(
            f"{setup}\n"
            "log.info('seen', seconds=1)\n"
            "try: raise ValueError('why')\n"
            "except ValueError: log.exception('thrown')\n"
        )
        assert {"event": "seen", "seconds": 1, "logging_failed": "division by zero"}.items() <= told.items()
        assert "ValueError: why" in str(thrown["traceback"])

    def test_a_forked_child_logs_too(self) -> None:
        told = facts_of("pid = os.fork()\nlog.info('here', pid=os.getpid())\nif pid: os.waitpid(pid, 0)\n")
        assert len({each["pid"] for each in told}) == 2


@contextmanager
def speaking(program: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose stderr is a pipe that is read only by who asks; yields it and the pipe's reading end."""
    reading, writing = os.pipe()
    head = "import os, sys, time\nfrom orchestrator.telemetry import logs\n"
    head += "logs.configure(debug=False, format='text', process='x')\nlog = logs.get('x')\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + program], stderr=writing, stdout=subprocess.PIPE, stdin=subprocess.PIPE
    )
    os.close(writing)
    try:
        yield process, reading
    finally:
        os.close(reading)
        process.kill()
        process.communicate()


class TestBrokenStandardError:
    def test_a_reader_that_stopped_reading_costs_a_second_once_and_is_told_later_what_it_missed(self) -> None:
        program = (
            "began = time.monotonic()\n"
            "for i in range(5000): log.info('said', number=i, padding='x' * 100)\n"
            "print(time.monotonic() - began, flush=True)\n"
            "sys.stdin.readline()\n"
            "log.info('back')\n"
        )
        with speaking(program) as (process, reading):
            assert process.stdout
            assert process.stdin
            seconds = float(process.stdout.readline())
            assert 0.9 < seconds < PATIENCE  # and not one for each of them
            drained = _read_all_there_is(reading)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.wait(PATIENCE) == 0
            after = _read_all_there_is(reading).decode()
            assert "back" in after
            said = drained.count(b" said ")
            lost = int(re.findall(r"log_lines_lost count=(\d+)", after)[0])
            assert said + lost in (5000, 5001)  # a line that was cut short counts as lost, though it is seen

    def test_a_reader_that_has_gone_does_not_end_the_process(self) -> None:
        program = "sys.stdin.readline()\nfor i in range(100): log.info('said')\nprint('alive', flush=True)\n"
        reading, writing = os.pipe()
        head = "import os, sys\nfrom orchestrator.telemetry import logs\n"
        head += "logs.configure(debug=False, format='text', process='x')\nlog = logs.get('x')\n"
        process = subprocess.Popen(
            [sys.executable, "-c", head + program], stderr=writing, stdout=subprocess.PIPE, stdin=subprocess.PIPE
        )
        os.close(writing)
        os.close(reading)
        out, _ = process.communicate(b"\n", timeout=PATIENCE)
        assert out == b"alive\n"

    def test_a_full_disk_does_not_end_the_process(self) -> None:
        with open("/dev/full", "wb") as full:
            program = (
                "logs.configure(debug=False, format='text', process='x')\nlogs.get('x').info('said')\nprint('alive')"
            )
            head = "from orchestrator.telemetry import logs\n"
            done = subprocess.run(
                [sys.executable, "-c", head + program],
                stderr=full,
                stdout=subprocess.PIPE,
                timeout=PATIENCE,
                check=True,
            )
        assert done.stdout == b"alive\n"

    def test_no_standard_error_at_all_does_not_end_the_process(self) -> None:
        done = run(
            "os.close(2)\nlogs.configure(debug=False, format='text', process='x')\n"
            "logs.get('x').info('x')\nprint('alive')\n"
        )
        assert done.stdout == "alive\n"

    def test_a_task_that_closes_all_descriptors_never_finds_log_lines_in_its_files(self) -> None:
        done = run(
            "import tempfile\n"
            "logs.configure(debug=False, format='text', process='x')\n"
            "log = logs.get('x')\n"
            "os.closerange(2, 256)\n"
            "files = [tempfile.TemporaryFile() for _ in range(100)]\n"
            "log.info('said'); logging.warning('said')\n"
            "print(sum(os.fstat(f.fileno()).st_size for f in files))\n"
        )
        assert done.stdout == "0\n"

    def test_lines_go_to_a_socket_as_journald_has_it(self) -> None:
        done = run(
            "import socket\n"
            "ours, theirs = socket.socketpair()\n"
            "os.dup2(theirs.fileno(), 2)\n"
            "logs.configure(debug=False, format='text', process='x')\n"
            "logs.get('x').info('said')\n"
            "began = time.monotonic()\n"
            "for i in range(5000): logs.get('x').info('said', padding='x' * 100)\n"
            "print(b'said process=x' in ours.recv(1000), time.monotonic() - began < 5)\n"
        )
        assert done.stdout == "True True\n"

    def test_a_socket_that_prints_share_still_waits_for_its_reader_though_the_app_has_a_default_timeout(self) -> None:
        done = run(
            "import socket\n"
            "ours, theirs = socket.socketpair()\n"
            "os.dup2(theirs.fileno(), 2)\n"
            "socket.setdefaulttimeout(5.0)\n"
            "logs.configure(debug=False, format='text', process='x')\n"
            "logs.get('x').info('said')\n"
            "print(os.get_blocking(2), socket.getdefaulttimeout())\n"
        )
        assert done.stdout == "True 5.0\n"

    def test_a_file_that_stdout_shares_is_not_overwritten(self, tmp_path: object) -> None:
        path = f"{tmp_path}/log"
        program = (
            "from orchestrator.telemetry import logs\n"
            "logs.configure(debug=False, format='text', process='x')\n"
            "for i in range(3):\n    logs.get('x').info('said')\n    print('printed', flush=True)\n"
        )
        with open(path, "wb") as file:
            subprocess.run([sys.executable, "-c", program], stdout=file, stderr=file, timeout=PATIENCE, check=True)
        with open(path) as file:
            assert [("said" in line, "printed" in line) for line in file] == [(True, False), (False, True)] * 3

    def test_lines_of_many_threads_come_out_whole(self) -> None:
        told = facts_of(
            "import threading\n"
            "def speak():\n    for i in range(50): log.info('said', padding='x' * 3000)\n"
            "threads = [threading.Thread(target=speak) for _ in range(8)]\n"
            "for t in threads: t.start()\n"
            "for t in threads: t.join()\n"
        )
        assert len(told) == 400


def _read_all_there_is(descriptor: int) -> bytes:
    data = b""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and select.select([descriptor], [], [], 0.2)[0]:
        some = os.read(descriptor, 1 << 20)
        if not some:
            break
        data += some
    return data
