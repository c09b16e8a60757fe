"""Access logs like a shop's, with totals that are known: `python -m examples.logs.generate FOLDER --files 200`

The same seed makes the same files. What they add up to is counted while they are written, without the parser, and kept
in totals.json beside them.
"""

import argparse
import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

SERVERS = {"web1": 0, "web2": 120, "web3": 0, "api1": 330}
"""Minutes that the zone of their clocks is ahead of UTC: some host always is."""
FIRST_HOUR = datetime(2025, 11, 3, tzinfo=UTC)

AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "curl/8.10.1",
    r"Evil/1.0 (\"quoted\" \\ [brackets])",
    "-",
)
HOSTS = ("203.0.113.{}", "198.51.100.{}", "2001:db8::{:x}")
USERS = ("-", "-", "-", "-", "-", "-", "ann", "bob smith")
REFERRERS = ("-", "https://shop.example/", "https://search.example/?q=green+tea")
# request, path as it is counted, statuses, largest answer; how often
KINDS: tuple[tuple[str, str, tuple[int, ...], int, int], ...] = (
    ("GET / HTTP/1.1", "/", (200, 200, 200, 304), 9_000, 20),
    ("GET /products/{} HTTP/2.0", "/products/:id", (200, 200, 200, 404), 40_000, 30),
    ("GET /search?q=tea+%22green%22&page={} HTTP/1.1", "/search", (200, 200, 500), 25_000, 12),
    ("POST /cart/{}/items HTTP/1.1", "/cart/:id/items", (201, 201, 409, 503), 300, 8),
    ("GET /api/v2/orders/{}?expand=lines HTTP/1.1", "/api/v2/orders/:id", (200, 200, 401), 5_000, 14),
    ("HEAD /health HTTP/1.0", "/health", (200,), 0, 6),
    ("GET /static/app.4f2a91c0.js HTTP/2.0", "/static/app.4f2a91c0.js", (200, 304), 250_000, 9),
    (r"\x16\x03\x01\x02\x00\x01", "(no request)", (400,), 157, 1),
)
_WEIGHTS = [kind[-1] for kind in KINDS]


@dataclass
class Known:
    """What the files add up to."""

    files: int = 0
    lines: int = 0
    malformed: int = 0
    hits: int = 0
    bytes: int = 0
    hits_by_hour: Counter[str] = field(default_factory=Counter)
    hits_by_path: Counter[str] = field(default_factory=Counter)
    hits_by_status: Counter[str] = field(default_factory=Counter)
    bytes_by_path: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--lines", type=int, default=2000, help="in each file, about")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    known = generate(arguments.folder, files=arguments.files, lines=arguments.lines, seed=arguments.seed)
    print(f"{known.files} files, {known.lines} lines; what they add up to is in totals.json")  # noqa: T201


def generate(folder: Path, *, files: int, lines: int, seed: int) -> Known:
    """Write the files and totals.json into `folder`; what they add up to."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = random.Random(seed)
    known = Known()
    for number in range(files):
        server = list(SERVERS)[number % len(SERVERS)]
        hour = FIRST_HOUR + timedelta(hours=number // len(SERVERS))
        text = "".join(_lines(dice, known, hour, SERVERS[server], dice.randint(lines // 2, lines * 3 // 2)))
        name = f"{server}-{hour:%Y%m%dT%H}.log"
        data = text.encode("latin-1")  # as servers do: the odd byte is no UTF-8
        if number % 10 == 0:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data, compresslevel=1, mtime=0))
        else:
            (folder / name).write_bytes(data)
        known.files += 1
    (folder / "totals.json").write_text(json.dumps(known.as_json(), indent=1))
    return known


def _lines(dice: random.Random, known: Known, hour: datetime, zone_minutes: int, count: int) -> Iterator[str]:
    """Lines of one hour, in the order of their times."""
    zone = timezone(timedelta(minutes=zone_minutes))
    seconds = sorted(dice.choices(range(3600), k=count))
    stamps = {each: (hour + timedelta(seconds=each)).astimezone(zone) for each in set(seconds)}
    for second, kind in zip(seconds, dice.choices(KINDS, _WEIGHTS, k=count), strict=True):
        request, path, statuses, largest, _ = kind
        status = dice.choice(statuses)
        sent = 0 if status == 304 else dice.randint(0, largest)
        number = dice.randrange(1, 10_000)
        host = dice.choice(HOSTS).format(number % 254 + 1)
        agent = "Opéra/9.80" if number == 7 else dice.choice(AGENTS)
        line = (
            f"{host} - {dice.choice(USERS)} [{stamps[second]:%d/%b/%Y:%H:%M:%S %z}]"
            f' "{request.format(number)}" {status} {sent or "-"} "{dice.choice(REFERRERS)}" "{agent}"\n'
        )
        known.lines += 1
        if number % 500 == 0:  # a full disk cut it short, somewhere before the status
            known.malformed += 1
            yield line[: dice.randrange(1, 50)].rstrip() + "\n"
            continue
        known.hits += 1
        known.bytes += sent
        known.hits_by_hour[f"{hour:%Y-%m-%dT%H}"] += 1
        known.hits_by_path[path] += 1
        known.hits_by_status[str(status)] += 1
        known.bytes_by_path[path] += sent
        yield line


if __name__ == "__main__":
    main()
