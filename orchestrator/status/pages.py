"""The pages, as a WSGI application: /metrics, /health, /livez, /readyz. No payloads, no secrets, no access log."""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import Metric, make_wsgi_app
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector

from orchestrator.status.health import Answer, health, livez, readyz
from orchestrator.status.snapshot import Snapshot
from orchestrator.telemetry import logs

Header = tuple[str, str]
PLAIN = "text/plain; charset=utf-8"


class Exposition(Collector):
    """Several collectors as one registry. A failing one costs its own metrics, never the scrape; no name comes twice.

    `names`: show these series only.
    """

    def __init__(self, collectors: Sequence[Collector], names: Collection[str] | None = None) -> None:
        self._names = names
        self._collectors = collectors
        self._failures = 0
        self._log = logs.get("status")

    def collect(self) -> Iterator[Metric]:
        """All their metrics; one call at a time."""
        shown: set[str] = set()
        for collector in self._collectors:
            for metric in self._collected(collector):
                if metric.name not in shown:
                    shown.add(metric.name)
                    yield from self._restricted(metric)
        failures = "Scrapes that lack some metrics because collecting them failed"
        yield from self._restricted(CounterMetricFamily("metrics_collect_failures", failures, value=self._failures))

    def restricted_registry(self, names: Iterable[str]) -> "Exposition":
        """What prometheus_client asks for when the request has `?name[]=`."""
        return Exposition(self._collectors, frozenset(names))

    def _restricted(self, metric: Metric) -> Iterator[Metric]:
        if self._names is not None:
            metric.samples = [sample for sample in metric.samples if sample.name in self._names]
        if metric.samples or self._names is None:
            yield metric

    def _collected(self, collector: Collector) -> list[Metric]:
        try:
            return list(collector.collect())
        except Exception:  # noqa: BLE001 - the other metrics, and the alerts on them, must go on
            self._failures += 1
            self._log.exception("collect_failed", collector=type(collector).__name__)
            return []


class Pages:
    """Answers GET and HEAD. Any number of threads may call it; scrapes are made one after the other."""

    def __init__(
        self, collectors: Sequence[Collector], snapshot: Callable[[], Snapshot], loop_age: Callable[[], float]
    ) -> None:
        self._metrics: WSGIApplication = make_wsgi_app(Exposition(collectors))
        self._scraping = threading.Lock()
        self._answers: dict[str, Callable[[], Answer]] = {
            "/health": lambda: health(snapshot()),
            "/livez": lambda: livez(loop_age()),
            "/readyz": lambda: readyz(snapshot()),
        }
        self._log = logs.get("status")

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """The WSGI entry: never raises."""
        try:
            status, headers, body = self._answer(environ)
        except Exception:  # noqa: BLE001 - a page that fails must not end the server's thread with a traceback
            self._log.exception("page_failed", path=environ.get("PATH_INFO", ""))
            status, headers, body = _plain(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error, see the log\n")
        headers += [("Content-Length", str(len(body))), ("Cache-Control", "no-store"), ("Server", "orchestratord")]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _answer(self, environ: WSGIEnvironment) -> tuple[str, list[Header], bytes]:
        path = environ.get("PATH_INFO", "").rstrip("/")
        if path != "/metrics" and path not in self._answers:
            return _plain(HTTPStatus.NOT_FOUND, f"not found; there are {', '.join(['/metrics', *self._answers])}\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, headers, body = _plain(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n")
            return status, [*headers, ("Allow", "GET, HEAD")], body
        if path == "/metrics":
            return self._scraped(environ)
        answer = self._answers[path]()
        body = (json.dumps(answer.facts, indent=2) + "\n").encode()
        return _line(answer.status), [("Content-Type", "application/json")], body

    def _scraped(self, environ: WSGIEnvironment) -> tuple[str, list[Header], bytes]:
        began: list[tuple[str, list[Header]]] = []

        def start(status: str, headers: list[Header], exc_info: Any = None, /) -> Callable[[bytes], object]:
            began.append((status, headers))
            return lambda data: None

        asked = {**environ, "REQUEST_METHOD": "GET", "HTTP_ACCEPT": _understood(environ.get("HTTP_ACCEPT", ""))}
        with self._scraping:
            body = b"".join(self._metrics(asked, start))
        status, headers = began[0]
        return status, list(headers), body


def _understood(accept: str) -> str:
    """An Accept that prometheus_client can read and may repeat; else none, which asks for its plain format."""
    try:
        choose_encoder(accept)
    except Exception:  # noqa: BLE001 a version that is no number
        return ""
    return accept if accept.isprintable() else ""


def _plain(status: HTTPStatus, text: str) -> tuple[str, list[Header], bytes]:
    return _line(status), [("Content-Type", PLAIN)], text.encode()


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"
