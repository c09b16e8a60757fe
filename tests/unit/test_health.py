"""What /health, /livez and /readyz answer, for every way a worker can be; and the gauges made of the same picture."""

import pytest

from orchestrator.status.gauges import SnapshotGauges
from orchestrator.status.health import STALLED_SECONDS, health, livez, readyz
from orchestrator.status.snapshot import STATES, Snapshot
from orchestrator.telemetry.metrics import MAX_TYPES, OTHER_TYPES

AT_WORK = Snapshot(
    worker_id="host-1-abc",
    version="1.0.0",
    distributed=True,
    state="running",
    is_paused=False,
    pool_capacity=10,
    pool_active=3,
    slots_ready=10,
    is_database_reachable=True,
    is_leader=True,
    term=4,
    workers_total=2,
    pending={"email:send": 5, "unknown": 1},
    running={"email:send": 3},
    counts_age_seconds=1.5,
    types=("email:send", "email:check"),
)


def gauges(snapshot: Snapshot) -> dict[str, float]:
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for metric in SnapshotGauges(lambda: snapshot).collect()
        for sample in metric.samples
    }


class TestHealth:
    def test_a_worker_at_work_answers_as_the_guide_shows_and_among_others_whether_it_leads(self) -> None:
        guide = [("status", "healthy"), ("worker_id", "host-1-abc"), ("version", "1.0.0")]
        for is_leader in (True, False):
            status, facts = health(AT_WORK._replace(is_leader=is_leader))
            assert status == 200
            assert list(facts.items()) == [*guide, ("distributed", True), ("leader", is_leader)]
        assert list(health(AT_WORK._replace(distributed=False)).facts.items()) == [*guide, ("distributed", False)]

    def test_a_paused_worker_is_healthy_and_says_that_it_is_paused(self) -> None:
        for state in ("paused", "reloading"):
            status, facts = health(AT_WORK._replace(state=state, is_paused=True))
            assert (status, facts["status"], facts["state"]) == (200, "healthy", "paused")

    def test_a_reload_leaves_the_old_children_at_work_so_it_is_healthy(self) -> None:
        assert health(AT_WORK._replace(state="reloading")).status == 200

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"state": "starting"}, "starting"),
            ({"state": "starting", "is_database_reachable": False}, "starting"),
            ({"state": "starting", "waiting_for": "the lease of host-9"}, "starting, waiting for the lease of host-9"),
            ({"state": "draining"}, "draining: 3 tasks still run"),
            ({"state": "stopping"}, "stopping"),
            (
                {"is_database_reachable": False, "database_down_seconds": 12.4},
                "the database has been unreachable for 12 s",
            ),
            (
                {"is_database_reachable": False, "database_down_seconds": 12.4, "is_database_refusing": True},
                "the database has refused to look for tasks for 12 s",
            ),
            (
                {"slots_ready": 0, "slots_unconnected": 10},
                "no child gets a connection to the database: the log says why",
            ),
            ({"slots_backing_off": 5}, "crash loop: 5 of 10 children die before they work"),
            ({"pool_capacity": 1, "slots_backing_off": 1}, "crash loop: 1 of 1 children die before they work"),
            (
                {"slots_backing_off": 5, "is_app_lost": True},
                "5 of 10 children are missing, and the app cannot be loaded to replace them",
            ),
            (
                {"state": "draining", "is_database_reachable": False, "slots_backing_off": 9},
                "draining: 3 tasks still run; the database has been unreachable for 0 s; "
                "crash loop: 9 of 10 children die before they work",
            ),
        ],
    )
    def test_a_worker_that_does_not_work_is_503_and_says_why(self, change: dict[str, object], reason: str) -> None:
        snapshot = AT_WORK._replace(**change)  # type: ignore[arg-type]
        status, facts = health(snapshot)
        assert (status, facts["status"], facts["reason"]) == (503, "unhealthy", reason)
        assert facts["state"] == snapshot.state
        assert {"worker_id", "version", "distributed"} <= set(facts)
        assert readyz(snapshot).status == 503

    @pytest.mark.parametrize(
        ("backing_off", "slots", "loops"),
        [(0, 1, False), (1, 1, True), (1, 2, True), (1, 3, False), (2, 3, True), (4, 10, False), (0, 0, False)],
    )
    def test_half_of_the_slots_backing_off_is_a_crash_loop(self, backing_off: int, slots: int, loops: bool) -> None:
        snapshot = AT_WORK._replace(pool_capacity=slots, slots_backing_off=backing_off)
        assert health(snapshot).status == (503 if loops else 200)


class TestProbes:
    def test_a_loop_that_turns_is_alive_and_one_that_stands_is_not(self) -> None:
        assert livez(0.2).status == 200
        status, facts = livez(STALLED_SECONDS + 5)
        assert status == 503
        assert facts["reason"] == "the supervisor's loop has not turned for 20 s"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"is_paused": True, "state": "paused"}, "claiming is paused: SIGUSR2 resumes it"),
            ({"slots_ready": 0}, "no child is ready"),
        ],
    )
    def test_a_worker_that_would_not_take_a_task_is_not_ready(self, change: dict[str, object], reason: str) -> None:
        status, facts = readyz(AT_WORK._replace(**change))  # type: ignore[arg-type]
        assert (status, facts["reason"]) == (503, reason)

    def test_a_worker_with_one_child_that_takes_tasks_is_ready(self) -> None:
        assert readyz(AT_WORK._replace(slots_ready=1)).status == 200


class TestGauges:
    def test_the_guides_gauges_have_their_names_and_labels(self) -> None:
        assert {
            "worker_pool_active": 3,
            "worker_pool_capacity": 10,
            "workers_total": 2,
            "leader_status worker_id=host-1-abc": 1,
            "tasks_pending type=email:send": 5,
            "tasks_running type=email:send": 3,
        }.items() <= gauges(AT_WORK).items()

    def test_known_types_are_there_at_0_and_unknown_ones_while_they_have_tasks(self) -> None:
        seen = gauges(AT_WORK)
        assert seen["tasks_pending type=email:check"] == 0
        assert seen["tasks_pending type=unknown"] == 1
        assert "tasks_running type=unknown" not in seen

    def test_only_the_leader_tells_the_queue_for_alerts_sum_over_instances(self) -> None:
        follower = gauges(AT_WORK._replace(is_leader=False))
        assert follower["leader_status worker_id=host-1-abc"] == 0
        assert not [name for name in follower if name.startswith(("tasks_pending", "tasks_running"))]

    def test_a_single_instance_always_tells_the_queue(self) -> None:
        assert gauges(AT_WORK._replace(distributed=False, is_leader=False))["tasks_pending type=email:send"] == 5

    def test_a_queue_that_was_never_counted_is_not_shown_as_empty(self) -> None:
        assert "tasks_pending type=email:send" not in gauges(AT_WORK._replace(counts_age_seconds=None, pending={}))

    def test_a_queue_of_very_many_types_is_summed_up_and_loses_no_task(self) -> None:
        pending = {f"type:{number}": number for number in range(3 * MAX_TYPES)}
        shown = {name: value for name, value in gauges(AT_WORK._replace(pending=pending)).items() if "pending" in name}
        assert len(shown) == MAX_TYPES + 1
        assert sum(shown.values()) == sum(pending.values())
        assert f"tasks_pending type={OTHER_TYPES}" in shown

    def test_types_that_would_steer_a_terminal_are_summed_up_as_well(self) -> None:
        shown = gauges(AT_WORK._replace(pending={"a\x1b[31m": 2, "b\r\n": 3, "c d": 4}))
        found = {name: value for name, value in shown.items() if value and name.startswith("tasks_pending")}
        assert found == {f"tasks_pending type={OTHER_TYPES}": 5, "tasks_pending type=c d": 4}

    def test_exactly_one_state_is_set(self) -> None:
        for state in STATES:
            seen = gauges(AT_WORK._replace(state=state, is_paused=state == "paused"))
            assert [name for name, value in seen.items() if name.startswith("worker_state") and value] == [
                f"worker_state state={state}"
            ]
            assert seen["worker_paused"] == (state == "paused")
