"""What `make bench` makes of its measurements: ratios, bars, and the best that a pool could do."""

from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.figures import Line, Spread, paired, percentile, short, take_turns
from benchmarks.mix import ONE_IN, best_rate, naps
from benchmarks.rivals import stamps

PAIRS = [(50.0, 100.0), (80.0, 100.0), (60.0, 80.0)]


def test_a_ratio_is_the_median_of_the_pairs_and_not_of_the_figures() -> None:
    line = paired("drain", "tasks/s", PAIRS, beside="pgbench", bar=0.75)

    assert line.ratio == Spread(0.75, 0.5, 0.8)
    assert line.is_reached is True


def test_an_upper_bar_is_missed_from_above() -> None:
    assert Line("CPU", "us", Spread.of([40, 50, 60]), bar=50, is_upper_bar=True).is_reached is True
    assert Line("CPU", "us", Spread.of([51, 52, 53]), bar=50, is_upper_bar=True).is_reached is False


def test_what_was_not_measured_is_neither_reached_nor_missed_and_says_why() -> None:
    line = Line("drain", "tasks/s", None, beside="pgqueuer", bar=1.8, note="pgqueuer is not installed")

    assert line.is_reached is None
    assert "not measured" in report.table([line])
    assert report.sentence(line) == "drain, beside pgqueuer: pgqueuer is not installed"


def test_the_turns_go_forth_and_back() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) or 1.0 for name in ("ours", "pgbench", "rival")}

    found = take_turns(3, runs)

    assert order == ["ours", "pgbench", "rival", "rival", "pgbench", "ours", "ours", "pgbench", "rival"]
    assert found == {"ours": [1.0] * 3, "pgbench": [1.0] * 3, "rival": [1.0] * 3}


@pytest.mark.parametrize(("value", "text"), [(22_512, "22,500"), (4_321, "4,320"), (47.13, "47.1"), (0.3812, "0.381")])
def test_three_digits_are_shown(value: float, text: str) -> None:
    assert short(value) == text


def test_a_percentile_is_not_exceeded_by_so_many() -> None:
    assert [percentile(list(range(100)), percent) for percent in (0, 50, 99)] == [0, 50, 99]


def test_free_children_do_all_of_the_no_ops_while_fewer_nap_than_there_are() -> None:
    # two naps, ten children that do 1,000 no-ops a second together: the naps cost two of them
    assert sum(naps(index) for index in range(2 * ONE_IN)) == 2
    assert 800 < best_rate(2 * ONE_IN, 10, 1_000) <= 1_000


def test_where_all_children_nap_the_no_ops_can_only_wait() -> None:
    # 1 in 100 naps for a second: one child gets through 99 no-ops in it
    assert best_rate(10_000, 1, 1_000_000) == pytest.approx(99, rel=0.05)


def test_stamps_of_several_threads_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stamps.FOLDER, str(tmp_path))
    assert stamps.read(tmp_path).count == 0
    stamps.stamp()
    stamps.stamp()
    (tmp_path / "another").write_bytes((next(tmp_path.iterdir())).read_bytes())

    found = stamps.read(tmp_path)

    assert found.count == 4 and 0 < found.first < found.last
