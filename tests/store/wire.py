"""A TCP proxy before a server, to cut, to silence, or to lose replies on purpose."""

import contextlib
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from orchestrator.dev.postgres import PrivatePostgres


class Wire:
    """Forwards 127.0.0.1:`port` to a server. The flags are read for each piece of data.

    `is_silent`: nothing passes in either direction, the connections stay. `loses_replies`: requests still arrive.
    `loses_reply_to`: so it is from the first request on that contains these bytes.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._is_over = threading.Event()
        self.is_silent = False
        self.loses_replies = False
        self.loses_reply_to: bytes | None = None
        self.requests = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut(self) -> None:
        """Ends the connections that there are; one that is made meanwhile stays."""
        for end in list(self._sockets):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._is_over.set()
        self.cut()
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        pumps: list[threading.Thread] = []
        while not self._is_over.is_set():
            ready, _, _ = select.select([self._listener], [], [], 0.05)
            if not ready:
                continue
            client, _ = self._listener.accept()
            server = socket.create_connection(self._server)
            self._sockets += [client, server]
            pumps += [
                threading.Thread(target=self._pump, args=(client, server, True)),
                threading.Thread(target=self._pump, args=(server, client, False)),
            ]
            for pump in pumps[-2:]:
                pump.start()
        for pump in pumps:
            pump.join(10)
        for end in self._sockets:
            end.close()

    def _pump(self, source: socket.socket, target: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.requests += is_request
                if is_request and self.loses_reply_to is not None and self.loses_reply_to in data:
                    self.loses_replies = True
                if self.is_silent or (self.loses_replies and not is_request):
                    continue
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@pytest.fixture
def wire(private_postgres_tcp: PrivatePostgres) -> Iterator[Wire]:
    """One before the test's own server."""
    wire = Wire("127.0.0.1", private_postgres_tcp.port)
    yield wire
    wire.close()
