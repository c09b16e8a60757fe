"""Dockerfile and docker-compose.yml, as far as they can be tried without a Docker engine."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from orchestrator.config import FIELDS, Settings
from orchestrator.dev.postgres import PrivatePostgres
from tests.fixtures.daemon import Queue, Start
from tests.fixtures.debian import install
from tests.fixtures.gates import APP
from tests.guide.text import rows

ROOT = Path(__file__).parents[2]
DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DATABASE, WORKER = COMPOSE["services"]["database"], COMPOSE["services"]["worker"]
AFTER_THE_DRAIN_SECONDS = 10


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def in_the_context() -> list[Path]:
    """What .dockerignore lets through: of the patterns that match a file or a folder above it, the last one says."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]

    def is_let_through(path: Path) -> bool:
        names = [str(each) for each in (path, *path.parents)][:-1]
        is_in = True
        for pattern in patterns:
            plain = pattern.removeprefix("!").removeprefix("**/")
            tried = [Path(name).name for name in names] if "**/" in pattern else names
            if any(fnmatch.fnmatchcase(name, plain) for name in tried):
                is_in = pattern.startswith("!")
        return is_in

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    there = listed or [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if ".venv" not in path.parts]
    return [path for path in map(Path, there) if (ROOT / path).is_file() and is_let_through(path)]


# docker-compose.yml


def test_compose_wants_the_password_and_gives_it_to_the_database_and_its_workers() -> None:
    (variable,) = (name for name, need, *_ in rows("Database Configuration").values() if need == "Docker only")
    wanted = re.compile(rf"\$\{{{variable}:\?.+\}}")
    assert wanted.fullmatch(DATABASE["environment"][variable])
    assert wanted.fullmatch(WORKER["environment"]["PGPASSWORD"])
    url = urlsplit(WORKER["environment"]["DATABASE_URL"])
    database = DATABASE["environment"]
    assert (url.hostname, url.username, url.path) == (
        "database",
        database["POSTGRES_USER"],
        f"/{database['POSTGRES_DB']}",
    )
    assert url.password is None


def test_no_worker_has_a_name_or_a_host_port_of_its_own_so_there_can_be_any_number() -> None:
    assert WORKER["deploy"]["replicas"] == 3
    assert "container_name" not in WORKER and "hostname" not in WORKER
    assert WORKER["ports"] == ["127.0.0.1::9090"], "address, any free port, and the container's"
    assert WORKER["environment"]["DISTRIBUTED_MODE"] == "true"


def test_a_worker_is_waited_for_longer_than_it_may_drain() -> None:
    default = re.search(r":-(\w+)\}", WORKER["environment"]["SHUTDOWN_TIMEOUT"])
    settings = Settings(database_url="postgres://")
    assert default is not None and default[1] == f"{settings.shutdown_timeout:.0f}s"
    assert int(WORKER["stop_grace_period"].removesuffix("s")) > settings.shutdown_timeout + AFTER_THE_DRAIN_SECONDS


def test_its_settings_are_settings_with_their_defaults() -> None:
    defaults = {each.variable: each.default or "" for each in FIELDS}
    for variable, value in WORKER["environment"].items():
        offered = re.fullmatch(rf"\$\{{{variable}:-(.*)\}}", value)
        if offered is not None:
            assert defaults[variable] == offered[1]
    assert set(WORKER["environment"]) - {"PGPASSWORD"} <= set(defaults)


@pytest.mark.slow
def test_compose_itself_accepts_it_and_refuses_it_without_the_password() -> None:
    compose = _compose()
    environ = {name: value for name, value in os.environ.items() if name not in WORKER["environment"]}
    environ.pop("POSTGRES_PASSWORD", None)

    def config(**variables: str) -> "subprocess.CompletedProcess[str]":
        command = [*compose, "--file", str(ROOT / "docker-compose.yml"), "config"]
        return subprocess.run(
            command, cwd=ROOT, env={**environ, **variables}, capture_output=True, text=True, timeout=60, check=False
        )

    accepted = config(POSTGRES_PASSWORD="s3cret")
    assert accepted.returncode == 0, accepted.stderr
    assert set(yaml.safe_load(accepted.stdout)["services"]) == {"database", "worker"}
    refused = config()
    assert refused.returncode != 0
    assert "set POSTGRES_PASSWORD" in refused.stderr


def _compose() -> list[str]:
    """Docker's plugin if it is there, else the program of Debian's package."""
    docker = shutil.which("docker")
    if docker is not None:
        plugin = subprocess.run([docker, "compose", "version"], capture_output=True, timeout=60, check=False)
        if plugin.returncode == 0:
            return [docker, "compose"]
    return install("docker-compose", "docker-compose")


def test_a_worker_with_the_password_beside_the_url_works_and_shows_it_nowhere(
    daemon: Start, private_postgres_tcp: PrivatePostgres
) -> None:
    url = private_postgres_tcp.url()
    password = urlsplit(url).password
    assert password
    shown = url.replace(f":{password}@", "@")
    worker = daemon(
        None, "--pool-size", "1", DATABASE_URL=shown, PGPASSWORD=password, ORCHESTRATOR_APP="", DEBUG="true"
    )
    queue = Queue(url)
    queue.wait_status(queue.enqueue("example:task"), "completed")
    queue.connection.close()
    assert password not in worker.log()
    assert password not in json.dumps(worker.health()[1]) + worker.get("/metrics")[1]


# Dockerfile


def test_the_image_is_made_of_what_pip_install_needs_and_of_nothing_else() -> None:
    assert instructions("COPY") == [". /src"]
    context = in_the_context()
    tops = {path.parts[0] for path in context}
    assert tops == {"LICENSE", "README.md", "orchestrator", "schema.sql", "setup.cfg", "setup.py"}
    package = {path for path in context if path.parts[0] == "orchestrator"}
    assert {ROOT / path for path in package} >= set((ROOT / "orchestrator").rglob("*.py"))
    assert Path("orchestrator/store/schema.sql") in package and Path("orchestrator/py.typed") in package


def test_it_runs_as_process_1_of_an_ordinary_user_and_is_told_by_term() -> None:
    assert [json.loads(each) for each in instructions("ENTRYPOINT") + instructions("CMD")] == [
        ["orchestratord"],
        ["start"],
    ]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    (user,) = instructions("USER")
    assert re.search(rf"useradd --uid [1-9]\d+ .*\b{user}\b", instructions("RUN")[0])
    (image,) = instructions("FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim", image)
    assert version is not None and int(version[1]) >= 11


def health_check(port: str) -> "subprocess.CompletedProcess[str]":
    """Runs the image's own command, on this Python."""
    (line,) = instructions("HEALTHCHECK")
    program, *arguments = json.loads(line.split(" CMD ", 1)[1])
    assert program == "python"
    return subprocess.run(
        [sys.executable, *arguments],
        env={"PATH": os.environ["PATH"], "METRICS_PORT": port},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_its_health_check_is_content_with_a_live_worker_and_with_nothing_else(daemon: Start, queue: Queue) -> None:
    worker = daemon(APP, "--pool-size", "1", DATABASE_URL=queue.url)
    port = str(urlsplit(worker.address).port)
    assert health_check(port).returncode == 0
    assert worker.stop() == 0
    assert health_check(port).returncode == 1
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        worker.get("/livez")


@pytest.mark.slow
def test_its_steps_make_a_program_that_starts(tmp_path: Path) -> None:
    """What the two RUN lines do, in a virtual environment instead of an image."""
    source = tmp_path / "src"
    for path in in_the_context():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, source / path, follow_symlinks=False)
    (pip,) = re.findall(r"pip install .*? /src", instructions("RUN")[1])
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "image"], check=True, timeout=120)
    in_image = [tmp_path / "image" / "bin" / "python", "-m", *pip.replace("/src", str(source)).split()]
    subprocess.run(in_image, check=True, capture_output=True, timeout=300)
    shutil.rmtree(source)
    (entry,) = (json.loads(each) for each in instructions("ENTRYPOINT"))
    program = tmp_path / "image" / "bin" / entry[0]
    done = subprocess.run([program, "start"], env={}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "DATABASE_URL is not set" in done.stderr
