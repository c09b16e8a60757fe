"""After a reload: children that were forked from the old code give way to new ones, and no task is disturbed."""

from orchestrator.board.layout import SlotState
from orchestrator.supervisor.children import Phase
from orchestrator.supervisor.pool import Pool


def roll(pool: Pool, generation: int, now: float) -> bool:
    """Replace children of older generations: busy ones as they finish, idle ones one after the other.

    Whether any is left to replace.
    """
    old = [seat for seat in pool.children if seat.generation < generation and seat.phase is not Phase.VACANT]
    if pool.children.is_failing(generation, now):
        return bool(old)  # the new code's children die: those that work are not given up for it
    idle = []
    for seat in old:
        link = pool.links[seat.number]
        if seat.phase is Phase.LIVE and link.board.state is SlotState.BUSY:
            pool.retire(seat)
        elif not seat.is_retiring:
            idle.append(seat)
    is_changing = any(
        seat.phase in (Phase.FORKING, Phase.BOOTING, Phase.VACANT)
        or (seat.is_retiring and pool.links[seat.number].board.state is not SlotState.BUSY)
        for seat in pool.children
    )
    if idle and not is_changing:
        pool.retire(idle[0])
    return bool(old)
