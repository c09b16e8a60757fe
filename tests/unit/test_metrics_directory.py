"""The folder of the metrics files: whose it is, where it is, and who clears what a killed daemon left."""

import fcntl
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.telemetry import directory as directory_of_metrics
from orchestrator.telemetry.directory import MARK, MARK_TEXT, NEW_PREFIX, PREFIX, MetricsDirectory
from orchestrator.telemetry.files import ValueFile


class TestMetricsDirectory:
    def test_a_given_folder_gets_a_locked_subfolder_which_goes_at_close(self, tmp_path: Path) -> None:
        (tmp_path / "theirs.db").write_bytes(b"theirs")
        directory = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        assert directory.path == str(tmp_path / f"{PREFIX}host-1-abc")
        assert os.stat(directory.path).st_mode & 0o777 == 0o700
        ValueFile(os.path.join(directory.path, "counter_3.db"))
        directory.close()
        directory.close()
        assert os.listdir(tmp_path) == ["theirs.db"]

    def test_two_daemons_share_a_folder_without_touching_each_other(self, tmp_path: Path) -> None:
        first = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        ValueFile(os.path.join(first.path, "counter_3.db"))
        second = MetricsDirectory.open(str(tmp_path), "host-2-def")
        assert first.path != second.path
        second.close()
        assert sorted(os.listdir(first.path)) == sorted([MARK, "counter_3.db"])
        first.close()

    @pytest.mark.parametrize("is_private", [True, False])
    def test_what_a_killed_daemon_left_is_cleared_by_the_next(self, tmp_path: Path, is_private: bool) -> None:
        place = None if is_private else str(tmp_path)
        program = (
            "import time\n"
            "from orchestrator.telemetry.directory import MetricsDirectory\n"
            "from orchestrator.telemetry.files import ValueFile\n"
            f"directory = MetricsDirectory.open({place!r}, 'host-7-killed')\n"
            "ValueFile(directory.path + '/counter_3.db')\n"
            "print(directory.path, flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            left = process.stdout.readline().strip()
            alive = MetricsDirectory.open(place, "host-8-next")
            assert os.path.exists(os.path.join(left, "counter_3.db"))  # it still runs
            process.kill()
        after = MetricsDirectory.open(place, "host-9-next")
        assert not os.path.exists(left)
        assert os.path.exists(alive.path)
        alive.close()
        after.close()

    def test_what_a_daemon_left_that_was_killed_while_it_made_its_folder_is_cleared(self, tmp_path: Path) -> None:
        (tmp_path / f"{NEW_PREFIX}unmarked").mkdir()
        for mark in (b"", MARK_TEXT):
            unlocked = tmp_path / f"{NEW_PREFIX}unlocked-{len(mark)}"
            unlocked.mkdir()
            (unlocked / MARK).write_bytes(mark)
        theirs = tmp_path / f"{NEW_PREFIX}theirs"
        theirs.mkdir()
        (theirs / "note.txt").write_text("mine")
        MetricsDirectory.open(str(tmp_path), "host-1-abc").close()
        assert os.listdir(tmp_path) == [theirs.name]

    @pytest.mark.parametrize("when", ["before it is marked", "before it is locked", "in the midst of being cleared"])
    def test_one_that_is_cleared_while_it_is_being_made_is_made_once_more(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        lock, write, make = fcntl.flock, os.write, tempfile.mkdtemp
        held: list[int] = []

        def clear(*_: object) -> None:
            monkeypatch.undo()
            directory_of_metrics.clear_stale(str(tmp_path))

        def hold(path: str) -> None:
            monkeypatch.undo()
            held.append(os.open(os.path.join(path, MARK), os.O_RDONLY))
            lock(held[0], fcntl.LOCK_EX)

        def made(*, prefix: str, dir: str) -> str:
            path = make(prefix=prefix, dir=dir)
            if when == "before it is marked":
                clear()
            return path

        def written(descriptor: int, text: bytes) -> int:
            count = write(descriptor, text)
            if when == "before it is locked":
                clear()
            elif when == "in the midst of being cleared":
                hold(os.path.dirname(os.readlink(f"/proc/self/fd/{descriptor}")))
            return count

        monkeypatch.setattr(tempfile, "mkdtemp", made)
        monkeypatch.setattr(os, "write", written)
        directory = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        assert os.listdir(tmp_path) == [f"{PREFIX}host-1-abc"]
        assert os.listdir(directory.path) == [MARK]
        directory.close()
        for each in held:
            os.close(each)

    def test_nothing_is_cleared_that_is_not_marked_as_ours(self, tmp_path: Path) -> None:
        unmarked = tmp_path / f"{PREFIX}unmarked"
        unmarked.mkdir()
        (unmarked / "counter_3.db").write_bytes(b"theirs")
        other_mark = tmp_path / f"{PREFIX}other"
        other_mark.mkdir()
        (other_mark / MARK).write_bytes(b"another program's\n")
        (other_mark / "counter_3.db").write_bytes(b"theirs")
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "counter_3.db").write_bytes(b"theirs")
        (tmp_path / f"{PREFIX}link").symlink_to(elsewhere)
        (tmp_path / f"{PREFIX}file").write_bytes(b"theirs")
        MetricsDirectory.open(str(tmp_path), "host-1-abc").close()
        for folder in (unmarked, other_mark, elsewhere):
            assert (folder / "counter_3.db").read_bytes() == b"theirs"
        assert (tmp_path / f"{PREFIX}file").exists()

    def test_a_file_of_somebody_elses_in_a_stale_folder_of_ours_stays(self, tmp_path: Path) -> None:
        directory = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        note = Path(directory.path) / "note.txt"
        note.write_text("mine")
        directory.close()
        MetricsDirectory.open(str(tmp_path), "host-2-def").close()
        assert note.read_text() == "mine"

    def test_a_private_folder_is_ours_alone_and_goes_at_close(self) -> None:
        directory = MetricsDirectory.open(None, "host-1-abc")
        assert os.stat(directory.path).st_mode & 0o777 == 0o700
        directory.close()
        assert not os.path.exists(directory.path)

    def test_the_folder_is_locked_too_so_that_who_tidies_temporary_files_passes_it_by(self, tmp_path: Path) -> None:
        directory = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        folder = os.open(directory.path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as systemd-tmpfiles asks, see tmpfiles.d(5)
        directory.close()
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)

    @pytest.mark.parametrize(("is_system_user", "has_logind"), [(False, True), (True, True), (False, False)])
    def test_a_private_folder_is_in_memory_unless_that_is_swept_when_its_user_logs_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_system_user: bool, has_logind: bool
    ) -> None:
        uid = os.geteuid()
        monkeypatch.setattr(directory_of_metrics, "HIGHEST_SYSTEM_UID", uid if is_system_user else uid - 1)
        monkeypatch.setattr(directory_of_metrics, "LOGIND", str(tmp_path if has_logind else tmp_path / "none"))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        is_swept = has_logind and not is_system_user
        directory = MetricsDirectory.open(None, "host-1-abc")
        assert os.path.dirname(directory.path) == (str(tmp_path) if is_swept else "/dev/shm")
        directory.close()

    def test_a_worker_id_with_odd_characters_is_a_plain_folder_name(self, tmp_path: Path) -> None:
        directory = MetricsDirectory.open(str(tmp_path), "../ho st/1")
        assert os.path.dirname(directory.path) == str(tmp_path)
        directory.close()

    @pytest.mark.parametrize("what", ["missing", "a file", "read-only", "full"])
    def test_an_unusable_folder_is_refused_by_the_name_of_its_variable(self, tmp_path: Path, what: str) -> None:
        path = tmp_path / "metrics"
        if what == "a file":
            path.write_bytes(b"")
        elif what in ("read-only", "full"):
            path.mkdir()
        if what == "read-only":
            path = Path("/proc/self")  # even root may not write there
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        if what == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            with pytest.raises(ConfigurationError) as raised:
                MetricsDirectory.open(str(path), "host-1-abc")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        [problem] = raised.value.problems
        assert problem.variable == "PROMETHEUS_MULTIPROC_DIR"
        assert problem.value == str(path)
        if what == "full":
            assert os.listdir(path) == []
