"""The shipped unit under a real systemd, sandbox, user and all; only its log goes to a file, as there is no journal."""

import os
import signal
import time

import pytest

from orchestrator.board.kernel import OOM_STEP
from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.gates import APP
from tests.fixtures.waiting import eventually
from tests.systemd.machine import Service

pytestmark = pytest.mark.slow

# longer too: Python takes a source of the same size and second for the one that it has compiled
NEW = APP.replace('VERSION = "old"', 'VERSION = "new"\n')


def test_it_is_started_when_the_pool_is_up_and_shows_how_it_is(service: Service) -> None:
    service.set_up(DISTRIBUTED_MODE="true")
    service.start()

    assert service.state() == "active"
    assert "ready in" in service.machine.log(), "not started before the pool was up"
    service.wait_status("0/2 running, leader, term 1")
    pids = service.pids()
    assert sorted(title.split()[1] for title in pids.values()) == ["child", "child", "forkserver", "supervisor"]

    main = int(service.machine.show("MainPID"))
    status = service.machine.run("cat", f"/proc/{main}/status").stdout
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status and "CapEff:\t0000000000000000" in status
    user = service.machine.run("id", "-u", "orchestratord").stdout.strip()
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}" in status
    weights = {pid: int(service.machine.run("cat", f"/proc/{pid}/oom_score_adj").stdout) for pid in pids}
    assert sorted(weight - weights[main] for weight in weights.values()) == [0, OOM_STEP, 2 * OOM_STEP, 2 * OOM_STEP]
    (metrics,) = service.machine.path("/run/systemd/here/orchestratord").iterdir()
    assert any(metrics.glob("counter_*.db")), "the multiprocess files are in the runtime directory"

    task_id = service.queue.enqueue("hold")
    service.gates.wait_running("hold")
    service.wait_status("1/2 running, leader, term 1")
    service.gates.open("hold")
    service.queue.wait_status(task_id, "completed")


def test_a_reload_brings_new_code_and_broken_code_is_told_and_leaves_the_old_at_work(service: Service) -> None:
    service.set_up()
    service.start()
    service.deploy("raise RuntimeError('half an edit')\n")
    service.machine.systemctl("reload", "orchestratord")
    service.wait_status("the app as it is now does not load (the old code goes on)")
    service.wait_state("active")
    service.gates.open("hold")
    assert service.queue.wait_status(service.queue.enqueue("hold"), "completed")["result"]["version"] == "old"

    service.deploy(NEW)
    service.machine.systemctl("reload", "orchestratord")
    eventually(lambda: service.machine.show("StatusText") == "0/2 running, single instance", within=20)
    service.wait_state("active")

    def is_new() -> bool:
        task_id = service.queue.enqueue("hold")
        return bool(service.queue.wait_status(task_id, "completed")["result"]["version"] == "new")

    eventually(is_new, within=20)
    assert service.restarts() == 0


def test_a_stop_lets_running_tasks_finish_and_leaves_nothing(service: Service) -> None:
    service.set_up()
    service.start()
    task_id = service.queue.enqueue("hold")
    service.gates.wait_running("hold")
    service.machine.systemctl("stop", "--no-block", "orchestratord")
    assert service.wait_status("draining") == "draining, 1/2 running"
    assert service.state() == "deactivating"
    service.gates.open("hold")
    service.wait_state("inactive")
    assert service.queue.task(task_id)["status"] == "completed"
    assert service.machine.show("Result") == "success"
    assert service.pids() == {}


def test_a_drain_that_ran_out_of_time_puts_tasks_back_and_is_no_failure(service: Service) -> None:
    service.set_up(SHUTDOWN_TIMEOUT="500ms")
    service.start()
    task_id = service.queue.enqueue("hang")
    service.gates.wait_running("hang")
    service.machine.systemctl("stop", "orchestratord")
    assert "drain_ended requeued=1" in service.machine.log()
    assert service.state() == "inactive", "and not failed, as exit code 1 would make it"
    task = service.queue.task(task_id)
    assert (task["status"], task["attempts"]) == ("pending", 0)
    assert service.pids() == {}


def test_a_drain_longer_than_systemds_patience_asks_for_more_and_the_start_warned_of_it(service: Service) -> None:
    # only root may ask a user's service manager; a VM's answers anybody
    service.set_up("TimeoutStopSec=2s", "User=root", "Group=root", SHUTDOWN_TIMEOUT="1m")
    service.start()
    assert "stop_timeout_too_short timeout_stop_sec=2 needed=70" in service.machine.log()
    task_id = service.queue.enqueue("hold")
    service.gates.wait_running("hold")
    service.machine.systemctl("stop", "--no-block", "orchestratord")
    service.wait_status("draining")
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 4.0, within=10)
    assert service.state() == "deactivating"
    service.gates.open("hold")
    service.wait_state("inactive")
    assert service.queue.task(task_id)["status"] == "completed"
    assert service.machine.show("Result") == "success"


def test_a_killed_supervisor_is_started_again_and_its_task_runs_again(service: Service) -> None:
    service.set_up()
    service.start()
    task_id = service.queue.enqueue("hold")
    service.queue.wait_status(task_id, "running")
    before = service.pids()
    service.machine.signal("KILL")
    eventually(lambda: service.restarts() == 1 and service.state() == "active", within=20)
    assert not before.keys() & service.pids().keys(), "its children went with it"
    service.gates.open("hold")
    assert service.queue.wait_status(task_id, "completed")["attempts"] == 2


def test_a_supervisor_that_stands_still_is_ended_by_the_watchdog_and_started_again(service: Service) -> None:
    service.set_up()
    service.start()
    task_id = service.queue.enqueue("hold")
    service.queue.wait_status(task_id, "running")
    service.machine.signal("STOP")
    eventually(lambda: service.restarts() == 1 and service.state() == "active", within=90)
    assert "Fatal Python error: Aborted" in service.machine.log(), "the log shows where it was"
    service.gates.open("hold")
    assert service.queue.wait_status(task_id, "completed")["attempts"] == 2


def test_a_task_that_eats_all_memory_dies_alone(service: Service) -> None:
    service.set_up("MemoryMax=300M", "MemorySwapMax=0")
    service.start()
    if not service.machine.show("MemoryCurrent").isdigit():
        pytest.skip("the memory controller of the cgroups cannot be used here")
    main = service.machine.show("MainPID")
    held = service.queue.enqueue("hold")
    service.gates.wait_running("hold")
    fat = service.queue.wait_status(service.queue.enqueue("fat"), "dead_letter", within=60)
    assert signal.SIGKILL.name in fat["last_error"]
    assert (service.state(), service.machine.show("MainPID"), service.restarts()) == ("active", main, 0)
    service.gates.open("hold")
    assert service.queue.wait_status(held, "completed")["attempts"] == 1


@pytest.mark.parametrize(
    ("code", "settings", "app", "said"),
    [
        (2, {"WORKER_POOL_SIZE": "many"}, APP, "WORKER_POOL_SIZE"),
        (3, {}, "import nothing_of_that_name\n", "nothing_of_that_name"),
    ],
)
def test_what_a_restart_cannot_cure_fails_once(
    service: Service, code: int, settings: dict[str, str], app: str, said: str
) -> None:
    service.set_up(app=app, **settings)
    assert service.machine.fails("start", "orchestratord")
    assert (service.state(), service.machine.show("SubState")) == ("failed", "failed"), "no restart is to come"
    assert (service.machine.show("ExecMainStatus"), service.restarts()) == (str(code), 0)
    assert said in service.machine.log()


def test_a_database_that_is_away_at_start_is_tried_for_ever(
    service: Service, private_postgres_tcp: PrivatePostgres
) -> None:
    service.set_up("RestartSec=100ms", DATABASE_URL=private_postgres_tcp.url(), DATABASE_WAIT="100ms")
    private_postgres_tcp.stop()
    assert service.machine.fails("start", "orchestratord")
    assert "start_failed exit_code=4" in service.machine.log()
    eventually(lambda: service.restarts() > 5, within=30, why="more often than systemd lets a service by default")
    private_postgres_tcp.start()
    service.wait_state("active", within=30)


def test_several_pools_share_settings_and_have_their_own(service: Service) -> None:
    names = ("mail", "reports")
    service.set_up(unit="orchestratord@", DISTRIBUTED_MODE="true")
    for size, name in enumerate(names, 2):
        service.machine.write(f"/etc/orchestratord/{name}.env", f"WORKER_POOL_SIZE={size}\n")
        service.machine.systemctl("start", f"orchestratord@{name}")
    assert [service.machine.show("StatusText", f"orchestratord@{name}") for name in names] == [
        "0/2 running, leader, term 1",
        "0/3 running, follower",
    ]
    assert service.queue.one("SELECT count(*) FROM workers") == 2
    service.machine.systemctl("stop", "orchestratord@mail")
    assert service.state("orchestratord@reports") == "active"
    assert len(os.listdir(service.machine.path("/run/systemd/here/orchestratord-reports"))) == 1
    assert service.machine.fails("start", "orchestratord@nobody")
    assert service.machine.show("AssertResult", "orchestratord@nobody") == "no"


def test_workers_are_restarted_one_after_the_other_and_no_task_is_lost_or_run_twice(service: Service) -> None:
    units = [f"orchestratord@{name}" for name in ("one", "two", "three")]
    service.set_up(unit="orchestratord@", DISTRIBUTED_MODE="true")
    for unit in units:
        service.machine.write(f"/etc/orchestratord/{unit.partition('@')[2]}.env", "WORKER_POOL_SIZE=3\n")
    service.machine.systemctl("start", *units)
    for unit in units:
        before = service.machine.show("MainPID", unit)
        for _ in range(40):
            service.queue.enqueue("work")
        eventually(lambda: service.machine.show("StatusText", unit).startswith(("1/", "2/", "3/")), within=20)  # noqa: B023
        service.machine.systemctl("restart", unit)
        assert service.machine.show("MainPID", unit) != before
    service.queue.wait_empty()
    ends = service.queue.rows("SELECT status, attempts, count(*) FROM tasks GROUP BY 1, 2")
    assert ends == [("completed", 1, 120)]
    assert service.queue.one("SELECT count(DISTINCT worker_id) FROM tasks") > 3, "old and new workers have shared them"
