"""Workers that are killed, paused, cut off or leave: their tasks run elsewhere in time, and they change nothing."""

import signal
import time
from pathlib import Path

from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Daemon, Queue
from tests.fixtures.fleet import ELECTED, NOTICED, SLACK, Fleet, leads, worker_of
from tests.fixtures.gates import APP, Gates
from tests.fixtures.proxy import Proxy
from tests.fixtures.waiting import eventually
from tests.fixtures.working import queue_at

DEADLY = (
    APP
    + """

@app.task("deadly", max_retries=1, retry=SOON)
def deadly():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
"""
)


def wait_elsewhere(queue: Queue, task_id: str, before: str, *, within: float) -> None:
    """Until the task runs at another worker than `before`."""
    eventually(
        lambda: queue.task(task_id)["status"] == "running" and queue.task(task_id)["worker_id"] != before,
        within=within,
        why="the task runs elsewhere",
    )


def test_what_a_killed_worker_had_runs_again_elsewhere_and_its_row_goes(
    fleet: Fleet, queue: Queue, gates: Gates
) -> None:
    for _ in range(3):
        fleet.add(APP, DATABASE_URL=queue.url)
    leader = fleet.leader()
    tasks = [queue.enqueue("hold", {"name": f"task{n}"}) for n in range(5)]
    owners = {task_id: worker_of(queue, task_id) for task_id in tasks}
    victim = next(each for each in map(fleet.of, owners.values()) if each is not leader)
    (victims_id,) = {each for each in owners.values() if fleet.of(each) is victim}

    victim.kill()
    lost = [task_id for task_id, owner in owners.items() if owner == victims_id]
    for n in range(5):
        gates.open(f"task{n}")
    for task_id in lost:  # a backoff of 0 s: what was running has paid an attempt
        task = queue.wait_status(task_id, "completed", within=NOTICED + SLACK)
        assert (task["attempts"], fleet.of(task["worker_id"]) is victim) == (2, False)
    for task_id in set(tasks) - set(lost):
        assert queue.wait_status(task_id, "completed")["attempts"] == 1
    eventually(lambda: queue.one("SELECT count(*) FROM workers") == 2, within=NOTICED + SLACK)
    assert fleet.leaders() == [leader]
    eventually(lambda: leader.metric("workers_total") == 2, within=15)
    assert [each.health()[1]["leader"] for each in fleet.alive()] == [each is leader for each in fleet.alive()]


def test_a_leader_that_leaves_is_followed_within_a_second_however_long_its_term(fleet: Fleet, queue: Queue) -> None:
    for _ in range(2):
        fleet.add(APP, DATABASE_URL=queue.url, LEADER_TERM="1h", HEARTBEAT_INTERVAL="30s", WORKER_TIMEOUT="1h")
    leader = fleet.leader()
    term = leader.metric("leader_term")

    assert leader.stop() == 0
    left_at = time.monotonic()
    follower = fleet.leader(within=1.0 + SLACK)
    assert time.monotonic() - left_at < 1.0 + SLACK
    assert term is not None and follower.metric("leader_term") == term + 1
    assert queue.one("SELECT count(*) FROM workers WHERE is_leader") == 1


def test_a_paused_leader_is_replaced_and_changes_nothing_when_it_wakes_up(
    fleet: Fleet, queue: Queue, gates: Gates
) -> None:
    leader = fleet.add(APP, DATABASE_URL=queue.url)
    tasks = [queue.enqueue("hold", {"name": name}) for name in ("first", "second")]
    owners = {worker_of(queue, task_id) for task_id in tasks}
    others = [fleet.add(APP, DATABASE_URL=queue.url) for _ in range(2)]
    assert leads(leader)

    leader.signal(signal.SIGSTOP)
    stopped_at = time.monotonic()
    successor = fleet.leader(others)
    assert time.monotonic() - stopped_at < ELECTED + SLACK
    for task_id in tasks:
        wait_elsewhere(queue, task_id, *owners, within=stopped_at + NOTICED + ELECTED + SLACK - time.monotonic())
    for name in ("first", "second"):
        gates.open(name)  # the paused worker's children are not paused: they end their tasks too, and are refused
    for task_id in tasks:
        task = queue.wait_status(task_id, "completed")
        assert (task["attempts"], fleet.of(task["worker_id"]) in others) == (2, True)
        leader.wait_log(rf"stale_outcome task_id={task_id} .* worker_now={task['worker_id']}")

    leader.signal(signal.SIGCONT)
    leader.wait_log("worker_declared_dead")
    assert fleet.leaders() == [successor]

    def new_ids() -> set[str]:
        return {row[0] for row in queue.rows("SELECT id FROM workers WHERE id LIKE %s", f"%-{leader.pid}-%")} - owners

    eventually(new_ids, within=20, why="it goes on under a new id")
    assert "recover_stale_tasks" not in leader.log()
    eventually(lambda: leader.metric("tasks_stale_completions_total", type="hold") == 2, within=15)
    eventually(lambda: successor.metric("workers_total") == 3, within=15)
    queue.wait_status(queue.enqueue("quick"), "completed")


def test_a_worker_that_is_cut_off_without_a_word_loses_its_tasks_and_comes_back_under_a_new_name(
    private_postgres_tcp: PrivatePostgres, proxy: Proxy, fleet: Fleet, gates: Gates
) -> None:
    queue = queue_at(private_postgres_tcp.url())
    alone = fleet.add(APP, DATABASE_URL=proxy.url)
    for name in ("first", "second"):
        queue.enqueue("hold", {"name": name})
        gates.wait_running(name)
    first, second = (row[0] for row in queue.rows("SELECT id::text FROM tasks ORDER BY created_at"))
    before = worker_of(queue, first)
    assert worker_of(queue, second) == before
    others = [fleet.add(APP, DATABASE_URL=private_postgres_tcp.url()) for _ in range(2)]
    assert leads(alone)

    proxy.silence()
    silent_at = time.monotonic()
    eventually(lambda: not leads(alone), within=1.0 + SLACK, why="by its own clock it leads no more")
    successor = fleet.leader(others)
    for task_id in (first, second):
        wait_elsewhere(queue, task_id, before, within=silent_at + NOTICED + ELECTED + SLACK - time.monotonic())
    assert not leads(alone)

    gates.open("first")  # both executions end; the one that was cut off cannot say so
    owner = queue.wait_status(first, "completed")["worker_id"]
    proxy.heal()
    alone.wait_log("worker_declared_dead")
    assert fleet.leaders() == [successor]
    gates.open("second")
    assert queue.wait_status(second, "completed")["worker_id"] != before
    assert queue.task(first)["worker_id"] == owner
    eventually(lambda: queue.one("SELECT count(*) FROM workers") == 3, within=20)
    queue.connection.close()


def test_a_task_that_kills_its_worker_at_once_ends_as_a_dead_letter_and_its_batch_pays_nothing(
    fleet: Fleet, queue: Queue, tmp_path: Path
) -> None:
    """Its first victim had not been seen running it; from then on it is claimed alone, and pays."""
    survivor = fleet.add(DEADLY, DATABASE_URL=queue.url)
    survivor.signal(signal.SIGUSR2)
    survivor.wait_log("paused")
    deadly = queue.enqueue("deadly", priority=1)
    queue.rows("INSERT INTO tasks (type) SELECT 'quick' FROM generate_series(1, 300)")

    for _ in range(3):  # or fewer: a first one that takes its time to die is seen running it, and pays

        def has_done_its_work(victim: Daemon) -> bool:
            return victim.process.poll() is not None or queue.task(deadly)["status"] == "dead_letter"

        victim = fleet.add(DEADLY, "--pool-size", "1", is_awaited=False, DATABASE_URL=queue.url)
        eventually(lambda victim=victim: has_done_its_work(victim), within=60)  # type: ignore[misc]
    task = queue.wait_status(deadly, "dead_letter", within=NOTICED + SLACK)
    assert task["attempts"] == 2
    assert "died while it ran this task" in task["last_error"]
    survivor.signal(signal.SIGUSR2)
    queue.wait_empty()
    paid = "SELECT count(*) FROM tasks WHERE type = 'quick' AND (status <> 'completed' OR attempts <> 1)"
    assert queue.one(paid) == 0
