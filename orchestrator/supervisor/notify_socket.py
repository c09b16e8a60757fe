"""sd_notify(3): lines to the service manager (systemd), a datagram to the socket that it names in NOTIFY_SOCKET.

Never blocks and never raises: a service manager that is slow or gone must not hold up the loop.
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Self

VARIABLE = "NOTIFY_SOCKET"


class NotifySocket:
    """Our end, which is connected to nothing: the service manager may be restarted meanwhile."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address  # @: Linux's abstract names
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Self | None:
        """None: no service manager wants to be told, or not by a Unix socket."""
        address = environ.get(VARIABLE, "")
        return cls(address) if address.startswith(("/", "@")) else None

    def send(self, lines: Sequence[str]) -> bool:
        """Whether the lines, one datagram, have been taken. If not, they may be sent again later."""
        try:
            self._socket.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except (OSError, ValueError):  # its queue is full, it is gone, or there never was one under this name
            return False
        return True

    def close(self) -> None:
        self._socket.close()
