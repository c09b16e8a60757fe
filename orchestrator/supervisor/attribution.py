"""Who pays when a child dies: the task that was running, and nobody else. Pure: facts in, orders out."""

import os
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from orchestrator.board.memory import NANO
from orchestrator.board.supervisor_half import BatchView, BoardClaim
from orchestrator.model import MAX_ERROR_BYTES, ClaimRef, Outcome, TaskStatus
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor.children import Doom


class Estate(NamedTuple):
    """What a dead child leaves: outcomes to write, claims to hand back, and the claim that was running."""

    outcomes: tuple[Outcome, ...]
    released: tuple[ClaimRef, ...]
    casualty: BoardClaim | None


def settle_estate(
    view: BatchView | None,
    taken_back: Sequence[BoardClaim],
    *,
    cause: str,
    doom: Doom | None,
    now: float,
    policy: Callable[[str], RetryPolicy],
) -> Estate:
    """Divide what a dead child's board tells. `taken_back`: the claims whose permissions were left when it died.

    A claim that had its permission taken but was not marked started stays in `view.unstarted` and is handed back too:
    its handler had not begun. A drain or stop requeues the running task free of charge.
    """
    if view is None:
        return Estate((), tuple(_ref(claim) for claim in taken_back), None)
    released = {claim.token: _ref(claim) for claim in (*taken_back, *view.unstarted)}
    outcomes = list(view.outcomes)
    if view.running is not None:
        if doom is Doom.DRAIN:
            released[view.running.token] = _ref(view.running)
        else:
            outcomes.append(_crash(view.running, cause, now, policy(view.running.type)))
    return Estate(tuple(outcomes), tuple(released.values()), view.running)


def _ref(claim: BoardClaim) -> ClaimRef:
    return ClaimRef(claim.task_id, claim.token)


def _crash(claim: BoardClaim, cause: str, now: float, policy: RetryPolicy) -> Outcome:
    """`now` is the moment when this turn of the loop began: the task may have begun and ended since."""
    started = claim.started_ns / NANO
    is_last = claim.attempt > claim.max_retries
    return Outcome(
        task_id=claim.task_id,
        token=claim.token,
        type=claim.type,
        status=TaskStatus.DEAD_LETTER if is_last else TaskStatus.PENDING,
        attempt=claim.attempt,
        started_monotonic=started,
        ended_monotonic=max(now, started),
        error=cause.encode()[:MAX_ERROR_BYTES].decode(errors="ignore"),
        delay_seconds=0.0 if is_last else policy.delay(claim.attempt),
    )


def describe_status(status: int) -> str:
    """A wait status in words: "the child was killed by SIGSEGV", "the child exited with code 3"."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        return f"the child was killed by {name}"
    return f"the child exited with code {os.waitstatus_to_exitcode(status)}"
