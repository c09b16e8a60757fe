"""SIGUSR1: every slot's state and Python stack, in the log. The loop goes on while the children answer."""

from orchestrator.supervisor.children import Phase
from orchestrator.supervisor.pool import Pool
from orchestrator.supervisor.stacks import Inquiry
from orchestrator.supervisor.watch import describe_slot
from orchestrator.telemetry import logs


class SlotReport:
    """Questions that are out, and the lines they become."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._inquiries: dict[int, Inquiry] = {}
        self._log = logs.get("supervisor")

    def begin(self, now: float) -> None:
        for seat in self._pool.children:
            link = self._pool.links.get(seat.number)
            if seat.phase in (Phase.LIVE, Phase.BOOTING) and link is not None and seat.pid is not None:
                self._inquiries[seat.number] = Inquiry.ask(seat.pid, link.stacks)
            else:
                self._log.info("slot_state", **describe_slot(seat, link, now))

    def proceed(self, now: float) -> None:
        """Log the answers that have come."""
        for number, inquiry in list(self._inquiries.items()):
            seat, link = self._pool.children.get(number), self._pool.links.get(number)
            if seat is None or link is None or seat.pid != inquiry.pid:
                del self._inquiries[number]
                if seat is not None:
                    self._log.info("slot_state", **describe_slot(seat, link, now), stack="its child has just ended")
                continue
            stack = inquiry.poll(now)
            if stack is not None:
                del self._inquiries[number]
                self._log.info("slot_state", **describe_slot(seat, link, now), stack=stack)

    @property
    def is_asking(self) -> bool:
        return bool(self._inquiries)
