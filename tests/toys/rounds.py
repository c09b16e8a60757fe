"""Rounds of one child that runs batches and one supervisor that takes back and kills at random. Run it with -m.

It plays each side with the project's own board and permissions, keeps its own record of what happened, and prints, as
JSON, how many claims had which fate and every claim that had none or two.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

from orchestrator.board.channel import Permits
from orchestrator.board.child_half import ChildBoard
from orchestrator.board.layout import ChildOrder, SlotState, Word
from orchestrator.board.memory import create_memory
from orchestrator.board.supervisor_half import SupervisorBoard
from orchestrator.model import Claim, Outcome, TaskStatus
from orchestrator.retry import RetryPolicy
from orchestrator.supervisor.attribution import settle_estate

BATCHES = 4
LARGEST = 40
CAPACITY = 100
ENOUGH, MORE_SECONDS = 30, 20.0
"""So many rounds, and each fate, are to be seen: on a slow machine it takes so much longer at the most."""


class Truth:
    """What really happened to each token, kept beside the board in memory of its own: one byte each."""

    def __init__(self) -> None:
        size = BATCHES * LARGEST + 1
        self.published = mmap.mmap(-1, size)
        self.ran = mmap.mmap(-1, size)
        self.wrote = mmap.mmap(-1, size)

    def close(self) -> None:
        for each in (self.published, self.ran, self.wrote):
            each.close()


def play_child(memory: int, permits: Permits, truth: Truth, dice: random.Random) -> None:
    """As child/loop.py does: publish, allow, start what is permitted, record, settle, write; or publish the next batch
    while what ended is on its way to the database."""
    board = ChildBoard(memory)
    unwritten: list[tuple[int, int]] = []
    on_their_way = 0

    def send() -> None:
        nonlocal on_their_way
        for index, token in unwritten:
            if not board.supervisor_wrote(index, token):
                truth.wrote[token] += 1
        on_their_way = len(unwritten)

    def hear() -> None:
        nonlocal on_their_way
        if on_their_way:
            board.outcomes_written(unwritten[on_their_way - 1][0] + 1)
            del unwritten[:on_their_way]
            on_their_way = 0

    def flush() -> None:
        hear()
        send()
        hear()

    token = 0
    for _ in range(BATCHES):
        tokens = [token := token + 1 for _ in range(dice.randint(1, LARGEST))]
        if unwritten and not board.has_place(len(tokens)):
            flush()
        first = board.word(Word.COUNT) if unwritten else 0
        board.publish([(Claim(f"{each:036d}", "t", each, None, 1, None, None, False), 3) for each in tokens])
        for each in tokens:
            truth.published[each] = 1
        permits.add(len(tokens))
        board.enter(SlotState.BUSY)
        for index, each in enumerate(tokens, first):
            if board.order is not ChildOrder.WORK or not permits.take():
                break
            board.start(0)
            truth.ran[each] += 1
            for _ in range(dice.choice((0, 100, 1000, 4000))):
                pass
            board.end(Outcome(f"{each:036d}", each, "t", TaskStatus.COMPLETED, 1, 0.0, 0.0, None, "{}"))
            unwritten.append((index, each))
            if dice.random() < 0.1:
                dice.choice((flush, hear))()
        while not board.has_settled:
            if board.order is ChildOrder.LEAVE:
                return
            os.sched_yield()
        if dice.random() < 0.5:
            flush()
        else:
            hear()
            send()


@dataclass
class Round:
    """What the supervisor's side saw of one child."""

    handed_back: list[int] = field(default_factory=list)
    written: set[int] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    fates: Counter[str] = field(default_factory=Counter)


def play_supervisor(pid: int, board: SupervisorBoard, permits: Permits, dice: random.Random, seen: Round) -> None:
    """Take back, write, order and kill at random until the child is gone."""
    deadline = time.monotonic() + 0.0005 + dice.random() * 0.008
    does_kill = dice.random() < 0.6
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if does_kill and time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            break
        act = dice.random()
        if act < 0.02 or board.order is not ChildOrder.WORK:
            taken = permits.take_up_to(dice.choice((1, 3, LARGEST)))
            seen.handed_back += [claim.token for claim in board.hand_back(taken)] if taken else []
        elif act < 0.04:
            view = board.read()
            tokens = frozenset(outcome.token for outcome in view.outcomes) if view is not None else frozenset()
            seen.written |= tokens
            board.mark_written(tokens)
        elif act < 0.041:
            board.give(dice.choice((ChildOrder.PAUSE, ChildOrder.LEAVE)))


def judge(board: SupervisorBoard, permits: Permits, truth: Truth, seen: Round) -> None:
    """The child is gone: settle what it left, and see that each claim had exactly one fate."""
    left = permits.take_up_to(board.capacity)
    taken_back = board.hand_back(left) if left else ()
    view = board.read()
    estate = settle_estate(
        view, taken_back, cause="killed", doom=None, now=0.0, policy=lambda _: RetryPolicy(base=0.0, cap=0.0)
    )
    casualty = estate.casualty.token if estate.casualty is not None else None
    ended = {each.token for each in estate.outcomes if each.token != casualty} | seen.written
    released = [claim.token for claim in estate.released]
    handed_back = Counter(seen.handed_back)
    published = [token for token in range(len(truth.published)) if truth.published[token]]
    for token in published:
        fates = ["handed back"] * handed_back[token] + ["released"] * released.count(token)
        fates += ["ended"] * (token in ended or truth.wrote[token] > 0) + ["crashed"] * (token == casualty)
        ran = truth.ran[token]
        is_right = len(fates) == 1 and ran <= (fates[0] in ("ended", "crashed")) and (ran or fates[0] != "ended")
        if not is_right:
            seen.problems.append(f"claim {token} of {len(published)}: fates {fates}, ran {ran} times")
        seen.fates.update(fates)
    unknown = ({*released, *ended, *handed_back} | ({casualty} - {None})) - set(published)
    if any(truth.ran[token] for token in unknown if token is not None):
        seen.problems.append(f"claims that ran before they were published: {unknown}")


def play(dice: random.Random) -> Round:
    memory, permits, truth = create_memory("round", CAPACITY), Permits.create(), Truth()
    board = SupervisorBoard(memory)
    pid = os.fork()
    if pid == 0:
        play_child(memory, permits, truth, random.Random(dice.random()))
        os._exit(0)
    seen = Round()
    play_supervisor(pid, board, permits, dice, seen)
    judge(board, permits, truth, seen)
    board.close()
    permits.close()
    truth.close()
    os.close(memory)
    return seen


def main(seconds: float, seed: int) -> None:
    dice = random.Random(seed)
    deadline = time.monotonic() + seconds
    rounds, fates, problems = 0, Counter[str](), []
    while (now := time.monotonic()) < deadline or (
        now < deadline + MORE_SECONDS and (rounds < ENOUGH or len(fates) < 4)
    ):
        found = play(dice)
        rounds += 1
        fates += found.fates
        problems += [f"round {rounds}: {problem}" for problem in found.problems]
    sys.stdout.write(json.dumps({"rounds": rounds, "fates": fates, "problems": problems[:20]}))


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
