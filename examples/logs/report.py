"""What has been counted, and whether it is what the generator knows: `python -m examples.logs.report [FOLDER]`"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where totals.json is")
    folder = parser.parse_args().folder
    connection = psycopg2.connect(os.environ["DATABASE_URL"])
    try:
        counted = totals(connection)
    finally:
        connection.close()
    print(f"{counted['files']} files, {counted['lines']} lines, {counted['malformed']} of them malformed")  # noqa: T201
    for path, hits in sorted(counted["hits_by_path"].items(), key=lambda each: -each[1]):
        print(f"{hits:>10} {counted['bytes_by_path'][path]:>15} {path}")  # noqa: T201
    if folder is not None:
        known = json.loads((folder / "totals.json").read_text())
        wrong = [name for name in known if known[name] != counted[name]]
        print(f"not as generated: {', '.join(wrong)}" if wrong else "all as generated")  # noqa: T201
        sys.exit(1 if wrong else 0)


def totals(connection: Connection) -> dict[str, Any]:
    """What the tables add up to, as totals.json has it."""
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*), coalesce(sum(lines), 0), coalesce(sum(malformed), 0) FROM log_files")
        files, lines, malformed = cursor.fetchone() or (0, 0, 0)
        cursor.execute(
            "SELECT to_char(hour AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24'), path, status::text, hits, bytes"
            " FROM log_hits"
        )
        rows = cursor.fetchall()
    counted: dict[str, Any] = {"files": files, "lines": lines, "malformed": malformed, "hits": 0, "bytes": 0}
    counted |= {name: {} for name in ("hits_by_hour", "hits_by_path", "hits_by_status", "bytes_by_path")}
    for hour, path, status, hits, sent in rows:
        counted["hits"] += hits
        counted["bytes"] += sent
        for name, key, amount in (
            ("hits_by_hour", hour, hits),
            ("hits_by_path", path, hits),
            ("hits_by_status", status, hits),
            ("bytes_by_path", path, sent),
        ):
            counted[name][key] = counted[name].get(key, 0) + int(amount)
    counted["hits"], counted["bytes"] = int(counted["hits"]), int(counted["bytes"])
    return counted


if __name__ == "__main__":
    main()
