"""A DATABASE_URL as the servers it names, each with what we ask of a connection to it. Pure; any process.

Must never put a password into a message.
"""

import random
from dataclasses import dataclass

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

from orchestrator.errors import DatabaseUnavailable

# A dead peer is noticed by TCP itself after these, whatever the deadlines of single statements are. Keepalives guard an
# idle connection (LISTEN), tcp_user_timeout one with a statement in flight.
TCP_LIMITS = {
    "tcp_user_timeout": "15000",
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}


@dataclass(frozen=True, slots=True)
class Address:
    """One server: `name` for messages, `parameters` for libpq."""

    name: str
    parameters: dict[str, str]


def addresses(url: str, *, application_name: str) -> list[Address]:
    """The servers of `url` in the order in which they are to be tried.

    `postgres://` and `postgresql://` URLs and `key=value` strings alike. What the URL says wins over what we add; only
    `client_encoding` is ours. DatabaseUnavailable if it is no connection string.
    """
    try:
        given: dict[str, str] = parse_dsn(url)
    except ProgrammingError:  # its text repeats parts of the URL, perhaps the password
        raise DatabaseUnavailable("DATABASE_URL is not a PostgreSQL connection string") from None
    parameters = {**TCP_LIMITS, "application_name": application_name, **given, "client_encoding": "UTF8"}
    servers = _servers(parameters)
    if parameters.pop("load_balance_hosts", "disable") == "random":
        random.shuffle(servers)
    return servers


def is_connection_string(url: str) -> bool:
    """Whether libpq understands it: the form, and the names of the parameters."""
    try:
        addresses(url, application_name="")
    except DatabaseUnavailable:
        return False
    return True


def passwords(url: str) -> tuple[str, ...]:
    """What must never be shown of `url`; nothing if it is no connection string."""
    try:
        given: dict[str, str] = parse_dsn(url)
    except ProgrammingError:
        return ()
    return tuple(value for key, value in given.items() if key.endswith("password") and value)


def _servers(parameters: dict[str, str]) -> list[Address]:
    """libpq's rules: `host` and `hostaddr` are lists of equal length, `port` is such a list or one for all."""
    hosts = parameters.get("host", "").split(",")
    host_addresses = parameters.get("hostaddr", "").split(",")
    ports = parameters.get("port", "").split(",")
    count = max(len(hosts), len(host_addresses))
    for given in (hosts, host_addresses, ports):
        if len(given) == 1:
            given.extend(given * (count - 1))
        if len(given) != count:
            raise DatabaseUnavailable("DATABASE_URL names as many ports as hosts, or one port for all")
    servers = []
    for host, host_address, port in zip(hosts, host_addresses, ports, strict=True):
        own = {"host": host, "hostaddr": host_address, "port": port}
        kept = {key: value for key, value in parameters.items() if key not in own}
        kept.update({key: value for key, value in own.items() if value})
        servers.append(Address(name=f"{host or host_address or 'the local server'}:{port or 5432}", parameters=kept))
    return servers
