"""The pages over real sockets: what they answer, and that no client can hold the server up."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from orchestrator.errors import ConfigurationError
from orchestrator.status import server as server_module
from orchestrator.status.gauges import SnapshotGauges
from orchestrator.status.server import MAX_CONNECTIONS, MAX_REQUEST_BYTES, StatusServer
from orchestrator.status.snapshot import Snapshot

PATIENCE = 20.0
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}


class Broken:
    def collect(self) -> Iterator[Metric]:
        raise RuntimeError("no")


class Clash:
    """Metrics of a user's app that bear a name of ours."""

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("worker_pool_active", "theirs", value=99)
        yield GaugeMetricFamily("theirs", "theirs", value=1)


def snapshot(state: str = "running") -> Snapshot:
    return Snapshot(
        worker_id="host-1-abc", version="1.0.0", distributed=False, state=state, is_paused=False, pool_capacity=10,
        pool_active=3, slots_ready=10, is_database_reachable=True, is_leader=True, workers_total=1,
    )  # fmt: skip


def made(host: str = "127.0.0.1", port: int = 0, now: Callable[[], Snapshot] = snapshot) -> StatusServer:
    return StatusServer(host, port, [SnapshotGauges(now), Broken(), Clash()], snapshot=now, loop_age=lambda: 0.1)


@pytest.fixture
def server() -> Iterator[StatusServer]:
    running = made()
    running.bind()
    running.start()
    yield running
    running.stop()


def ask(
    server: StatusServer,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(*server.address, timeout=PATIENCE)
    try:
        connection.request(method, path, body=body, headers=headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def until(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not is_so():
        assert time.monotonic() < deadline, what
        pause.wait(0.01)


def accepts(client: socket.socket, data: bytes) -> bool:
    try:
        client.sendall(data)
    except OSError:
        return False
    return True


def request_threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


class TestPages:
    def test_health_is_the_guides_json(self, server: StatusServer) -> None:
        status, headers, body = ask(server, "/health")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body) == {
            "status": "healthy", "worker_id": "host-1-abc", "version": "1.0.0", "distributed": False,
        }  # fmt: skip

    def test_health_of_a_draining_worker_is_503(self) -> None:
        server = made(now=lambda: snapshot("draining"))
        server.bind()
        server.start()
        status, _, body = ask(server, "/health")
        server.stop()
        assert status == 503
        assert json.loads(body)["reason"].startswith("draining")

    @pytest.mark.parametrize("version", ["abc", "1.0.0\r\n X: y", "1.\x1b[31m"])
    def test_a_version_that_is_none_gets_the_plain_format_and_no_line_in_the_log(
        self, server: StatusServer, version: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        with socket.create_connection(server.address, timeout=PATIENCE) as client:
            client.sendall(
                f"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text;version={version}\r\n\r\n".encode()
            )
            answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
        assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n" in answer
        assert "page_failed" not in caplog.text

    def test_metrics_are_what_prometheus_reads_in_both_its_formats(self, server: StatusServer) -> None:
        _, headers, body = ask(server, "/metrics")
        assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
        old = {family.name: family for family in plain(body.decode())}
        _, headers, body = ask(server, "/metrics", headers=OPENMETRICS)
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        new = {family.name: family for family in openmetrics(body.decode())}  # type: ignore[no-untyped-call]
        assert len(new) == len(old)
        for families in (old, new):
            assert families["worker_pool_active"].samples[0].value == 3
            assert families["theirs"].samples[0].value == 1

    def test_a_collector_that_fails_costs_its_own_metrics_only_and_is_counted(self, server: StatusServer) -> None:
        ask(server, "/metrics")
        assert b"\nmetrics_collect_failures_total 2.0" in ask(server, "/metrics")[2]

    def test_metrics_can_be_asked_for_by_name(self, server: StatusServer) -> None:
        _, _, body = ask(server, "/metrics?name[]=worker_pool_capacity")
        assert [line for line in body.decode().splitlines() if not line.startswith("#")] == [
            "worker_pool_capacity 10.0"
        ]

    @pytest.mark.parametrize("path", ["/livez", "/readyz", "/health/", "/metrics/", "/health?verbose=1"])
    def test_the_other_pages_answer(self, server: StatusServer, path: str) -> None:
        assert ask(server, path)[0] == 200

    @pytest.mark.parametrize("path", ["/health", "/metrics", "/nowhere"])
    def test_head_has_the_headers_of_get_and_no_body(self, server: StatusServer, path: str) -> None:
        status, headers, body = ask(server, path, "HEAD")
        expected_status, expected, expected_body = ask(server, path)
        assert (status, body) == (expected_status, b"")
        assert headers["Content-Type"] == expected["Content-Type"]
        assert abs(int(headers["Content-Length"]) - len(expected_body)) < 10

    @pytest.mark.parametrize("path", ["/", "/metricsx", "/favicon.ico", "/../etc/passwd", "/%00", "/health/x"])
    def test_an_unknown_page_is_404_and_names_the_known_ones(self, server: StatusServer, path: str) -> None:
        status, _, body = ask(server, path)
        assert status == 404
        assert b"/metrics, /health" in body

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    @pytest.mark.parametrize("path", ["/metrics", "/health"])
    def test_other_methods_are_405(self, server: StatusServer, path: str, method: str) -> None:
        status, headers, _ = ask(server, path, method, body=b"x" * 1000)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")

    def test_a_page_that_fails_is_500_without_a_word_about_why(self, capfd: pytest.CaptureFixture[str]) -> None:
        def fail() -> Snapshot:
            raise RuntimeError("secret inner workings")

        server = made(now=fail)
        server.bind()
        server.start()
        status, _, body = ask(server, "/health")
        server.stop()
        assert status == 500
        assert b"secret" not in body

    def test_nothing_tells_which_python_runs(self, server: StatusServer) -> None:
        assert ask(server, "/health")[1]["Server"] == "orchestratord"
        with socket.create_connection(server.address, timeout=PATIENCE) as client:
            client.sendall(b"NONSENSE\r\n\r\n")
            assert b"Python" not in client.recv(10_000)


class TestClients:
    def test_clients_that_break_off_leave_no_thread_and_no_word(
        self, server: StatusServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        for sent in (b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\n\r\n", b"\x00\xff" * 50, b"\r\n" * 10):
            with socket.create_connection(server.address, timeout=PATIENCE) as client:
                client.sendall(sent)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        until(lambda: request_threads() == 0, "threads ended")
        assert ask(server, "/health")[0] == 200
        assert "Traceback" not in capfd.readouterr().err

    def test_a_client_that_sends_a_byte_now_and_then_is_cut_off_in_time(
        self, server: StatusServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(server_module, "REQUEST_SECONDS", 1.0)
        began = time.monotonic()
        with socket.create_connection(server.address, timeout=PATIENCE) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            until(lambda: not accepts(client, b"X: y\r\n"), "it was cut off")
        assert time.monotonic() - began < 5.0
        until(lambda: request_threads() == 0, "the thread ended")

    def test_a_crowd_of_silent_clients_is_bounded_and_does_not_keep_prometheus_out(self, server: StatusServer) -> None:
        clients = [socket.create_connection(server.address, timeout=PATIENCE) for _ in range(3 * MAX_CONNECTIONS)]
        try:
            assert ask(server, "/metrics")[0] == 200
            until(lambda: request_threads() <= MAX_CONNECTIONS, "the threads of those that were cut off ended")
        finally:
            for client in clients:
                client.close()
        until(lambda: request_threads() == 0, "the threads ended")

    def test_a_question_of_megabytes_is_not_read_to_its_end(self, server: StatusServer) -> None:
        """32 clients at a time could have the supervisor hold 6 MB of headers each, and half a gigabyte in all."""
        line = "x" * (MAX_REQUEST_BYTES // 3)
        assert ask(server, "/livez", headers={"A": line, "B": line})[0] == 200
        assert ask(server, "/livez", headers={"A": line, "B": line, "C": line})[0] == 431

    def test_who_has_asked_is_answered_where_no_thread_may_be_started_and_nobody_else_is_waited_for(
        self, server: StatusServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A task that starts programs without end must not have its worker restarted for a probe."""

        def no_thread(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(server_module.ThreadingMixIn, "process_request", no_thread)
        with socket.create_connection(server.address) as silent, socket.create_connection(server.address) as slow:
            slow.sendall(b"GET /livez HT")
            assert ask(server, "/livez")[0] == 200
            assert (silent.recv(1), slow.recv(1)) == (b"", b"")

    def test_many_at_once_are_all_answered(self, server: StatusServer) -> None:
        with ThreadPoolExecutor(16) as crowd:
            statuses = list(crowd.map(lambda _: ask(server, "/metrics")[0], range(100)))
        assert statuses == [200] * 100


class TestBinding:
    @pytest.mark.parametrize(
        ("host", "client"),
        [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("localhost", "localhost")],
    )
    def test_it_answers_on_the_host_that_was_asked_for(self, host: str, client: str) -> None:
        server = made(host)
        server.bind()
        server.start()
        socket.create_connection((client, server.address[1]), timeout=PATIENCE).close()
        server.stop()

    @pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
    @pytest.mark.parametrize("host", ["::1", "::"])
    def test_an_ipv6_host_works(self, host: str) -> None:
        server = made(host)
        try:
            server.bind(within=0)
        except ConfigurationError:
            pytest.skip("no IPv6 address here")
        server.start()
        socket.create_connection(("::1", server.address[1]), timeout=PATIENCE).close()
        server.stop()

    def test_a_taken_port_is_an_error_that_names_variable_and_port(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigurationError, match=f"METRICS_PORT.*{port}.*taken"):
                made(port=port).bind(within=0.3)

    def test_a_port_that_is_given_up_meanwhile_is_taken_over(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = made(port=taken.getsockname()[1])
            threading.Timer(0.3, taken.close).start()
            server.bind(within=PATIENCE)
        server.stop()

    def test_waiting_for_a_port_ends_when_it_is_cancelled(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            began = time.monotonic()
            with pytest.raises(ConfigurationError):
                made(port=taken.getsockname()[1]).bind(within=PATIENCE, is_cancelled=lambda: True)
            assert time.monotonic() - began < PATIENCE / 2

    @pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "metrics..local", "x" * 64])
    def test_a_host_that_is_not_this_machine_is_an_error_that_names_it(self, host: str) -> None:
        with pytest.raises(ConfigurationError, match="METRICS_HOST"):
            made(host).bind()

    def test_the_port_of_a_stopped_server_can_be_bound_at_once(self) -> None:
        server = made()
        server.bind()
        server.start()
        port = server.address[1]
        ask(server, "/health")
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 5.0
        again = made(port=port)
        again.bind(within=5)  # were it kept, then for a minute
        again.stop()

    def test_a_server_that_never_started_can_be_stopped(self) -> None:
        made().stop()
        server = made()
        server.bind()
        server.stop()
