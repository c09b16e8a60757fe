"""What the health pages answer: pure functions of a Snapshot, which any thread may call."""

from http import HTTPStatus
from typing import NamedTuple

from orchestrator.status.snapshot import Snapshot

STALLED_SECONDS = 15.0
"""A supervisor whose loop has not turned for so long hangs."""


class Answer(NamedTuple):
    """An HTTP status and the JSON object that goes with it."""

    status: HTTPStatus
    facts: dict[str, str | bool | float]


def health(snapshot: Snapshot) -> Answer:
    """200 while it works, 503 with the reasons while it doesn't. A paused worker obeys: healthy, and it says so."""
    reasons = _reasons(snapshot)
    facts: dict[str, str | bool | float] = {
        "status": "unhealthy" if reasons else "healthy",
        "worker_id": snapshot.worker_id,
        "version": snapshot.version,
        "distributed": snapshot.distributed,
    }
    if snapshot.distributed:
        facts["leader"] = snapshot.is_leader
    if reasons:
        facts["reason"] = "; ".join(reasons)
        facts["state"] = snapshot.state
    elif snapshot.is_paused:
        facts["state"] = "paused"
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK, facts)


def livez(loop_age_seconds: float) -> Answer:
    """Whether the supervisor's loop turns: if it doesn't, only a restart helps."""
    if loop_age_seconds < STALLED_SECONDS:
        return Answer(HTTPStatus.OK, {"status": "alive"})
    reason = f"the supervisor's loop has not turned for {loop_age_seconds:.0f} s"
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stalled", "reason": reason})


def readyz(snapshot: Snapshot) -> Answer:
    """Whether tasks that are enqueued now would be taken here."""
    reasons = _reasons(snapshot)
    if snapshot.is_paused:
        reasons.append("claiming is paused: SIGUSR2 resumes it")
    elif not reasons and snapshot.slots_ready == 0:
        reasons.append("no child is ready")
    if reasons:
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, {"status": "not ready", "reason": "; ".join(reasons)})
    return Answer(HTTPStatus.OK, {"status": "ready"})


def _reasons(snapshot: Snapshot) -> list[str]:
    """Why it does not work, the cause before its consequences."""
    reasons = []
    if snapshot.state == "starting":
        waits = f", waiting for {snapshot.waiting_for}" if snapshot.waiting_for else ""
        reasons.append(f"starting{waits}")
    elif snapshot.state == "draining":
        reasons.append(f"draining: {snapshot.pool_active} tasks still run")
    elif snapshot.state == "stopping":
        reasons.append("stopping")
    if not snapshot.is_database_reachable and snapshot.state != "starting":
        fault = "has refused to look for tasks" if snapshot.is_database_refusing else "has been unreachable"
        reasons.append(f"the database {fault} for {snapshot.database_down_seconds:.0f} s")
    elif snapshot.slots_unconnected and snapshot.slots_ready == 0:
        reasons.append("no child gets a connection to the database: the log says why")
    if snapshot.is_crash_looping:
        missing = f"{snapshot.slots_backing_off} of {snapshot.pool_capacity} children"
        if snapshot.is_app_lost:
            reasons.append(f"{missing} are missing, and the app cannot be loaded to replace them")
        else:
            reasons.append(f"crash loop: {missing} die before they work")
    return reasons
