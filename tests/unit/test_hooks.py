"""How a child calls the hooks of its app."""

from typing import Any

from orchestrator.child.forks import Origin
from orchestrator.child.main import _ends_well


def test_a_hook_that_hides_a_coroutine_has_not_ended_well() -> None:
    async def connect() -> None:
        pass

    def hook() -> Any:
        return connect()

    assert not _ends_well(hook, "start_hook_failed", Origin())
    assert _ends_well(lambda: "connected", "start_hook_failed", Origin())
