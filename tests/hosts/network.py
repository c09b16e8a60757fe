"""Hosts of their own on one Linux machine: network namespaces with an address each, on a bridge. Needs root."""

import contextlib
import os
import secrets
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures.debian import install

SUBNET = "10.213.77"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


class Host:
    """A namespace. What runs in it sees the others only through the bridge."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address

    def command(self, *command: str) -> list[str]:
        """This command in there; `ip netns exec` becomes it, so its pid is the command's."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut_off(self, port: int) -> None:
        """From now on nothing goes to or comes from that TCP port, and nobody is told (DROP, no RST)."""
        _run(*self.command("iptables", "-A", "OUTPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP"))
        _run(*self.command("iptables", "-A", "INPUT", "-p", "tcp", "--sport", str(port), "-j", "DROP"))

    def reconnect(self) -> None:
        _run(*self.command("iptables", "-F"))


class Network:
    """`gateway` is this machine's address on the bridge."""

    def __init__(self, count: int) -> None:
        mark = secrets.token_hex(2)
        self._bridge = f"orch-{mark}"
        self.gateway = f"{SUBNET}.1"
        self.hosts = [Host(f"{self._bridge}-{number}", f"{SUBNET}.{10 + number}") for number in range(count)]

    def make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self.gateway}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for number, host in enumerate(self.hosts):
            outside, inside = f"{self._bridge}o{number}", f"{self._bridge}i{number}"
            _run("ip", "netns", "add", host.name)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            _run("ip", "link", "set", outside, "master", self._bridge, "up")
            _run("ip", "link", "set", inside, "netns", host.name)
            for arguments in (
                ("address", "add", f"{host.address}/24", "dev", inside), ("link", "set", inside, "up"),
                ("link", "set", "lo", "up"),
            ):  # fmt: skip
                _run("ip", "-n", host.name, *arguments)

    def remove(self) -> None:
        """Whatever there is of it."""
        for host in self.hosts:
            with contextlib.suppress(subprocess.CalledProcessError):
                _run("ip", "netns", "delete", host.name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _run("ip", "link", "delete", self._bridge)


def _need_namespaces() -> None:
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    install("iproute2", "ip")
    install("iptables", "iptables")


@pytest.fixture
def network() -> Iterator[Network]:
    """Three hosts and a bridge between them and this machine."""
    _need_namespaces()
    network = Network(3)
    try:
        try:
            network.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"this machine makes no network namespaces: {error.stderr.decode().strip()}")
        yield network
    finally:
        network.remove()
