"""The steps from a first connection to a registered worker, each of which may be repeated. Runs in the pulse thread."""

from orchestrator.config import Settings
from orchestrator.coordinator.election import Election
from orchestrator.coordinator.guard import Guard
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.membership import Membership
from orchestrator.coordinator.standing import Standing
from orchestrator.errors import SchemaError
from orchestrator.store import schema, server
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

MIGRATE_SECONDS = 60.0
RIGHTS_SECONDS = 5.0
CAPACITY_SECONDS = 5.0
APP_LOOK_SECONDS = 0.1
LOCKS_LOOK_SECONDS = 0.5
SUPERVISOR_CONNECTIONS = 2


class Starting:
    """Schema, guard, registration, first election, a look at the server's size. One thread only."""

    def __init__(
        self,
        settings: Settings,
        *,
        standing: Standing,
        leadership: Leadership,
        election: Election,
        membership: Membership,
        guard: Guard | None,
    ) -> None:
        self._settings = settings
        self._standing = standing
        self._leadership = leadership
        self._election = election
        self._membership = membership
        self._guard = guard
        self._is_migrated = False
        self._lock_holders: frozenset[tuple[int | None, str]] | None = None
        self._told_of: frozenset[tuple[int | None, str]] = frozenset()
        self._log = logs.get("coordinator")

    def step(self, connection: Connection) -> float | None:
        """Goes as far as it can. None: this worker is registered. Else: the seconds after which to call it again.

        Raises StoreError (SchemaError means never), InstanceRunningError.
        """
        again = None if self._is_migrated else self._migrate(connection)
        if again is None:
            again = self._wait_for_instance(connection)
        if again is not None:
            return again
        self._membership.enter(connection)
        if self._guard is None:
            self._election.tick(connection, self._membership.worker_id)
        elif not self._leadership.renew(connection):  # it also shows the new row as the leader's
            return 0.0
        self._log.info("worker_registered", worker_id=self._membership.worker_id)
        encoding_problem = server.encoding_problem(connection)
        if encoding_problem is not None:
            self._log.warning("encoding_is_not_utf8", found=encoding_problem)
        self._check_capacity(connection)
        return None

    def _migrate(self, connection: Connection) -> float | None:
        """None: the schema is ours, and this role may use it."""
        present = schema.version(connection, within=RIGHTS_SECONDS)
        if present is not None and present < schema.SCHEMA_VERSION:
            again = self._before_upgrade(connection)
            if again is not None:
                return again
        if present != schema.SCHEMA_VERSION and schema.migrate(connection, within=MIGRATE_SECONDS):
            self._log.info("schema_applied", version=schema.SCHEMA_VERSION)
        self._refuse_without_rights(connection)
        self._is_migrated = True
        return None

    def _before_upgrade(self, connection: Connection) -> float | None:
        """None: nothing else is in the way of this start. Where something is, the schema stays as it is: nothing takes
        an upgrade back, and the older version, to which its owner would return, could not start any more."""
        if not self._standing.is_app_loaded:
            return APP_LOOK_SECONDS
        self._refuse_without_rights(connection)
        return self._wait_for_transactions(connection) or self._wait_for_instance(connection)

    def _wait_for_transactions(self, connection: Connection) -> float | None:
        """None: the tables' locks are nobody's, or change hands. What an upgrade waits for (a dump, a report, an open
        BEGIN) all other workers and whoever enqueues would wait for too, behind it."""
        before, self._lock_holders = self._lock_holders, schema.lock_holders(connection, within=RIGHTS_SECONDS)
        if not self._lock_holders:
            return None
        if before is None:
            return LOCKS_LOOK_SECONDS
        staying = self._lock_holders & before
        if staying - self._told_of:
            self._told_of = staying
            pids = " ".join(sorted("prepared" if pid is None else str(pid) for pid, _ in staying))
            self._log.warning("upgrade_waits_for_transactions", backend_pids=pids)
        return LOCKS_LOOK_SECONDS if staying else None

    def _refuse_without_rights(self, connection: Connection) -> None:
        if (lacking := schema.missing_rights(connection, within=RIGHTS_SECONDS)) is not None:
            raise SchemaError(lacking)

    def _wait_for_instance(self, connection: Connection) -> float | None:
        """None: no other single instance is at work, or that doesn't matter."""
        if self._guard is None or self._leadership.is_held:
            return None
        return self._guard.look(connection, self._membership.worker_id)

    def _check_capacity(self, connection: Connection) -> None:
        """A pool that is larger than the server works, with fewer children; its owner should know."""
        capacity = server.capacity(connection, within=CAPACITY_SECONDS)
        needed = self._settings.pool_size + SUPERVISOR_CONNECTIONS
        if capacity.suffices(needed):
            return
        self._log.warning(
            "too_few_connections",
            needed=needed,
            pool_size=self._settings.pool_size,
            max_connections=capacity.max_connections,
            reserved=capacity.reserved,
            used_by_others=capacity.others,
            role_limit=capacity.role_limit,
            database_limit=capacity.database_limit,
        )
