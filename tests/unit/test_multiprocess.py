"""Metrics of many processes in files: counts that survive children, files that are broken, a disk that is full."""

import logging
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from orchestrator.model import TaskType
from orchestrator.telemetry.collector import SlotFilesCollector
from orchestrator.telemetry.directory import MetricsDirectory
from orchestrator.telemetry.files import INITIAL_BYTES, ValueFile, read_entries
from orchestrator.telemetry.metrics import TaskMetrics
from orchestrator.telemetry.multiprocess import use_files

PATIENCE = 20.0
SCRAPE_LIMIT_SECONDS = 0.1


class Who:
    """The identity of this process, as the forkserver has it."""

    name = "forkserver"


@pytest.fixture
def who(tmp_path: Path) -> Iterator[Who]:
    """Metrics made after this live in files in tmp_path, under the name of `who`."""
    before = values.ValueClass
    identity = Who()
    use_files(str(tmp_path), lambda: identity.name)
    yield identity
    values.ValueClass = before


def as_child(who: Who, name: str, work: Callable[[], object]) -> None:
    """Do `work` in a forked process that is called `name`, to its end."""
    pid = os.fork()
    if pid == 0:
        try:
            who.name = name
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def shown(folder: Path | str) -> dict[str, float]:
    """Every series a scrape shows, but those about the collector."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in SlotFilesCollector(str(folder)).collect()
        for sample in family.samples
        if not sample.name.startswith("metrics_")
    }


def failures(collector: SlotFilesCollector) -> float:
    return next(
        sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.name == "metrics_file_failures_total"
    )


class TestCountingAcrossForks:
    def test_a_metric_made_before_the_fork_counts_in_each_childs_own_files(self, who: Who, tmp_path: Path) -> None:
        counter = Counter("made_total", "by the app at import", registry=None)
        counter.inc(5)
        for slot in range(3):
            as_child(who, str(slot), counter.inc)
        assert shown(tmp_path) == {"made_total": 8}
        assert sorted(os.listdir(tmp_path)) == [f"counter_{name}.db" for name in ("0", "1", "2", "forkserver")]

    def test_a_child_that_replaces_another_goes_on_from_its_counts(self, who: Who, tmp_path: Path) -> None:
        counter = Counter("made_total", "x", ["a"], registry=None)
        histogram = Histogram("took", "x", registry=None)

        def work() -> None:
            counter.labels("b").inc()
            histogram.observe(0.2)

        for _ in range(4):
            as_child(who, "3", work)
        assert shown(tmp_path)["made_total a=b"] == 4
        assert shown(tmp_path)["took_count"] == 4
        assert shown(tmp_path)["took_bucket le=0.25"] == 4
        assert sorted(os.listdir(tmp_path)) == [
            "counter_3.db", "histogram_3.db", "histogram_forkserver.db",
        ]  # fmt: skip

    def test_counts_of_a_subprocess_forked_by_a_task_are_not_lost(self, who: Who, tmp_path: Path) -> None:
        counter = Counter("made_total", "x", registry=None)

        def task() -> None:
            counter.inc()
            as_child(who, "3", lambda: counter.inc(10))
            counter.inc()

        as_child(who, "3", task)
        assert shown(tmp_path) == {"made_total": 12}

    def test_no_count_ever_goes_back_while_children_are_killed_and_replaced(self, who: Who, tmp_path: Path) -> None:
        counter = Counter("made_total", "x", ["number"], registry=None)
        collector = SlotFilesCollector(str(tmp_path))

        def count_for_ever() -> None:
            number = 0
            while True:
                counter.labels(str(number % 500)).inc()
                number += 1

        seen: dict[str, float] = {}
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                who.name = "3"
                count_for_ever()
            grown = sum(seen.values()) + 2000
            deadline = time.monotonic() + PATIENCE
            while sum(seen.values()) < grown:
                assert time.monotonic() < deadline
                now = {
                    str(sample.labels): sample.value
                    for family in collector.collect()
                    if family.name == "made"
                    for sample in family.samples
                }
                assert all(now[name] >= value for name, value in seen.items())
                seen = now
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        assert failures(collector) == 0

    def test_a_file_grows_as_labels_are_added(self, who: Who, tmp_path: Path) -> None:
        counter = Counter("made_total", "x", ["number"], registry=None)
        for number in range(1000):
            counter.labels(str(number)).inc(number)
        assert shown(tmp_path) == {f"made_total number={number}": number for number in range(1000)}
        assert os.path.getsize(tmp_path / "counter_forkserver.db") > INITIAL_BYTES

    def test_a_signal_handler_that_counts_while_a_count_is_under_way_does_not_hang(
        self, who: Who, tmp_path: Path
    ) -> None:
        counter = Counter("made_total", "x", registry=None)
        before = signal.signal(signal.SIGALRM, lambda *_: counter.inc())
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            for _ in range(50_000):
                counter.inc()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert shown(tmp_path)["made_total"] > 49_000


class TestMerging:
    def test_everything_but_unset_minima_is_merged_as_prometheus_client_does(self, who: Who, tmp_path: Path) -> None:
        def work(number: int) -> None:
            Counter("c_total", "help", ["a"], registry=None).labels('x"\n').inc(number)
            summary = Summary("s", "help", ["a"], registry=None)
            summary.labels("é").observe(number)
            histogram = Histogram("h", "help", ["a"], registry=None, buckets=(1, 2, 3))
            histogram.labels("y").observe(number)
            for mode in ("all", "liveall", "min", "livemin", "max", "livemax", "sum", "livesum", "mostrecent"):
                Gauge(f"g_{mode}", "help", ["a"], registry=None, multiprocess_mode=mode).labels("z").set(number)

        for number in range(1, 5):
            as_child(who, str(number), lambda number=number: work(number))  # type: ignore[misc]
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=str(tmp_path))  # type: ignore[no-untyped-call]
        stock = generate_latest(registry).decode().splitlines()
        own = CollectorRegistry()
        own.register(SlotFilesCollector(str(tmp_path)))
        ours = [line for line in generate_latest(own).decode().splitlines() if "metrics_file" not in line]
        assert sorted(ours) == sorted(stock)

    @pytest.mark.parametrize("kind", [Histogram, Summary])
    def test_what_has_the_same_labels_stands_together_as_openmetrics_demands(
        self, who: Who, tmp_path: Path, kind: type[Histogram] | type[Summary]
    ) -> None:
        metric = kind("took", "x", ["type"], registry=None)
        as_child(who, "1", lambda: metric.labels("a").observe(1))
        as_child(who, "2", lambda: [metric.labels(each).observe(1) for each in ("b", "a")])
        registry = CollectorRegistry()
        registry.register(SlotFilesCollector(str(tmp_path)))
        text = generate_openmetrics(registry).decode()
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]  # it raises where it does not
        types = [sample.labels["type"] for family in families if family.name == "took" for sample in family.samples]
        assert types == sorted(types), text

    def test_a_gauge_that_a_process_never_set_is_not_the_smallest(self, who: Who, tmp_path: Path) -> None:
        gauge = Gauge("oldest", "x", multiprocess_mode="livemin", registry=None)
        as_child(who, "1", lambda: gauge.set(5))
        as_child(who, "2", lambda: gauge.set(7))
        as_child(who, "3", gauge.collect)
        assert shown(tmp_path) == {"oldest": 5}

    def test_labels_that_no_text_can_hold_do_not_fail_the_scrape(self, who: Who, tmp_path: Path) -> None:
        Counter("made_total", "x", ["a"], registry=None).labels("\udcff").inc()
        registry = CollectorRegistry()
        registry.register(SlotFilesCollector(str(tmp_path)))
        assert b'made_total{a="?"} 1.0' in generate_latest(registry)
        text = generate_openmetrics(registry).decode()  # type: ignore[no-untyped-call]
        families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        assert {family.name for family in families} == {"made", "metrics_file_failures"}


class TestBrokenFiles:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"abc",
            b"\xff" * 4096,
            random.Random(1).randbytes(16384),
            struct.pack("ii", 1 << 30, 0) + bytes(100),
            struct.pack("iii", 4096, 0, 50) + b"x" * 60 + struct.pack("dd", 1.0, 0.0),
        ],
        ids=["empty", "3 bytes", "ones", "random", "longer than the file", "no JSON"],
    )
    def test_a_broken_file_is_skipped_and_counted(self, who: Who, tmp_path: Path, content: bytes) -> None:
        Counter("made_total", "x", registry=None).inc(3)
        collector = SlotFilesCollector(str(tmp_path))
        assert failures(collector) == 0
        for kind in ("counter", "histogram", "gauge_all"):
            (tmp_path / f"{kind}_7.db").write_bytes(content)
        assert shown(tmp_path) == {"made_total": 3}
        assert failures(collector) >= 3

    def test_files_of_other_names_are_none_of_our_business(self, who: Who, tmp_path: Path) -> None:
        Counter("made_total", "x", registry=None).inc(3)
        for name in ("notes.txt", "counter_3.db.77", "counter.db", "unknown_3.db"):
            (tmp_path / name).write_bytes(b"abc")
        assert failures(SlotFilesCollector(str(tmp_path))) == 0

    def test_counts_that_cannot_be_read_for_once_do_not_dip(self, who: Who, tmp_path: Path) -> None:
        Counter("made_total", "x", registry=None).inc(3)
        collector = SlotFilesCollector(str(tmp_path))
        first = [sample.value for family in collector.collect() for sample in family.samples if family.name == "made"]
        (tmp_path / "counter_forkserver.db").write_bytes(b"torn")
        second = [sample.value for family in collector.collect() for sample in family.samples if family.name == "made"]
        assert first == second == [3]
        assert failures(collector) == 2

    def test_counts_whose_folder_somebody_removes_stay_as_they_were_and_one_line_tells_of_it(
        self, who: Who, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        monitored = logging.getLogger("orchestrator")
        Counter("made_total", "x", registry=None).inc(3)
        Gauge("now", "x", multiprocess_mode="sum", registry=None).set(1)
        collector = SlotFilesCollector(str(tmp_path))
        assert failures(collector) == 0
        shutil.rmtree(tmp_path)
        monitored.addHandler(caplog.handler)
        left = {sample.name: sample.value for family in collector.collect() for sample in family.samples}
        failures(collector)
        monitored.removeHandler(caplog.handler)
        assert left == {"made_total": 3, "metrics_file_failures_total": 2}, "the folder, and its file of counts"
        assert {record.getMessage() for record in caplog.records} == {"metrics_folder_unreadable"}, "none a file"

    def test_a_torn_file_is_replaced_by_what_can_be_read_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "counter_3.db"
        file = ValueFile(str(path))
        for key in ('["a", "a", {}, ""]', '["b", "b", {}, ""]', '["c", "c", {}, ""]'):
            file.cells[file.place(key)] = 4.0
        whole = path.read_bytes()
        third = whole.index(b'["c"')
        path.write_bytes(whole[: third + 5])  # its header promises more
        again = ValueFile(str(path))
        assert again.cells[again.place('["a", "a", {}, ""]')] == 4.0
        assert again.cells[again.place('["b", "b", {}, ""]')] == 4.0
        assert again.cells[again.place('["c", "c", {}, ""]')] == 0.0
        entries, is_whole = read_entries(path.read_bytes())
        assert (len(entries), is_whole) == (3, True)

    @pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 4096, bytes(4096)])
    def test_garbage_is_replaced_before_it_is_counted_in(self, who: Who, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "counter_forkserver.db").write_bytes(content)
        Counter("made_total", "x", registry=None).inc(3)
        assert shown(tmp_path) == {"made_total": 3}
        assert failures(SlotFilesCollector(str(tmp_path))) == 0

    def test_a_link_in_the_place_of_a_file_is_not_followed(self, who: Who, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"mine")
        (tmp_path / "counter_forkserver.db").symlink_to(precious)
        Counter("made_total", "x", registry=None).inc(3)
        assert precious.read_bytes() == b"mine"


class TestFullDisk:
    def test_what_finds_no_room_is_counted_in_memory_and_kills_nobody(self, who: Who, tmp_path: Path) -> None:
        """RLIMIT_FSIZE stands for the disk: like a full one, it refuses bytes; a hole that is mapped would be fatal."""

        def count_much() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (INITIAL_BYTES, INITIAL_BYTES))
            counter = Counter("made_total", "x", ["number"], registry=None)
            for number in range(1000):
                counter.labels(str(number)).inc()
            for number in range(1000):
                counter.labels(str(number)).inc()
            Gauge("g", "x", registry=None).set(1)

        as_child(who, "3", count_much)
        seen = shown(tmp_path)
        assert seen["made_total number=0"] == 2
        assert 50 < len(seen) < 1000

    def test_a_full_tmpfs_kills_nobody(self, tmp_path: Path) -> None:
        """The real thing, in a mount namespace of its own; skipped where such may not be made."""
        program = (
            "import os, sys\n"
            "from prometheus_client import Counter, Gauge\n"
            "from orchestrator.telemetry import logs, multiprocess\n"
            "from orchestrator.telemetry.collector import SlotFilesCollector\n"
            "logs.configure(debug=False, format='text', process='x')\n"
            "multiprocess.use_files(sys.argv[1], lambda: '3')\n"
            "counter = Counter('made_total', 'x', ['number'], registry=None)\n"
            "counter.labels('first').inc()\n"
            "with open(sys.argv[1] + '/ballast', 'wb') as ballast:\n"
            "    try:\n"
            "        while True: os.write(ballast.fileno(), bytes(4096))\n"
            "    except OSError: pass\n"
            "for number in range(2000): counter.labels(str(number)).inc()\n"
            "counter.labels('first').inc()\n"
            "Gauge('g', 'x', registry=None).set(1)\n"
            "print(SlotFilesCollector(sys.argv[1]).collect().__next__().samples[0].value)\n"
        )
        mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
        apart = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
        if subprocess.run([*apart, mount], check=False, capture_output=True).returncode != 0:
            pytest.skip("no mount namespaces here")
        done = subprocess.run(
            [*apart, f'{mount} && exec "$@"', "sh", sys.executable, "-c", program, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert (done.returncode, done.stdout) == (0, "2.0\n"), done.stderr
        assert done.stderr.count("metrics_not_shared") == 1


class TestGaugesOfTheDead:
    def test_gauges_that_say_what_is_now_are_forgotten_and_counts_are_not(self, who: Who, tmp_path: Path) -> None:
        directory = MetricsDirectory.open(str(tmp_path), "host-1-abc")
        use_files(directory.path, lambda: who.name)
        counter = Counter("made_total", "x", registry=None)
        gauges = {
            mode: Gauge(f"g_{mode}", "x", multiprocess_mode=mode, registry=None)
            for mode in ("sum", "livesum", "all", "liveall", "livemin", "livemostrecent", "max", "mostrecent")
        }

        def work() -> None:
            counter.inc()
            for gauge in gauges.values():
                gauge.set(9)

        as_child(who, "3", work)
        directory.zero_gauges(3)
        directory.zero_gauges(4)
        assert {name: value for name, value in shown(directory.path).items() if "forkserver" not in name} == {
            "made_total": 1, "g_sum": 0, "g_livesum": 0, "g_all pid=3": 0, "g_max": 9, "g_mostrecent": 9,
        }  # fmt: skip
        as_child(who, "3", lambda: gauges["sum"].inc())
        assert shown(directory.path)["g_sum"] == 1
        directory.close()


def test_a_scrape_of_20_children_takes_less_than_100_ms(who: Who, tmp_path: Path) -> None:
    types = [TaskType(f"type:{number}") for number in range(20)]
    who.name = "supervisor"
    supervisors = TaskMetrics()
    supervisors.expect(types)

    def work() -> None:
        metrics = TaskMetrics()
        metrics.expect(types)  # more than a child does: the worst case
        metrics.claimed(0.01)

    for slot in range(20):
        as_child(who, str(slot), work)
    registry = CollectorRegistry()
    registry.register(SlotFilesCollector(str(tmp_path)))
    assert generate_latest(registry).count(b"\n") > 400
    assert (
        min(timeit.repeat(lambda: generate_latest(registry), timer=time.thread_time, number=1, repeat=7))
        < SCRAPE_LIMIT_SECONDS
    )
