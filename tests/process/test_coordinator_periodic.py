"""The leader enqueues what is due: the newest of several moments, and nothing keeps others from theirs."""

import pytest

from orchestrator.coordinator.duties.periodic import AT_ONCE
from orchestrator.mailbox import Types
from orchestrator.model import PeriodicTask
from tests.fixtures.coordination import TYPES, Database, Events, MakeWorker, Worker, eventually

YEARLY = PeriodicTask("yearly", "t", "0 0 1 1 *", "UTC", "{}", due_as="due_at")
LAST_YEAR = "UPDATE periodic_tasks SET last_due_at = now() - interval '3 years' WHERE name = %s"
ADDED = "SELECT idempotency_key FROM tasks ORDER BY idempotency_key"


@pytest.fixture
def worker(make_worker: MakeWorker) -> Worker:
    worker = make_worker(heartbeat_interval=1.0, leader_term=5.0)
    worker.serve(has_sleepers=False)
    return worker


def register(worker: Worker, *tasks: PeriodicTask) -> None:
    worker.coordination.post(Types(TYPES, "tests", tasks))
    worker.settle()


def make_due(database: Database, worker: Worker, *tasks: PeriodicTask) -> None:
    """As if nobody had led for three years."""
    register(worker, *tasks)
    for task in tasks:
        database.run(LAST_YEAR, task.name)
    register(worker, *tasks)


def test_what_is_new_is_not_due_for_the_time_before(database: Database, worker: Worker) -> None:
    register(worker, YEARLY)
    make_due(database, worker, YEARLY, YEARLY._replace(name="other"))
    eventually(lambda: database.value("SELECT count(*) FROM tasks") == 2)
    database.run("DELETE FROM tasks")
    register(worker, YEARLY, YEARLY._replace(name="third"))
    register(worker, YEARLY._replace(cron="0 0 1 2 *"))
    second = PeriodicTask("second", "t", "* * * * * *", "UTC", "{}")
    register(worker, second)
    eventually(lambda: database.value("SELECT count(*) FROM tasks") >= 2)
    assert {key.partition("@")[0] for (key,) in database.rows(ADDED)} == {"second"}


def test_of_what_was_missed_the_newest_is_enqueued(database: Database, worker: Worker, events: Events) -> None:
    make_due(database, worker, YEARLY)
    eventually(lambda: events.of("periodic_task_enqueued"))
    year = database.value("SELECT extract(year FROM now() AT TIME ZONE 'UTC')::integer")
    assert database.rows("SELECT idempotency_key, payload FROM tasks") == [
        (f"yearly@{year}-01-01T00:00:00Z", {"due_at": f"{year}-01-01T00:00:00+00:00"})
    ]


def test_one_that_is_refused_or_cannot_be_read_keeps_no_other_from_its_time(
    database: Database, worker: Worker, events: Events
) -> None:
    database.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'not these'; END$$"
    )
    database.run(
        "CREATE TRIGGER mine BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.type = 'bad') EXECUTE FUNCTION refuse()"
    )
    unreadable = YEARLY._replace(name="a", cron="every year")
    bad = [YEARLY._replace(name=f"b{number}", type="bad") for number in range(AT_ONCE + 5)]
    make_due(database, worker, unreadable, *bad, YEARLY)
    eventually(lambda: database.rows(ADDED))
    refused = [each["name"] for each in events.of("periodic_task_refused")]
    assert sorted(refused) == sorted(each.name for each in bad), "each once, and not again and again"
    assert all("not these" in each["error"] for each in events.of("periodic_task_refused"))
    (unusable,) = events.of("periodic_task_unusable")
    assert unusable["name"] == "a" and "cannot be read" in unusable["error"]
    assert database.value("SELECT count(*) FROM tasks") == 1


def test_at_midnight_many_are_enqueued_and_orders_come_in_between(database: Database, worker: Worker) -> None:
    make_due(database, worker, *(YEARLY._replace(name=f"n{number}") for number in range(50)))
    eventually(lambda: database.value("SELECT count(*) FROM tasks") == 50)


def test_if_enqueueing_takes_long_orders_come_in_between_and_what_is_due_for_longest_first(
    database: Database, make_worker: MakeWorker
) -> None:
    """Else nobody would hear of a dead child for so long, and what is called last would wait for ever."""
    worker = make_worker(leader_term=60.0)
    worker.serve(has_sleepers=False)
    database.run(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0.2); RETURN NEW; END$$"
    )
    database.run("CREATE TRIGGER mine BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION slow()")
    many = [PeriodicTask(f"a{number}", "t", "* * * * * *", "UTC", "{}") for number in range(AT_ONCE)]
    register(worker, *many, YEARLY)
    eventually(lambda: database.rows(ADDED))
    database.run(LAST_YEAR, "yearly")
    worker.coordination.post(Types(TYPES, "tests", (*many, YEARLY)))
    eventually(lambda: worker.coordination.outstanding == 0, within=2.5)
    eventually(lambda: database.rows("SELECT FROM tasks WHERE starts_with(idempotency_key, 'yearly')"))


def test_after_the_servers_clock_was_set_back_what_is_due_by_then_is_enqueued(
    database: Database, worker: Worker
) -> None:
    each_second = PeriodicTask("each", "t", "* * * * * *", "UTC", "{}")
    register(worker, each_second)
    eventually(lambda: database.rows(ADDED))
    database.run("UPDATE periodic_tasks SET last_due_at = now() + interval '1 day'")
    before = database.value("SELECT count(*) FROM tasks")
    eventually(lambda: database.value("SELECT count(*) FROM tasks") > before)


def test_soon_after_a_look_that_failed_there_is_another(database: Database, worker: Worker, events: Events) -> None:
    each_second = PeriodicTask("each", "t", "* * * * * *", "UTC", "{}")
    register(worker, each_second)
    eventually(lambda: database.rows(ADDED))
    database.run("ALTER TABLE periodic_tasks RENAME TO gone")
    eventually(lambda: events.of("duty_refused"))
    database.run("ALTER TABLE gone RENAME TO periodic_tasks")
    before = database.value("SELECT count(*) FROM tasks")
    eventually(lambda: database.value("SELECT count(*) FROM tasks") > before)


def test_what_an_earlier_run_registered_is_not_enqueued_before_the_app_of_this_one_is_there(
    database: Database, worker: Worker, make_worker: MakeWorker
) -> None:
    register(worker, YEARLY)
    worker.coordination.stop(within=5.0)
    database.run(LAST_YEAR, "yearly")
    later = make_worker(heartbeat_interval=1.0, leader_term=5.0)
    later.serve(has_sleepers=False)  # its app has no periodic tasks
    register(later, YEARLY._replace(name="looked"))
    database.run(LAST_YEAR, "looked")
    register(later, YEARLY._replace(name="looked"))
    eventually(lambda: database.rows(ADDED))
    assert [key.partition("@")[0] for (key,) in database.rows(ADDED)] == ["looked"]
