"""What the supervisor shows of itself: one frozen picture, made by its loop, read by the HTTP threads."""

from collections.abc import Mapping
from typing import Final, NamedTuple

STATES: Final = ("starting", "running", "reloading", "paused", "draining", "stopping")
"""What a supervisor can be doing."""


class Snapshot(NamedTuple):
    """A worker at one moment.

    `state` is one of STATES. `is_paused`: nothing is claimed, which a reload does not change. `waiting_for` says in
    words what a starting worker waits for, as another instance's lease. `pending` and `running` count tasks by type,
    `due_seconds` tells for how long one has been due, as the database had it `counts_age_seconds` ago (None:
    it was never asked). `types` are those the app serves. `database_down_seconds` is 0 while it is reachable
    and lets tasks be looked for; `is_database_refusing`: it is that which it does not.
    `slots_unconnected`: of that many children, none of them ready, the database takes no connection.
    `is_reload_refused`: the code that the last reload found does not load, so the old one goes on. `is_app_lost`: nor
    can it be loaded for children that are missing, which count as backing off.
    """

    worker_id: str
    version: str
    distributed: bool
    state: str
    is_paused: bool
    pool_capacity: int
    waiting_for: str | None = None
    pool_active: int = 0
    slots_ready: int = 0
    slots_backing_off: int = 0
    slots_unconnected: int = 0
    is_database_reachable: bool = False
    is_database_refusing: bool = False
    database_down_seconds: float = 0.0
    is_leader: bool = False
    term: int | None = None
    workers_total: int = 0
    pending: Mapping[str, int] = {}
    running: Mapping[str, int] = {}
    due_seconds: Mapping[str, float] = {}
    counts_age_seconds: float | None = None
    types: tuple[str, ...] = ()
    is_reload_refused: bool = False
    is_app_lost: bool = False

    @property
    def is_crash_looping(self) -> bool:
        """Of half of the slots or more the children die again and again before they have worked."""
        return 0 < self.pool_capacity <= 2 * self.slots_backing_off
