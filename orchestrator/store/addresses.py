"""A DATABASE_URL as the servers it names, each with what we ask of a connection to it. Pure; any process.

Must never put a password into a message.
"""

import random
import re
from typing import NamedTuple
from urllib.parse import unquote

from psycopg2 import ProgrammingError
from psycopg2.extensions import parse_dsn

from orchestrator.errors import DatabaseUnavailable

NO_CONNECTION_STRING = (
    "libpq takes it for no connection string: write postgres://user:password@host:port/database, "
    "%-escape what is special in the password, and look at the names of the parameters"
)
SQLALCHEMYS = "the driver after the + is SQLAlchemy's: write postgresql://user:password@host:port/database"
UNCLEAR_PASSWORD = (
    "where the password ends cannot be told: %-escape what is special in it, or in the user's name; "
    "write %40 for @, %2F for /, %3A for :, %3F for ?"
)
WRONG_PORT = (
    "a port is a number from 1 to 65535; if this is the password, write postgres://user:password@host:port/database "
    "and %-escape what is special in it, such as %40 for @, %2F for /"
)
WRONG_PORTS = "it must name as many ports as hosts, or one port for all"

# A dead peer is noticed by TCP itself after these, whatever the deadlines of single statements are. Keepalives guard an
# idle connection (LISTEN), tcp_user_timeout one with a statement in flight.
TCP_LIMITS = {
    "tcp_user_timeout": "15000",
    "keepalives": "1",
    "keepalives_idle": "15",
    "keepalives_interval": "5",
    "keepalives_count": "3",
}


class Address(NamedTuple):
    """One server: `name` for messages, `parameters` for libpq."""

    name: str
    parameters: dict[str, str]


def addresses(url: str, *, application_name: str) -> list[Address]:
    """The servers of `url` in the order in which they are to be tried.

    `postgres://` and `postgresql://` URLs and `key=value` strings alike. What the URL says wins over what we add; only
    `client_encoding` is ours. Of several servers those that can only be read are passed over, unless it says
    otherwise. DatabaseUnavailable, with what `url_problem` says, if it cannot be used.
    """
    given = _parameters(url)
    parameters = {**TCP_LIMITS, "application_name": application_name, **given, "client_encoding": "UTF8"}
    servers = _servers(parameters)
    if len(servers) > 1:
        for server in servers:
            server.parameters.setdefault("target_session_attrs", "read-write")
    if parameters.pop("load_balance_hosts", "disable") == "random":
        random.shuffle(servers)
    return servers


def url_problem(url: str) -> str | None:
    """Why nothing can be connected by `url`, whatever the servers do, or None. No part of it is repeated."""
    try:
        _servers(_parameters(url))
    except _Unusable as problem:
        return problem.reason
    return None


class _Unusable(DatabaseUnavailable):
    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"DATABASE_URL cannot be used: {reason}")


def _parameters(url: str) -> dict[str, str]:
    if re.match(r"postgres(ql)?\+\w+://", url):
        raise _Unusable(SQLALCHEMYS)
    if _is_unclear(url):
        raise _Unusable(UNCLEAR_PASSWORD)
    try:
        given: dict[str, str] = parse_dsn(url)
    except (ProgrammingError, ValueError):  # its text repeats parts of the URL, perhaps the password
        raise _Unusable(NO_CONNECTION_STRING) from None
    return given


def _is_unclear(url: str) -> bool:
    """Whether libpq might take a part of the password for a host, a port or a database, and quote it in its errors.

    It ends user and password at the first @ that comes before any /: what has another @ before its query was probably
    meant otherwise.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("postgres", "postgresql"):
        return False
    user, at, address = rest.partition("@")
    if not at or "/" in user:
        return "@" in rest.partition("?")[0]
    is_query = re.search(r"[?&]\w*password=", unquote(user)) is not None
    has_long_bracket = re.match(r"[^?/]*\[[^\]]*[@?/]", address) is not None  # to libpq a host goes on to the ]
    return is_query or has_long_bracket or "@" in address.partition("?")[0]


def passwords(url: str) -> tuple[str, ...]:
    """What must never be shown of `url`; nothing if it is no connection string."""
    try:
        given: dict[str, str] = parse_dsn(url)
    except (ProgrammingError, ValueError):  # the latter: NUL, or no UTF-8
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
            raise _Unusable(WRONG_PORTS)
    if not all(_is_port(port) for port in ports):  # libpq would quote it
        raise _Unusable(WRONG_PORT)
    servers = []
    for host, host_address, port in zip(hosts, host_addresses, ports, strict=True):
        own = {"host": host, "hostaddr": host_address, "port": port}
        kept = {key: value for key, value in parameters.items() if key not in own}
        kept.update({key: value for key, value in own.items() if value})
        servers.append(Address(name=f"{host or host_address or 'the local server'}:{port or 5432}", parameters=kept))
    return servers


def _is_port(text: str) -> bool:
    """As libpq reads it; nothing is the default."""
    return not text or (re.fullmatch(r"\s*\+?[0-9]{1,9}\s*", text) is not None and 1 <= int(text) <= 65535)
