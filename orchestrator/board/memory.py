"""A slot's memory: one memfd, mapped by its child and by the supervisor. Each half has a module of its own."""

import fcntl
import mmap
import os

from orchestrator.board.layout import (
    ARENA_BYTES,
    HEADER_BYTES,
    RECORD_BYTES,
    WORD,
    ChildOrder,
    SlotState,
    Word,
    board_bytes,
)

NANO = 1_000_000_000

_STATES = {int(each): each for each in SlotState}
_ORDERS = {int(each): each for each in ChildOrder}
_WORK = int(ChildOrder.WORK)


def create_memory(name: str, capacity: int) -> int:
    """A new memfd for a board; sealed, so that a task cannot truncate it under the supervisor's feet (SIGBUS)."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, board_bytes(capacity))
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor


class Board:
    """The mapped memory. One child and the supervisor hold one each over the same memfd.

    A stray pointer of a task's C code may write anything here: nonsense is read as something harmless, never raised.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, 0)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("q")
        self.capacity = (len(self._map) - HEADER_BYTES - ARENA_BYTES) // RECORD_BYTES
        self._arena = HEADER_BYTES + self.capacity * RECORD_BYTES

    def close(self) -> None:
        self._words.release()
        self._bytes.release()
        self._map.close()

    def _at(self, index: int, field: int) -> int:
        """Where this field of a record stands among the words."""
        return (HEADER_BYTES + index * RECORD_BYTES) // WORD + field

    def word(self, word: int) -> int:
        return self._words[word]

    @property
    def state(self) -> SlotState:
        return _STATES.get(self._words[Word.STATE], SlotState.BUSY)

    @property
    def order(self) -> ChildOrder:
        return _ORDERS.get(self._words[Word.ORDER], ChildOrder.LEAVE)

    @property
    def may_work(self) -> bool:
        """Whether the order is WORK."""
        return self._words[Word.ORDER] == _WORK
