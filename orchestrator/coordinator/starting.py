"""The steps from a first connection to a registered worker, each of which may be repeated. Runs in the pulse thread."""

from orchestrator.config import Settings
from orchestrator.coordinator.election import Election
from orchestrator.coordinator.guard import Guard
from orchestrator.coordinator.leadership import Leadership
from orchestrator.coordinator.membership import Membership
from orchestrator.errors import SchemaError
from orchestrator.store import schema, server
from orchestrator.store.connection import Connection
from orchestrator.telemetry import logs

MIGRATE_SECONDS = 60.0
RIGHTS_SECONDS = 5.0
CAPACITY_SECONDS = 5.0
SUPERVISOR_CONNECTIONS = 2


class Starting:
    """Schema, guard, registration, first election, a look at the server's size. One thread only."""

    def __init__(
        self,
        settings: Settings,
        *,
        leadership: Leadership,
        election: Election,
        membership: Membership,
        guard: Guard | None,
    ) -> None:
        self._settings = settings
        self._leadership = leadership
        self._election = election
        self._membership = membership
        self._guard = guard
        self._is_migrated = False
        self._log = logs.get("coordinator")

    def step(self, connection: Connection) -> float | None:
        """Goes as far as it can. None: this worker is registered. Else: the seconds after which to call it again.

        Raises StoreError (SchemaError means never), InstanceRunningError.
        """
        if not self._is_migrated:
            if schema.migrate(connection, within=MIGRATE_SECONDS):
                self._log.info("schema_applied", version=schema.SCHEMA_VERSION)
            if (lacking := schema.missing_rights(connection, within=RIGHTS_SECONDS)) is not None:
                raise SchemaError(lacking)
            self._is_migrated = True
        if self._guard is not None and not self._leadership.is_held:
            again = self._guard.look(connection, self._membership.worker_id)
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

    def _check_capacity(self, connection: Connection) -> None:
        """A pool that is larger than the server works, with fewer children; its owner should know."""
        capacity = server.capacity(connection, within=CAPACITY_SECONDS)
        needed = self._settings.pool_size + SUPERVISOR_CONNECTIONS
        others = capacity.in_use - 1
        if needed <= capacity.ceiling and needed - 1 <= capacity.free:
            return
        self._log.warning(
            "too_few_connections",
            needed=needed,
            pool_size=self._settings.pool_size,
            max_connections=capacity.max_connections,
            reserved=capacity.reserved,
            used_by_others=others,
            role_limit=capacity.role_limit,
            database_limit=capacity.database_limit,
        )
