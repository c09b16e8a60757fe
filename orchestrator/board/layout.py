"""The bytes of a slot's board. Used by the supervisor and by that slot's child; no process owns the code.

One memfd holds a header of 64-bit words, an array of claim records, and an arena for the texts of outcomes. Every
word has one writer, named below. A child fills `count` records, then starts and ends them from the front, so three
counters tell the state of each: records before `ended` have an outcome, the one at `ended` runs if `started` is
larger, the others have not begun. A counter is raised after what it vouches for was written. Words are stored whole
(8 aligned bytes), so no reader sees half of one.
"""

import struct
from enum import IntEnum

from orchestrator.model import MAX_TYPE_LENGTH, TaskStatus

WORD = 8
HEADER_BYTES = 512
RECORD_BYTES = 384
ARENA_BYTES = 512 << 10
MAX_INLINE_BYTES = 64 << 10
"""A longer result does not fit the board: the child writes it to the database before it takes the next task."""

MAX_CLAIMS = 256
"""Most claims of one statement."""

CAPACITY = 3 * MAX_CLAIMS
"""Records of a board. Claims are added behind those whose outcomes wait for company or are on their way to the
database; when there is no place left, the child waits until all are written and begins at the front."""


class Word:
    """Words of the header, by who writes them. (Plain numbers: an enum's members take four times as long to read.)"""

    # the child
    STATE = 1  # a SlotState
    STATE_SINCE = 2  # CLOCK_MONOTONIC nanoseconds
    BATCH = 3  # raised twice when the batch is replaced: odd while the records are being written
    COUNT = 4  # records of this batch; grows when claims are added behind them
    STARTED = 5
    ENDED = 6
    WRITTEN = 7  # outcomes the child knows to stand in the database
    FINISHED = 8  # outcomes of this child's whole life
    LEAVING = 9  # a LeaveReason, set before the child exits on its own
    CLAIM_SEQUENCE = 10  # odd while a claim statement is under way
    BEGAN_WITH = 11  # the record with which it became busy; those of an earlier claim may stand before it
    OFFERED = 12  # not 0: the supervisor may write what ended; so many microseconds its tasks take
    SENT = 13  # (BATCH << PLACE_BITS) + how many of its outcomes it has sent; 0: none, or what was sent was lost
    # the supervisor
    ORDER = 16  # a ChildOrder
    HANDED_BACK = 17  # claims taken from the rear of this batch; reset by the child between batches
    MARKS = 18  # how often it noted SUPERVISOR_WROTE
    SLOWNESS = 19  # how often claims of any child were taken back because tasks are slower than it had learnt
    TASK_NS = 20  # nanoseconds that a task took then
    WAKE_OWED = 21  # 1: nobody sleeps who could be woken; whoever falls asleep next looks again in any case
    COLLECTING = 22  # 1: it comes every few milliseconds for the outcomes that are offered
    COLLECTED = 23  # (BATCH << PLACE_BITS) + how many of its outcomes it has on their way to the database, or had


PLACE_BITS = 16
"""Those of a word that tells a batch and a place in it."""

assert CAPACITY < 1 << PLACE_BITS


class SlotState(IntEnum):
    """What a child is doing."""

    BOOTING = 0
    CONNECTING = 1  # it waits for the database
    IDLE = 2  # it waits to be woken
    CLAIMING = 3
    BUSY = 4
    LEAVING = 5
    RESTING = 6  # it leaves the processors to others for a moment, and needs no waking


class ChildOrder(IntEnum):
    """What the supervisor wants of a child; read between tasks."""

    WORK = 0
    PAUSE = 1  # claim nothing new
    LEAVE = 2  # write what is finished and exit


class LeaveReason(IntEnum):
    """Why a child exited on its own."""

    NONE = 0
    ORDERED = 1
    MAX_TASKS = 2
    MAX_MEMORY = 3
    INSANE = 4  # a handler left threads, subprocesses, closed descriptors … that cannot be undone
    UNREGISTERED = 5  # its worker is no longer registered
    LIFELINE = 6  # the supervisor is gone
    BOOT = 7  # a start hook raised


RECORD = struct.Struct(f"=qqqqqqqqqqqqqq36s4x{MAX_TYPE_LENGTH}s")
"""token, attempt, max_retries, flags, type length, then (see Field) zeros that the execution fills in; id; type."""

START = struct.Struct("@qq")
"""STARTED_AT and DEADLINE, which stand together."""

END = struct.Struct("@qqqqqq")
"""ENDED_AT to RESULT_LENGTH, which stand together."""

assert RECORD.size <= RECORD_BYTES


class Field:
    """Words of a record. The child writes all but SUPERVISOR_WROTE (and of that the sign, when it counts)."""

    TOKEN = 0
    ATTEMPT = 1
    MAX_RETRIES = 2
    FLAGS = 3
    TYPE_LENGTH = 4
    STARTED_AT = 5  # nanoseconds, valid once `started` passed it
    DEADLINE = 6  # nanoseconds; 0: none
    ENDED_AT = 7  # from here on valid once `ended` passed it
    STATUS = 8  # index into OUTCOME_STATUSES
    DELAY = 9  # nanoseconds
    TEXT_OFFSET = 10  # into the arena: the error, then the result
    ERROR_LENGTH = 11  # -1: none
    RESULT_LENGTH = 12  # -1: none
    SUPERVISOR_WROTE = 13  # the token whose outcome the supervisor has written; negative: found written by the child


FLAG_IS_RUNNING = 1
"""The claim statement has marked the task running already."""

FLAG_GIVEN_UP = 2
"""The child could not write the outcome, and leaves it to the supervisor."""

OUTCOME_STATUSES = (TaskStatus.COMPLETED, TaskStatus.PENDING, TaskStatus.FAILED, TaskStatus.DEAD_LETTER)


def board_bytes(capacity: int) -> int:
    """Size of a board with room for `capacity` claims."""
    return HEADER_BYTES + capacity * RECORD_BYTES + ARENA_BYTES
