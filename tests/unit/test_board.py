"""One slot's board, both halves over one memfd in one process: batches, the arena, hand-backs, nonsense."""

import os
import time
from collections.abc import Iterator

import pytest

from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import (
    ARENA_BYTES,
    HEADER_BYTES,
    MAX_CLAIMS,
    MAX_INLINE_BYTES,
    RECORD,
    RECORD_BYTES,
    WORD,
    ChildOrder,
    Field,
    LeaveReason,
    SlotState,
    Word,
)
from orchestrator.board.memory import create_memory
from orchestrator.board.supervisor_half import BatchView, SupervisorBoard
from orchestrator.model import MAX_ERROR_BYTES, MAX_TYPE_LENGTH, Claim, Outcome, TaskStatus

CAPACITY = 8


class Halves:
    """The child's board and the supervisor's, over the same memory."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.memory = create_memory("test board", capacity)
        self.child = ChildBoard(self.memory)
        self.supervisor = SupervisorBoard(self.memory)

    def publish(self, count: int, *, first: int = 1, max_retries: int = 3) -> None:
        self.child.publish([(claim(first + number), max_retries) for number in range(count)])

    def read(self) -> BatchView:
        view = self.supervisor.read()
        assert view is not None
        return view

    def close(self) -> None:
        self.child.close()
        self.supervisor.close()
        os.close(self.memory)


def claim(token: int, *, type: str = "email:send", is_running: bool = False) -> Claim:
    return Claim(f"{token:036d}", type, token, "{}", 2, None, None, is_running)


def outcome(token: int, *, error: str | None = None, result: str | None = None, delay: float = 0.0) -> Outcome:
    status = TaskStatus.COMPLETED if error is None else TaskStatus.PENDING
    now = time.monotonic()
    return Outcome(f"{token:036d}", token, "email:send", status, 2, now, now, error, result, delay)


@pytest.fixture
def board() -> Iterator[Halves]:
    halves = Halves()
    yield halves
    halves.close()


def test_a_new_board_holds_nothing(board: Halves) -> None:
    assert board.read() == BatchView(0, (), None, ())
    assert (board.supervisor.state, board.supervisor.order) == (SlotState.BOOTING, ChildOrder.WORK)
    assert board.supervisor.leaving is LeaveReason.NONE
    assert board.supervisor.capacity == CAPACITY


def test_claims_stand_on_the_board_as_they_were_published(board: Halves) -> None:
    board.child.publish([(claim(7, type="ü" * 100, is_running=True), 5), (claim(8, type="x" * MAX_TYPE_LENGTH), 0)])
    first, second = board.read().unstarted
    assert (first.place, first.task_id, first.type, first.token) == (0, f"{7:036d}", "ü" * 100, 7)
    assert (first.attempt, first.max_retries, first.is_running) == (2, 5, True)
    assert (second.place, second.type, second.max_retries, second.is_running) == (1, "x" * MAX_TYPE_LENGTH, 0, False)
    assert first.started_ns == first.deadline_ns == 0


def test_a_claim_goes_from_unstarted_by_running_to_its_outcome(board: Halves) -> None:
    board.publish(2)
    before = time.monotonic_ns()
    board.child.start(5_000_000_000)
    view = board.read()
    assert view.running is not None
    assert view.running.token == 1
    assert before <= view.running.started_ns <= time.monotonic_ns()
    assert view.running.deadline_ns == view.running.started_ns + 5_000_000_000
    assert [each.token for each in view.unstarted] == [2]
    board.child.end(outcome(1, result='{"is": "üñí"}'))
    view = board.read()
    assert view.running is None
    (ended,) = view.outcomes
    assert (ended.token, ended.status, ended.attempt, ended.error) == (1, TaskStatus.COMPLETED, 2, None)
    assert (ended.result, ended.type) == ('{"is": "üñí"}', "email:send")
    assert ended.started_monotonic <= ended.ended_monotonic
    board.child.outcomes_written()
    assert board.read().outcomes == ()
    assert board.supervisor.word(Word.FINISHED) == 1


def test_a_task_without_a_time_limit_has_no_deadline(board: Halves) -> None:
    board.publish(1)
    board.child.start(0)
    running = board.read().running
    assert running is not None and running.deadline_ns == 0


def test_a_handler_that_is_done_can_no_longer_be_overdue(board: Halves) -> None:
    board.publish(1)
    board.child.start(1)
    board.child.handler_ended()
    running = board.read().running
    assert running is not None and running.deadline_ns == 0


@pytest.mark.parametrize("status", [s for s in TaskStatus if s not in (TaskStatus.CLAIMED, TaskStatus.RUNNING)])
def test_every_status_an_outcome_can_have_crosses_the_board(board: Halves, status: TaskStatus) -> None:
    board.publish(1)
    board.child.start(0)
    board.child.end(Outcome(f"{1:036d}", 1, "email:send", status, 2, 1.0, 2.5, "why", None, 12.25))
    (found,) = board.read().outcomes
    assert (found.status, found.ended_monotonic, found.delay_seconds) == (status, 2.5, 12.25)
    assert (found.error, found.result) == ("why", None)


def test_an_empty_text_is_not_the_same_as_none(board: Halves) -> None:
    board.publish(1)
    board.child.start(0)
    board.child.end(outcome(1, error="", result=""))
    assert (board.read().outcomes[0].error, board.read().outcomes[0].result) == ("", "")


def test_the_arena_takes_the_largest_outcomes_until_it_has_no_room_and_again_once_they_are_written() -> None:
    board = Halves(MAX_CLAIMS)
    error, result = "e" * MAX_ERROR_BYTES, "r" * MAX_INLINE_BYTES
    board.publish(MAX_CLAIMS)
    expected = ARENA_BYTES // (MAX_ERROR_BYTES + MAX_INLINE_BYTES)
    for turn in range(3):
        stored = 0
        while board.child.has_room:
            board.child.start(0)
            token = board.supervisor.word(Word.STARTED)
            board.child.end(outcome(token, error=f"{token:04d}{error[4:]}", result=f"{token:04d}{result[4:]}"))
            stored += 1
        assert stored == expected
        found = board.read().outcomes
        assert [each.token for each in found] == list(range(turn * expected + 1, (turn + 1) * expected + 1))
        assert all(each.error == f"{each.token:04d}{error[4:]}" for each in found)
        assert all(each.result == f"{each.token:04d}{result[4:]}" for each in found)
        board.child.outcomes_written()
    board.close()


def test_what_the_supervisor_wrote_is_no_outcome_any_more_and_the_child_can_tell(board: Halves) -> None:
    board.publish(3)
    for token in (1, 2, 3):
        board.child.start(0)
        board.child.end(outcome(token))
    assert board.supervisor.mark_written(frozenset({2, 99})) == [2]
    assert [each.token for each in board.read().outcomes] == [1, 3]
    assert [board.child.supervisor_wrote(index, index + 1) for index in range(3)] == [False, True, False]
    board.child.outcomes_written()
    board.publish(3, first=11)
    assert not board.child.supervisor_wrote(1, 12)  # the record is another claim's now


def test_what_a_child_wrote_and_did_not_count_can_be_told_once_it_is_dead(board: Halves) -> None:
    board.publish(5)
    for token in (1, 2, 3, 4, 5):
        board.child.start(0)
        board.child.end(outcome(token))
    board.child.outcomes_written(1)  # it has counted that
    board.supervisor.mark_written(frozenset({2, 3, 4}), by_child=frozenset({3, 4}))
    board.child.count_found(3)
    assert [each.token for each in board.supervisor.uncounted()] == [3]
    assert board.supervisor.mark_written(frozenset({4}), by_child=frozenset({4})) == [], "it knows, and has counted"
    assert [each.token for each in board.supervisor.uncounted()] == [3]


def test_an_outcome_that_a_child_gives_up_is_told_until_the_supervisor_has_it(board: Halves) -> None:
    board.publish(3)
    for token in (1, 2):
        board.child.start(0)
        board.child.end(outcome(token))
    board.child.give_up(1)
    view = board.read()
    assert view.given_up == {2} and [each.token for each in view.outcomes] == [1, 2]
    board.supervisor.mark_written(view.given_up)
    assert [each.token for each in board.read().outcomes] == [1]
    board.child.outcomes_written()
    assert board.read().given_up == frozenset()


def run(board: Halves, *tokens: int) -> None:
    for token in tokens:
        board.child.start(0)
        board.child.end(outcome(token, result=f"{token}"))


def test_what_a_child_offers_is_collected_once_and_the_child_can_tell(board: Halves) -> None:
    board.publish(4)
    run(board, 1, 2)
    assert (board.supervisor.collect(), board.supervisor.offered_a_second) == ((), 0.0)
    board.child.offer_outcomes(0.005)
    assert board.supervisor.offered_a_second == 200.0
    assert [(each.token, each.result) for each in board.supervisor.collect()] == [(1, "1"), (2, "2")]
    assert [board.child.is_collected(index) for index in (0, 1, 2)] == [True, True, False]
    assert board.supervisor.collect() == ()
    run(board, 3)
    assert [each.token for each in board.supervisor.collect()] == [3]
    run(board, 4)
    board.child.offer_outcomes(0.0)
    assert board.supervisor.collect() == ()
    assert [each.token for each in board.read().outcomes] == [1, 2, 3, 4], "none is written yet"


def test_of_a_batch_that_came_later_all_is_collected(board: Halves) -> None:
    board.child.offer_outcomes(0.005)
    board.publish(2)
    run(board, 1, 2)
    board.supervisor.collect()
    board.supervisor.mark_written(frozenset({1, 2}))
    board.child.outcomes_written()
    board.publish(2, first=3)
    run(board, 3)
    assert not board.child.is_collected(0)
    assert [each.token for each in board.supervisor.collect()] == [3]


def test_tokens_may_become_smaller(board: Halves) -> None:
    """Behind a pooler the next epoch may be of a server's session that has drawn it before the last."""
    board.child.offer_outcomes(0.005)
    board.publish(2, first=1001)
    run(board, 1001)
    assert [each.token for each in board.supervisor.collect()] == [1001]
    run(board, 1002)
    board.publish(1, first=1)
    run(board, 1)
    assert not board.child.is_collected(2)
    assert [each.token for each in board.supervisor.collect()] == [1002, 1]


def test_what_is_written_already_is_not_collected(board: Halves) -> None:
    board.child.offer_outcomes(0.005)
    board.publish(4)
    run(board, 1, 2, 3)
    board.child.outcomes_written(1)
    board.supervisor.mark_written(frozenset({2}))
    assert [each.token for each in board.supervisor.collect()] == [3]


def test_what_is_overwritten_while_it_is_read_is_not_collected(board: Halves, monkeypatch: pytest.MonkeyPatch) -> None:
    board.child.offer_outcomes(0.005)
    board.publish(3)
    run(board, 1, 2)
    read = board.supervisor._outcome

    def read_slowly(index: int) -> Outcome:
        board.child.outcomes_written()
        if index == 0:
            run(board, 3)
        return read(index)

    monkeypatch.setattr(board.supervisor, "_outcome", read_slowly)
    assert board.supervisor.collect() == ()


def test_while_a_batch_is_replaced_nothing_is_collected(board: Halves) -> None:
    board.child.offer_outcomes(0.005)
    board.publish(1)
    run(board, 1)
    board.child._words[Word.BATCH] += 1
    assert board.supervisor.collect() == ()


def test_a_look_tells_since_when_the_first_has_waited_that_nobody_has_written(board: Halves) -> None:
    board.publish(3)
    run(board, 1, 2)
    board.supervisor.mark_written(frozenset({1}))
    glance = board.supervisor.glance()
    assert glance is not None and glance.unwritten_since == board.read().outcomes[0].ended_monotonic
    board.supervisor.mark_written(frozenset({2}))
    glance = board.supervisor.glance()
    assert glance is not None and glance.unwritten_since is None


def test_a_large_result_is_written_by_the_child_itself(board: Halves) -> None:
    board.publish(2)
    board.child.end_elsewhere(1)
    board.child.start(0)
    board.child.end_elsewhere(2)
    assert board.read().running is not None, "it is another's"
    board.child.end_elsewhere(1)
    board.child.outcomes_written(0)
    assert board.supervisor.word(Word.WRITTEN) == 1, "what is written stays so"
    view = board.read()
    assert (view.outcomes, view.running) == ((), None)
    assert board.supervisor.word(Word.FINISHED) == 1
    board.child.start(0)
    board.child.end(outcome(2))
    assert [each.token for each in board.read().outcomes] == [2]


def test_a_large_result_cannot_overtake_outcomes_that_are_not_written(board: Halves) -> None:
    board.publish(2)
    board.child.start(0)
    board.child.end(outcome(1))
    board.child.start(0)
    with pytest.raises(AssertionError, match="BUG"):
        board.child.end_elsewhere(2)


def test_claims_are_handed_back_from_the_rear(board: Halves) -> None:
    board.publish(5)
    board.child.start(0)
    assert [each.token for each in board.supervisor.hand_back(2)] == [4, 5]
    assert [each.token for each in board.read().unstarted] == [2, 3]
    assert [each.token for each in board.supervisor.hand_back(1)] == [3]
    assert not board.child.has_settled
    assert [each.token for each in board.supervisor.hand_back(1)] == [2]
    assert board.child.has_settled


def test_a_batch_is_not_replaced_before_it_is_settled_and_written(board: Halves) -> None:
    board.publish(2)
    with pytest.raises(AssertionError, match="BUG: a batch was replaced"):
        board.publish(1, first=11)
    board.child.start(0)
    board.supervisor.hand_back(1)
    with pytest.raises(AssertionError, match="BUG: a batch was replaced"):
        board.publish(1, first=11)  # one still runs
    board.child.end(outcome(1))
    with pytest.raises(AssertionError, match="BUG: claims were added"):
        board.publish(1, first=11)  # its outcome is nowhere else, and not all of this batch was the child's
    board.child.outcomes_written()
    board.publish(1, first=11)
    assert [each.token for each in board.read().unstarted] == [11]


def test_claims_are_added_behind_outcomes_that_are_not_written(board: Halves) -> None:
    board.publish(2)
    for token in (1, 2):
        assert not board.child.has_place(1), "the supervisor may be taking what has not started"
        board.child.start(0)
        board.child.end(outcome(token))
    assert board.child.has_place(CAPACITY - 2)
    assert not board.child.has_place(CAPACITY - 1)
    board.publish(3, first=11)
    view = board.read()
    assert [each.token for each in view.outcomes] == [1, 2]
    assert [(each.place, each.token) for each in view.unstarted] == [(2, 11), (3, 12), (4, 13)]
    assert board.supervisor.tokens() == frozenset({1, 2, 11, 12, 13})
    board.child.start(0)
    board.child.end(outcome(11))
    board.child.outcomes_written(2)
    assert [each.token for each in board.read().outcomes] == [11]
    assert [each.token for each in board.supervisor.hand_back(1)] == [13]
    board.child.start(0)
    board.child.end(outcome(12))
    assert board.child.has_settled and not board.child.has_place(1)
    board.child.outcomes_written()
    board.publish(1, first=21)
    assert [(each.place, each.token) for each in board.read().unstarted] == [(0, 21)]


def test_the_supervisor_knows_which_tokens_are_the_childs_business(board: Halves) -> None:
    board.publish(5)
    for token in (1, 2):
        board.child.start(0)
        board.child.end(outcome(token))
    board.supervisor.hand_back(1)
    assert board.supervisor.tokens() == frozenset({1, 2, 3, 4})
    board.child.outcomes_written()
    assert board.supervisor.tokens() == frozenset({3, 4})


def test_a_claim_under_way_is_told_until_its_reply_is_on_the_board(board: Halves) -> None:
    assert not board.supervisor.may_await_claim()
    for _ in range(3):
        board.child.claim_begins()
        assert board.supervisor.may_await_claim()
        board.child.claim_begins()  # an earlier one was lost with its connection
        assert board.supervisor.may_await_claim()
        board.child.claim_ended()
        assert not board.supervisor.may_await_claim()


def test_orders_and_reasons_cross_the_board(board: Halves) -> None:
    for order in ChildOrder:
        board.supervisor.give(order)
        assert board.child.order is order
    for state in SlotState:
        board.child.enter(state)
        assert board.supervisor.state is state
    for reason in LeaveReason:
        board.child.leave_because(reason)
        assert (board.supervisor.leaving, board.supervisor.state) == (reason, SlotState.LEAVING)


@pytest.mark.parametrize("word", [number for name, number in vars(Word).items() if name.isupper()])
@pytest.mark.parametrize("nonsense", [-(2**63), -1, CAPACITY + 1, 2**63 - 1])
def test_a_board_that_a_task_scribbled_over_does_not_end_the_supervisor(
    board: Halves, word: int, nonsense: int
) -> None:
    board.publish(3)
    board.child.start(0)
    board.child.end(outcome(1))
    board.child._words[word] = nonsense  # a stray pointer in the task's C code
    supervisor = board.supervisor
    view = supervisor.read()
    if view is not None:
        assert all(0 <= each.place < CAPACITY for each in view.unstarted)
        assert [each.token for each in view.outcomes] in ([1], [])
    assert supervisor.state in SlotState
    assert supervisor.order in ChildOrder
    assert supervisor.leaving in LeaveReason
    assert len(supervisor.tokens() or ()) <= CAPACITY
    assert len(supervisor.hand_back(2)) <= 2
    supervisor.mark_written(frozenset({1}))
    assert supervisor.last_end() >= 0.0


def test_texts_that_lie_outside_the_arena_are_none(board: Halves) -> None:
    board.publish(1)
    board.child.start(0)
    board.child.end(outcome(1, error="why", result="{}"))
    for offset in (-5, -(2**63), ARENA_BYTES, 2**62):
        board.child._words[HEADER_BYTES // WORD + Field.TEXT_OFFSET] = offset
        assert board.read().outcomes[0].error is None


def test_the_memory_cannot_be_truncated_under_the_supervisor(board: Halves) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(board.memory, 0)
    with pytest.raises(PermissionError):
        os.ftruncate(board.memory, 1 << 30)


def test_a_record_fits_its_place() -> None:
    assert RECORD.size <= RECORD_BYTES
    assert RECORD_BYTES % 8 == 0


def test_what_a_child_has_sent_shows_until_it_is_written_or_lost(board: Halves) -> None:
    """By its place: behind a pooler a later claim may have a smaller token."""
    board.publish(3, first=7)
    run(board, 7, 8)
    board.child.sends(2)
    run(board, 9)
    assert board.read().sent == {7, 8}
    board.child.sends(0)
    assert board.read().sent == set()
    board.child.sends(3)
    board.child.outcomes_written(2)
    assert board.read().sent == {9}
    board.child.outcomes_written()
    board.publish(3)
    run(board, 1)
    assert board.read().sent == set(), "that was another batch"
