"""The chaos test is itself tested: workers with a bug on purpose, in a copy of the package, are found out."""

from pathlib import Path

import pytest

from tests.chaos.checker import check
from tests.chaos.test_chaos import run
from tests.fixtures.daemon import Start
from tests.fixtures.database import private_server
from tests.fixtures.planted import plant

FENCE = "AND t.claim_token = o.token AND t.status BETWEEN 'claimed' AND 'running'\n    RETURNING o.token"
LEASE = "WHERE id = 1 AND term = %(term)s AND holder = %(holder)s AND expires_at > clock_timestamp() FOR SHARE"
DEPOSED = "self.drop()\n        return False\n\n    def resign"
TRUST = "return time.monotonic() < self.term.trusted_until"

BUGS = {
    "outcomes are not fenced": (
        "zombies", {"stale outcome", "ended twice", "transition", "attempts"},
        [("store/claim_sql.py", FENCE, "RETURNING o.token")],
    ),
    "outcomes are fenced by the status only": (
        "zombies", {"stale outcome"},
        [("store/claim_sql.py", FENCE, "AND t.status BETWEEN 'claimed' AND 'running'\n    RETURNING o.token")],
    ),
    "outcomes are fenced by the attempt only": (
        "zombies", {"stale outcome"},
        [
            ("store/claim_sql.py", FENCE, "AND t.status BETWEEN 'claimed' AND 'running'"
             " AND t.attempts + (t.status = 'claimed')::integer = o.attempt\n    RETURNING o.token"),
            ("supervisor/watch.py", "MARK_RUNNING_SECONDS = 0.15", "MARK_RUNNING_SECONDS = 1e9"),  # a wide window
        ],
    ),
    "a leader's writes are not fenced": (
        "zombies", {"leader's write"},
        [("store/upkeep.py", LEASE, "WHERE id = 1 FOR SHARE"), ("coordinator/standing.py", TRUST, "return True"),
         ("coordinator/leadership.py", DEPOSED, "return True\n\n    def resign")],
    ),
    "workers are declared dead too early": (
        "zombies", {"declared dead"},
        [("coordinator/duties/recovery.py", "timeout_seconds=silence.timeout_seconds", "timeout_seconds=0.6")],
    ),
    "a recovery gives the attempt back": (
        "zombies", {"attempts"},
        [("store/upkeep.py", "    recoveries = least(t.rec", "    attempts = 0, recoveries = least(t.rec")],
    ),
    "claims whose reply was lost are forgotten": (
        "replies", {"unfinished"}, [("supervisor/course.py", "if ghosts:", "if not ghosts:")],
    ),
}  # fmt: skip
"""By name: the profile that finds it, the rules that it breaks, and what to replace by what in which file."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_the_checker_finds(bug: str, daemon: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one of six runs: some need a pause at the right moment, which three runs in four have."""
    profile, rules, changes = BUGS[bug]
    monkeypatch.setattr("tests.fixtures.daemon.ENTRY", plant(tmp_path / "planted", changes))
    seen = []
    for seed in range(1, 7):
        (tmp_path / "record").unlink(missing_ok=True)
        with private_server(listens_tcp=True) as server:
            history, summary = run(server, daemon, tmp_path, seconds=30, seed=seed, profile=profile, quiet_within=10)
        found = {violation.rule for violation in check(history)}
        if found & rules:
            return
        seen.append(f"seed {seed}: {found or 'nothing'} in {summary}")
    raise AssertionError("\n".join(seen))
