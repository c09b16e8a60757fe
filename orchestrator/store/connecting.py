"""How a connection comes about, and how what it is doing is waited for. Used by `Connection` alone."""

import select
import time
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE, connection, make_dsn

from orchestrator.errors import DatabaseUnavailable, DeadlineExceeded
from orchestrator.store.addresses import Address, addresses
from orchestrator.store.failures import refused
from orchestrator.store.readiness import Interrupted, Readiness

_EVENTS = {POLL_READ: select.POLLIN, POLL_WRITE: select.POLLOUT}

LOOK_UP_SECONDS = 60.0
"""Looking a name up may take so long: the system's resolver has timeouts of its own, for each name server and try."""

OnCall = Callable[[float], None]
"""Told before each call by when (CLOCK_MONOTONIC seconds) it will have returned."""


def connect(
    url: str, *, within: float, application_name: str, interrupt: int | None, on_call: OnCall | None
) -> tuple[Any, Readiness]:
    """An asynchronous psycopg2 connection to the first server of `url` that takes us, and who waits for its socket.

    What it promises and raises: see `Connection.open`.
    """
    servers = addresses(url, application_name=application_name)
    failures: list[DatabaseUnavailable] = []
    left = within  # what looking names up takes is not taken from it: the next server would have nothing left
    for index, server in enumerate(servers):
        share = max(0.0, left) / (len(servers) - index)
        if on_call is not None:
            on_call(time.monotonic() + share + LOOK_UP_SECONDS)
        try:
            raw = _begin(server)
            began = time.monotonic()
            try:
                readiness = Readiness(interrupt)
                _go_on(raw, server, began + share, readiness)
                return raw, readiness
            finally:
                left -= time.monotonic() - began
        except Interrupted:
            raise
        except DatabaseUnavailable as failure:
            failures.append(failure)
    if len(failures) == 1:
        raise failures[0]
    message = "; ".join(str(failure) for failure in failures)
    if all(isinstance(failure, DeadlineExceeded) for failure in failures):
        raise DeadlineExceeded(message)
    raise DatabaseUnavailable(message)


def _begin(server: Address) -> Any:
    """An asynchronous connection on its way, once the server's name is looked up.

    Not by psycopg2.connect(): tracers (Datadog's, New Relic's) have that return a wrapper, which `register_type` does
    not take, and each claim would be a trace.
    """
    try:
        return connection(make_dsn(**server.parameters), async_=1)
    except (psycopg2.Error, UnicodeDecodeError) as error:
        raise DatabaseUnavailable(f"{server.name}: {refused(error)}") from error


def _go_on(raw: Any, server: Address, deadline: float, readiness: Readiness) -> None:
    try:
        drive(raw, deadline, readiness)
    except (psycopg2.Error, UnicodeDecodeError) as error:
        raw.close()
        raise DatabaseUnavailable(f"{server.name}: {refused(error)}") from error
    except DatabaseUnavailable as failure:
        raw.close()
        raise type(failure)(f"{server.name}: {failure}") from failure
    except BaseException:
        raw.close()
        raise


def drive(raw: Any, deadline: float, readiness: Readiness) -> None:
    """Takes an asynchronous psycopg2 connection to the end of what it is doing."""
    while (state := raw.poll()) != POLL_OK:
        readiness.await_events(raw.fileno(), _EVENTS[state], deadline)
