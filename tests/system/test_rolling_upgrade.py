"""Workers of two versions side by side: on one schema, and while the newer one brings a newer schema."""

from pathlib import Path

import pytest

import tests.fixtures.daemon
from orchestrator import __version__
from orchestrator.store.schema import SCHEMA_VERSION
from tests.fixtures.daemon import Queue
from tests.fixtures.fleet import Fleet, worker_of
from tests.fixtures.gates import APP, Gates
from tests.fixtures.planted import plant
from tests.fixtures.waiting import eventually

NEXT = SCHEMA_VERSION + 1
NEWER = [
    ("_version.py", f'"{__version__}"', '"99.0.0"'),
    ("store/schema.py", f"SCHEMA_VERSION = {SCHEMA_VERSION}", f"SCHEMA_VERSION = {NEXT}"),
    ("store/schema.sql", f"version > {SCHEMA_VERSION})", f"version > {NEXT})"),
    ("store/schema.sql", f"(version) VALUES ({SCHEMA_VERSION})", f"(version) VALUES ({NEXT})"),
    (
        "store/schema.sql",
        "COMMENT ON TABLE tasks IS",
        "ALTER TABLE tasks ADD COLUMN IF NOT EXISTS mood text; COMMENT ON TABLE tasks IS",
    ),
]


def test_an_older_worker_goes_on_beside_a_newer_one_and_does_not_start_on_its_schema(
    fleet: Fleet, queue: Queue, gates: Gates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = fleet.add(APP, DATABASE_URL=queue.url)
    held = queue.enqueue("hold", {"name": "before"})
    gates.wait_running("before")
    ours = tests.fixtures.daemon.ENTRY

    monkeypatch.setattr(tests.fixtures.daemon, "ENTRY", plant(tmp_path / "newer", NEWER))
    newer = fleet.add(APP, DATABASE_URL=queue.url)
    assert queue.one("SELECT version FROM orchestrator_schema") == NEXT
    assert dict(queue.rows("SELECT version, count(*) FROM workers GROUP BY 1")) == {__version__: 1, "99.0.0": 1}
    gates.open("before")
    assert fleet.of(queue.wait_status(held, "completed")["worker_id"]) is older

    tasks = [queue.enqueue("hold", {"name": f"task{n}"}) for n in range(4)]
    assert {fleet.of(worker_of(queue, each)).pid for each in tasks} == {older.pid, newer.pid}, "both work"
    for n in range(4):
        gates.open(f"task{n}")
    queue.wait_empty()
    assert "ERROR" not in older.log() + newer.log()

    assert older.stop() == 0
    monkeypatch.setattr(tests.fixtures.daemon, "ENTRY", ours)
    again = fleet.add(APP, is_awaited=False, DATABASE_URL=queue.url)
    assert again.wait_exit() == 6
    assert f"version {NEXT} of the schema" in again.log()
    eventually(lambda: newer.metric("leader_status", worker_id=newer.health()[1]["worker_id"]) == 1, within=20)
