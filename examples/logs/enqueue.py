"""One task for each log file of a folder: `DATABASE_URL=… python -m examples.logs.enqueue FOLDER`"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2

from orchestrator import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder.resolve()
    url = os.environ["DATABASE_URL"]
    create_tables(url)
    with Client(url) as client:
        ids = client.enqueue_many(tasks(folder))
    print(f"{len(ids)} files are in the queue")  # noqa: T201


def create_tables(url: str) -> None:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(Path(__file__).with_name("tables.sql").read_text())
    finally:
        connection.close()


def tasks(folder: Path) -> Iterator[dict[str, Any]]:
    """The tasks; a file that has been enqueued before is not enqueued again, since its name is the key."""
    for file in sorted([*folder.glob("*.log"), *folder.glob("*.log.gz")]):
        yield {"type": "logs:file", "payload": {"path": str(file)}, "idempotency_key": file.name}


if __name__ == "__main__":
    main()
