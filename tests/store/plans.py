"""Statements as the store sends them, and their plans."""

import json
import re
from collections.abc import Mapping
from typing import Any

from orchestrator.store.connection import Connection

_SETTINGS = re.compile(r"((?:SET LOCAL [^;]*;)*)(.*)", re.DOTALL)


def nodes(node: dict[str, Any]) -> list[dict[str, Any]]:
    """The plan's nodes, from the top."""
    return [node, *(below for child in node.get("Plans", []) for below in nodes(child))]


def buffers(found: dict[str, Any]) -> int:
    return int(found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"])


class Recorder(Connection):
    """Runs each statement, undoes it, and keeps it."""

    def execute(
        self, sql: str, params: Mapping[str, Any] | None = None, *, within: float, lock_within: float | None = None
    ) -> list[tuple[Any, ...]]:
        self.sent = (sql, params)
        super().execute("BEGIN", within=5.0)
        rows = super().execute(sql, params, within=within, lock_within=lock_within)
        super().execute("ROLLBACK", within=5.0)
        return rows

    def plan(self) -> dict[str, Any]:
        """The plan of the statement that was sent last, and what running it touches."""
        sql, params = self.sent
        settings, statement = _SETTINGS.fullmatch(sql).groups()  # type: ignore[union-attr]
        _, execute, call = statement.rpartition("EXECUTE ")  # a kept plan, perhaps with its PREPARE
        explained = f"{settings}EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute + call}"
        ((found,),) = self.execute(explained, params, within=60.0)
        parsed: dict[str, Any] = (json.loads(found) if isinstance(found, str) else found)[0]
        return parsed
