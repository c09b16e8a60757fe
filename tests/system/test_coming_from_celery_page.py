"""The app of docs/coming-from-celery.md through the real daemon: each way to do what Celery has a word for."""

import re
from pathlib import Path

from orchestrator import Client
from tests.fixtures.daemon import Queue, Start

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from-celery.md").read_text()
(APP,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_ways_it_shows_do_what_it_says(daemon: Start, queue: Queue) -> None:
    queue.rows("CREATE TABLE pages (album integer, page integer, PRIMARY KEY (album, page))")
    queue.rows("CREATE TABLE visits (shop text, since timestamptz, until timestamptz)")
    with Client(queue.url) as client:
        client.enqueue("order:charge", {"order": 1, "cents": 100})
        client.enqueue("order:charge", {"order": 2, "cents": 0})
        client.enqueue_many([("album:draw", {"album": 5, "page": page, "pages": 8}) for page in range(8)])
        client.enqueue_many([("shop:fetch", {"shop": "ann"})] * 3)
    daemon(APP, "--pool-size", "4", DATABASE_URL=queue.url)
    queue.wait_empty()

    ended = queue.rows("SELECT type, status::text, count(*) FROM tasks GROUP BY 1, 2 ORDER BY 1, 2")
    assert ended == [
        ("album:draw", "completed", 8),
        ("album:publish", "completed", 1),
        ("order:charge", "completed", 1),
        ("order:charge", "failed", 1),
        ("order:receipt", "completed", 1),
        ("shop:fetch", "completed", 3),
    ]
    assert queue.rows("SELECT DISTINCT attempts FROM tasks WHERE type = 'order:charge'") == [(2,)]
    assert "ZeroDivisionError" in queue.one("SELECT last_error FROM tasks WHERE status = 'failed'")
    met = "SELECT count(*) FROM visits a JOIN visits b ON a.since < b.since AND b.since < a.until"
    assert (queue.one("SELECT count(*) FROM visits"), queue.one(met)) == (3, 0)
