"""The question for a child's Python stack: everyone is answered for, and nobody is harmed by it."""

import contextlib
import os
import signal
from typing import Any

from tests.fixtures.proc import state
from tests.fixtures.toys import MakeWorkshop
from tests.toys.workshop import Workshop


def ask_all(workshop: Workshop) -> dict[int, dict[str, Any]]:
    """What SIGUSR1 logs, by slot."""
    before = len(workshop.events("slot_state"))
    slots = workshop.status()["capacity"]
    workshop.signal(signal.SIGUSR1)

    def answers() -> dict[int, dict[str, Any]] | None:
        found = {event["slot"]: event for event in workshop.events("slot_state")[before:]}
        return found if len(found) == slots else None

    answered: dict[int, dict[str, Any]] = workshop.wait_for(answers)
    return answered


def test_every_slot_is_told_whatever_its_child_is_doing(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=6).start().ready()
    slots = {pid: slot for slot, pid in workshop.children().items()}
    waiting = slots[workshop.begin()]
    workshop.add("churn", file="go-on")
    busy = slots[workshop.started("churn")]
    workshop.add("deaf")
    deaf = slots[workshop.started("deaf")]
    workshop.wait_for(lambda: state(workshop.children()[deaf]) == "S")  # it may still have been on its way into C
    stopped, dying, idle = sorted(set(slots.values()) - {waiting, busy, deaf})
    os.kill(workshop.children()[stopped], signal.SIGSTOP)
    workshop.write("boot", "die")
    os.kill(workshop.children()[dying], signal.SIGKILL)
    workshop.wait_for(lambda: len(workshop.births(dying)) > 2)
    told = ask_all(workshop)
    assert " in until" in told[waiting]["stack"]
    assert (told[waiting]["type"], told[waiting]["state"]) == ("until", "busy")
    assert " in churn" in told[busy]["stack"]
    assert told[deaf]["stack"].startswith("no Python stack: the child did not answer (state S")
    assert told[stopped]["stack"].startswith("no Python stack: the child did not answer (state T")
    assert told[dying]["failures"] >= 2
    assert told[idle]["state"] == "idle" and " in _sleep" in told[idle]["stack"]
    os.kill(workshop.children()[stopped], signal.SIGCONT)


def test_a_child_that_is_in_c_says_where(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=1).start().ready()
    workshop.add("absent")
    workshop.started("absent")

    def stack_unanswered() -> str | None:
        """The stack that it gave without coming to answer by itself: it may still have been on its way into C."""
        stack: str = ask_all(workshop)[0]["stack"]
        return None if " in answer" in stack else stack

    assert " in absent" in workshop.wait_for(stack_unanswered)


def test_a_busy_child_can_be_asked_again_and_again(make_workshop: MakeWorkshop) -> None:
    workshop = make_workshop(pool_size=2).start().ready()
    number = workshop.add("churn", file="go-on")
    pid = workshop.started("churn")
    for _ in range(6):
        assert any(" in churn" in told["stack"] for told in ask_all(workshop).values())
    workshop.let_go()
    assert workshop.ended(number, "completed")["attempts"] == 1
    assert pid in workshop.children().values()


def test_a_question_that_its_child_does_not_live_to_answer_is_dropped(workshop: Workshop) -> None:
    workshop.add("deaf", timeout=0.1)
    pid = workshop.started("deaf")
    workshop.signal(signal.SIGUSR1)
    with contextlib.suppress(ProcessLookupError):  # its time limit may have been first
        os.kill(pid, signal.SIGKILL)
    workshop.wait_for(lambda: workshop.store.statuses() == {"dead_letter": 1})
    workshop.ready()
    assert len(ask_all(workshop)) == 2
