"""`make install` and `make uninstall`: as root on a machine, where they may be repeated, and into a folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator._version import __version__
from tests.systemd.machine import NOT_SOURCE, TOP, Machine, Service, python

ENV = "/etc/orchestratord/orchestratord.env"


@pytest.mark.slow
def test_a_second_install_is_an_upgrade_which_waits_for_the_service_and_keeps_what_is_the_users(
    machine: Machine, service: Service
) -> None:
    service.set_up()
    assert machine.run("/opt/orchestratord/venv/bin/orchestratord", "--version").stdout.split()[-1] == __version__
    assert machine.run("stat", "-c", "%U:%G %a", ENV).stdout == "root:orchestratord 640\n"
    assert machine.run("stat", "-c", "%U:%G %a", os.path.dirname(ENV)).stdout == "root:orchestratord 750\n"
    service.start()
    refused = machine.make("install", is_checked=False)
    assert refused.returncode != 0
    assert "try again: systemctl stop orchestratord.service" in refused.stderr
    machine.systemctl("stop", "orchestratord")

    machine.make("uninstall")
    assert "could not be found" in machine.run("systemctl", "status", "orchestratord", is_checked=False).stderr
    assert not machine.path("/opt/orchestratord/venv").exists()
    assert machine.path("/opt/orchestratord/app/app.py").exists()

    # what an installation leaves that died while it made the venv
    machine.run("/usr/bin/python3", "-m", "venv", "--without-pip", "/opt/orchestratord/venv")
    said = machine.make("install").stdout
    assert "systemctl enable --now orchestratord" in said and "DATABASE_URL" not in said
    assert f"DATABASE_URL={service.queue.url}\n" in machine.path(ENV).read_text()
    assert machine.run("stat", "-c", "%U:%G %a", ENV).stdout == "root:orchestratord 640\n"
    service.start()
    assert service.queue.wait_status(service.queue.enqueue("quick"), "completed")["attempts"] == 1


@pytest.mark.slow
def test_the_ten_commands_of_the_guide_end_in_a_running_service(machine: Machine, service: Service) -> None:
    """But for those that bring packages, the source, the program and the database, which are there."""
    (block,) = re.findall(r"```sh\n(.*?)```", (TOP / "docs" / "deploy.md").read_text(), re.DOTALL)
    commands = block.splitlines()
    assert len(commands) == 10
    machine.write(
        ENV, (TOP / "systemd" / "orchestratord.env").read_text() + "METRICS_PORT=0\n"
    )  # 9090 may be taken here
    assert "make -C /usr/local/src/orchestratord install" in commands  # that is how the machine was made
    there = ("apt-get ", "git clone ", "make ", "runuser ", "curl ")
    said = []
    for command in commands:
        if not command.startswith(there):
            command = command.replace("postgres:///tasks?host=/run/postgresql", service.queue.url)
            said.append(machine.run("sh", "-c", command).stdout)
    assert "Active: active (running)" in said[-1]
    service.wait_status("0/10 running, single instance")
    assert service.queue.wait_status(service.queue.enqueue("example:task"), "completed")["attempts"] == 1
    machine.systemctl("disable", "orchestratord")


@pytest.mark.slow
def test_an_image_is_installed_into_a_folder_and_works_where_it_is_moved_to(tmp_path: Path) -> None:
    source, image = tmp_path / "source", tmp_path / "image"
    shutil.copytree(TOP, source, ignore=NOT_SOURCE, symlinks=True)
    before = {path.name for path in source.iterdir()}
    prefix = tmp_path / "moved"
    command = ["make", "-C", source, "install", f"DESTDIR={image}", f"PREFIX={prefix}", f"PYTHON={python()}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DATABASE_URL at the least" in done.stdout
    unit = (image / "usr/local/lib/systemd/system/orchestratord.service").read_text()
    assert f"\nExecStart={prefix}/venv/bin/orchestratord start\n" in unit and "/opt/orchestratord" not in unit
    assert (image / "etc/orchestratord/orchestratord.env").stat().st_mode & 0o777 == 0o640
    assert (image / "etc/orchestratord").stat().st_mode & 0o777 == 0o750
    assert (image / "usr/local/lib/sysusers.d/orchestratord.conf").exists()

    assert {path.name for path in source.iterdir()} == before, "nothing of root's is left in the clone"

    shutil.move(f"{image}{prefix}", prefix)
    run = {"capture_output": True, "text": True, "timeout": 60, "check": True, "cwd": tmp_path}
    assert subprocess.run([prefix / "venv/bin/orchestratord", "--version"], **run).stdout.split()[-1] == __version__
    (prefix / "app" / "shop.py").write_text("")
    where = "import shop, sys; print(shop.__file__, sys.prefix)"
    found = subprocess.run([prefix / "venv/bin/python", "-c", where], **run).stdout.split()
    assert found == [str(prefix / "app" / "shop.py"), str(prefix / "venv")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("DESTDIR=a b",), "letters, digits"),
        (("PREFIX=opt/orchestratord",), "begins with /"),
        (("PREFIX=/opt/orchestratord/",), "ends without one"),
        (("PYTHON=/nowhere/python",), "Python 3.11 or newer"),
    ],
)
def test_what_cannot_be_installed_says_so_before_anything_is_done(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    command = ["make", "-C", TOP, "install", f"DESTDIR={tmp_path}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("orchestratord: ")]
    assert said in line
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may install")
def test_without_root_it_says_that_it_needs_it() -> None:
    done = subprocess.run(
        ["make", "-C", TOP, "install", f"PYTHON={sys.executable}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0 and "sudo make install" in done.stderr
