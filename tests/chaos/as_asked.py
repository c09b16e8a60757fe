"""One chaos run as CHAOS_SECONDS, CHAOS_SEED and CHAOS_PROFILE say: for `make chaos`, which names this file."""

import os
import random
import shutil
from pathlib import Path

from orchestrator.dev.postgres import PrivatePostgres
from tests.chaos.test_chaos import FAKETIME, chaos
from tests.fixtures.daemon import Start
from tests.fixtures.debian import library


def test_as_asked(private_postgres_tcp: PrivatePostgres, daemon: Start, tmp_path: Path) -> None:
    seconds, seed = float(os.environ["CHAOS_SECONDS"]), os.environ.get("CHAOS_SEED", "")
    profile = os.environ.get("CHAOS_PROFILE") or "mixed"
    try:
        clock = library(*FAKETIME)
        chaos(
            private_postgres_tcp,
            daemon,
            tmp_path,
            seconds,
            int(seed or random.randrange(100_000)),
            profile,
            faketime=clock,
        )
    finally:
        if os.environ.get("CHAOS_KEEP"):
            shutil.copytree(tmp_path, os.environ["CHAOS_KEEP"], dirs_exist_ok=True)
