"""Who may start the next claim: a child that starts from the front, a supervisor that takes back from the rear."""

import json
import os
import subprocess
import sys

from tests.toys.workshop import PROJECT

SECONDS = 3


def test_each_claim_has_exactly_one_fate_whatever_is_taken_back_and_killed() -> None:
    played = subprocess.run(
        [sys.executable, "-m", "tests.toys.rounds", str(SECONDS), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    found = json.loads(played.stdout)
    assert found["problems"] == []
    assert found["rounds"] > 20
    assert set(found["fates"]) == {"ended", "handed back", "released", "crashed"}  # each was met
