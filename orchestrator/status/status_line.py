"""How a worker is, in one line for people: `systemctl status` shows it. A pure function of a Snapshot."""

from orchestrator.status.snapshot import Snapshot


def status_line(snapshot: Snapshot) -> str:
    """What it does first, what hinders it last: `12/20 running, leader, term 7`."""
    if snapshot.state == "starting":
        return _starting(snapshot)
    running = f"{snapshot.pool_active}/{snapshot.pool_capacity} running"
    if snapshot.state in ("draining", "stopping"):
        return f"{snapshot.state}, {running}"
    facts = [running, *_standing(snapshot)]
    if snapshot.slots_ready < snapshot.pool_capacity:
        facts.append(f"{snapshot.slots_ready}/{snapshot.pool_capacity} children ready")
    if snapshot.is_paused:
        facts.append("paused (SIGUSR2 resumes)")
    if snapshot.state == "reloading":
        facts.append("loading the app anew")
    elif snapshot.is_reload_refused or snapshot.is_app_lost:
        facts.append("the app as it is now does not load (the old code goes on)")
    if not snapshot.is_database_reachable:
        fault = "refuses" if snapshot.is_database_refusing else "unreachable"
        facts.append(f"database {fault} for {snapshot.database_down_seconds:.0f} s")
    return ", ".join(facts)


def _starting(snapshot: Snapshot) -> str:
    waits = []
    if not snapshot.types:
        waits.append("the app to load")
    if snapshot.waiting_for:
        waits.append(f"the lease of {snapshot.waiting_for}")
    elif not snapshot.worker_id:
        seconds = snapshot.database_down_seconds
        waits.append(f"the database, unreachable for {seconds:.0f} s" if seconds else "the database")
    return f"starting, waiting for {' and '.join(waits)}" if waits else "starting"


def _standing(snapshot: Snapshot) -> list[str]:
    """Among several workers: whether it leads, and in which term."""
    if not snapshot.distributed:
        return ["single instance"]
    return ["leader", f"term {snapshot.term}"] if snapshot.is_leader else ["follower"]
