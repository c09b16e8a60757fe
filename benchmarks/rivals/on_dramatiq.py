"""Dramatiq on Redis: `fill URL COUNT` puts so many tasks in; its own command imports this and empties them."""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.rivals.stamps import stamp

REDIS = "BENCH_REDIS_URL"

broker = RedisBroker(url=sys.argv[2] if __name__ == "__main__" else os.environ[REDIS])
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int) -> None:
    stamp()


if __name__ == "__main__":
    for _ in range(int(sys.argv[3])):
        noop.send(1)
