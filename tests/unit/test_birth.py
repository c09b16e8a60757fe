"""What crosses exec between supervisor and forkserver: told whole, read whole."""

import pytest

from orchestrator.board.birth import (
    MESSAGE_BYTES,
    TYPES_PER_MESSAGE,
    ChildSettings,
    ForkRequest,
    ForkserverOrders,
    decode,
    encode,
    told_orders,
    told_types,
)
from orchestrator.errors import MAX_SECONDS
from orchestrator.model import MAX_TYPE_LENGTH, TaskType

CHILD = ChildSettings(
    database_url="postgresql://u:p@/d?host=/tmp/ü",
    pool_size=1,
    claim_limit=10,
    task_timeout=None,
    task_kill_grace=5.0,
    max_tasks_per_child=0,
    max_child_memory=0,
    max_result_size=1 << 20,
    debug=False,
    log_format="json",
)
ORDERS = ForkserverOrders(
    supervisor_pid=42,
    app=None,
    with_examples=True,
    child_main="a.b:c",
    may_have_threads=False,
    metrics_path="/dev/shm/x",
    child=CHILD,
)


def test_orders_arrive_as_they_were_given() -> None:
    kind, facts = decode(encode("orders", ORDERS))
    arrived = told_orders(facts)
    assert kind == "orders"
    assert arrived.child == CHILD
    assert (arrived.app, arrived.with_examples, arrived.child_main) == (None, True, "a.b:c")


def test_a_fork_request_arrives_and_its_marker_names_this_child_only() -> None:
    request = ForkRequest("host-12-abc", 3, 17)
    kind, facts = decode(encode("fork", request))
    assert (kind, ForkRequest(**facts)) == ("fork", request)
    assert request.marker == "host-12-abc/3/17"
    assert ForkRequest("host-12-abc", 3, 18).marker != request.marker


def test_types_arrive_as_they_were_registered() -> None:
    types = (TaskType("a", 0, 1.5, 0.0, 0.0), TaskType("ü" * 100))
    kind, facts = decode(encode("types", types=[each._asdict() for each in types]))
    assert (kind, told_types(facts)) == ("types", types)


@pytest.mark.parametrize("character", ["x", '"', "ü", "€", "\U0001f600"])
def test_a_message_of_types_with_the_longest_names_fits(character: str) -> None:
    longest = TaskType(character * (MAX_TYPE_LENGTH // len(character.encode())), 2**31 - 1, *[MAX_SECONDS - 1 / 3] * 3)
    assert len(encode("types", types=[longest._asdict()] * TYPES_PER_MESSAGE)) <= MESSAGE_BYTES
