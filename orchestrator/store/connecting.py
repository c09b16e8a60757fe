"""How a connection comes about, and how what it is doing is waited for. Used by `Connection` alone."""

import select
import time
from collections.abc import Callable
from typing import Any

import psycopg2
from psycopg2.extensions import POLL_OK, POLL_READ, POLL_WRITE

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
    deadline = time.monotonic() + within
    servers = addresses(url, application_name=application_name)
    failures: list[DatabaseUnavailable] = []
    for index, server in enumerate(servers):
        now = time.monotonic()
        share = max(0.0, deadline - now) / (len(servers) - index)
        if on_call is not None:
            on_call(now + share + LOOK_UP_SECONDS)
        try:
            readiness = Readiness(interrupt)
            return _connect_to(server, now + share, readiness), readiness
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


def _connect_to(server: Address, deadline: float, readiness: Readiness) -> Any:
    raw = None
    try:
        settings: dict[str, Any] = {**server.parameters, "async_": 1}
        raw = psycopg2.connect(**settings)
        drive(raw, deadline, readiness)
        return raw
    except psycopg2.Error as error:
        if raw is not None:
            raw.close()
        raise DatabaseUnavailable(f"{server.name}: {refused(error)}") from error
    except DatabaseUnavailable as failure:
        if raw is not None:
            raw.close()
        raise type(failure)(f"{server.name}: {failure}") from failure
    except BaseException:
        if raw is not None:
            raw.close()
        raise


def drive(raw: Any, deadline: float, readiness: Readiness) -> None:
    """Takes an asynchronous psycopg2 connection to the end of what it is doing."""
    while (state := raw.poll()) != POLL_OK:
        readiness.await_events(raw.fileno(), _EVENTS[state], deadline)
