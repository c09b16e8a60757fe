"""The HTTP server of the supervisor: a listening socket, one thread that accepts, one for each open request.

It must never hold the supervisor up: connections are few, each has a deadline, and whoever is slow is cut off.
"""

import errno
import io
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from socketserver import ThreadingMixIn
from typing import Any, BinaryIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client.registry import Collector

from orchestrator.board.kernel import start_thread
from orchestrator.errors import ConfigurationError, Problem
from orchestrator.status.pages import Pages
from orchestrator.status.snapshot import Snapshot

REQUEST_SECONDS = 10.0
"""A request that is not answered by then is cut off; Prometheus's own scrape timeout is 10 s."""

MAX_CONNECTIONS = 32
MAX_REQUEST_BYTES = 1 << 17
"""Python by itself takes 65 KB in each of a hundred lines, and ten times that memory to read them."""

ROOM_SECONDS = 1.0
BIND_PAUSE_SECONDS = 0.1
SWEEP_SECONDS = 0.5
SHORTAGE_PAUSE_SECONDS = 0.2
"""How long to leave a connection waiting when there is no descriptor to accept it with."""


class RequestHandler(WSGIRequestHandler):
    """One request a connection, logged nowhere."""

    timeout = REQUEST_SECONDS
    server_version = "orchestratord"
    sys_version = ""

    def setup(self) -> None:
        super().setup()
        self.rfile: Any = _Question(self.rfile)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are no events."""

    def get_stderr(self) -> io.StringIO:
        """Where wsgiref prints the traceback of a client that went away."""
        return io.StringIO()


class _Question:
    """What a client says. HTTPException, which is answered with 431, once that is more than MAX_REQUEST_BYTES."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._room = MAX_REQUEST_BYTES
        self.close = stream.close

    def readline(self, size: int) -> bytes:
        line = self._stream.readline(size)
        self._room -= len(line)
        if self._room < 0:
            raise HTTPException(f"more than {MAX_REQUEST_BYTES} bytes")
        return line


class Listener(ThreadingMixIn, WSGIServer):
    """A socket server whose connections are bounded in number and in time."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, family: socket.AddressFamily, address: tuple[Any, ...]) -> None:
        self.address_family = family
        self._deadlines: dict[socket.socket, float] = {}
        self._ended = threading.Condition()
        super().__init__(address, RequestHandler)

    def server_bind(self) -> None:
        """As WSGIServer does, without its look-up of our own name, which a broken DNS would hold up."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; out of descriptors, wait a little rather than try without end."""
        try:
            return self.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                time.sleep(SHORTAGE_PAUSE_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve it in a thread of its own. With too many open the oldest gives way: it is the likeliest to be stuck.

        Where no thread may be started it is served in this one, for a worker that works must not fail its probes; but
        for nobody is there waited here.
        """
        with self._ended:
            if len(self._deadlines) >= MAX_CONNECTIONS:
                _cut(min(self._deadlines, key=self._deadlines.__getitem__))
                self._ended.wait_for(lambda: len(self._deadlines) < MAX_CONNECTIONS, ROOM_SECONDS)
            has_room = len(self._deadlines) < MAX_CONNECTIONS
            if has_room:
                self._deadlines[request] = time.monotonic() + REQUEST_SECONDS
        if not has_room:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            if _has_asked(request):
                self.process_request_thread(request, client_address)
            else:
                self.shutdown_request(request)

    def service_actions(self) -> None:
        """Called between requests and every SWEEP_SECONDS: cut off whoever is over time."""
        now = time.monotonic()
        with self._ended:
            for request, deadline in self._deadlines.items():
                if deadline < now:
                    _cut(request)

    def shutdown_request(self, request: Any) -> None:
        """The end of every connection, however it went."""
        with self._ended:
            self._deadlines.pop(request, None)
            self._ended.notify()
        try:
            request.shutdown(socket.SHUT_WR)
            request.setblocking(False)
            request.recv(1 << 16)  # a body nobody asked for: closing over it would reset the answer on its way
        except OSError:
            pass  # nothing came, or the client has gone
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or was cut off is nobody's error."""


class StatusServer:
    """Serves the pages. `bind`, then `start`, then `stop`, all by the supervisor's main thread."""

    def __init__(
        self,
        host: str,
        port: int,
        collectors: Sequence[Collector],
        *,
        snapshot: Callable[[], Snapshot],
        loop_age: Callable[[], float],
    ) -> None:
        """`snapshot` and `loop_age` (seconds since the supervisor's loop last turned) are called by other threads."""
        self._host = host
        self._port = port
        self._pages = Pages(collectors, snapshot, loop_age)
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def bind(self, *, within: float = 5.0, is_cancelled: Callable[[], bool] = lambda: False) -> None:
        """Take the port, if need be once whoever has it leaves it.

        Raises ConfigurationError, which names what is wrong, when `within` seconds are over or `is_cancelled` says so.
        """
        deadline = time.monotonic() + within
        while self._listener is None:
            try:
                family, address = self._resolved()
                self._listener = Listener(family, address)
            except OSError as error:
                is_taken = error.errno == errno.EADDRINUSE
                if not is_taken or time.monotonic() > deadline or is_cancelled():
                    raise ConfigurationError([self._problem(error)]) from error
                time.sleep(BIND_PAUSE_SECONDS)
        self._listener.set_app(self._pages)

    def _resolved(self) -> tuple[socket.AddressFamily, tuple[Any, ...]]:
        flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
        try:
            found = socket.getaddrinfo(self._host or None, self._port, type=socket.SOCK_STREAM, flags=flags)
        except UnicodeError as error:  # two dots in a row, or more than 63 characters between two
            raise socket.gaierror(socket.EAI_NONAME, "that is no name of a host") from error
        family, _, _, _, address = found[0]
        return family, address

    def _problem(self, error: OSError) -> Problem:
        reason = error.strerror or str(error)
        if isinstance(error, socket.gaierror) or error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            accepted = f"{reason}. Accepted: an address of this machine, 0.0.0.0 for all of them"
            return Problem("METRICS_HOST", self._host, accepted)
        if error.errno == errno.EADDRINUSE:
            reason = f"port {self._port} of {self._host} is taken by another program"
        return Problem("METRICS_PORT", str(self._port), f"{reason}. Accepted: a free port, or 0 for any")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are listened on."""
        if self._listener is None:
            raise AssertionError("BUG: bind comes first")
        return self._listener.server_name, self._listener.server_port

    def start(self) -> None:
        """Serve from now on, in the background. NoRoomError: no thread may run."""
        if self._listener is None:
            raise AssertionError("BUG: bind comes first")
        thread = threading.Thread(target=self._serve, args=(self._listener,), name="status", daemon=True)
        start_thread(thread)
        self._thread = thread

    def _serve(self, listener: Listener) -> None:
        # signals are the main thread's; the threads of the requests inherit this mask
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        listener.serve_forever(poll_interval=SWEEP_SECONDS)

    def stop(self) -> None:
        """Close the port. Requests under way end with the process."""
        if self._listener is not None:
            if self._thread is not None:
                self._listener.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which waits for a connection
                self._listener.shutdown()
                self._thread.join()
            self._listener.server_close()
            self._listener = None


def _has_asked(request: socket.socket) -> bool:
    """Whether all of the question is there, or comes at once."""
    poll = select.poll()
    poll.register(request, select.POLLIN)
    return bool(poll.poll(SHORTAGE_PAUSE_SECONDS * 1000)) and b"\r\n\r\n" in request.recv(1 << 16, socket.MSG_PEEK)


def _cut(request: socket.socket) -> None:
    """Wake the thread that waits for this client: its read ends, its write fails."""
    try:
        request.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
