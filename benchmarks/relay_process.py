"""
One relay as a process: ``python -m benchmarks.relay_process DB BUS TABLE``.

Says "ready" when it is connected, starts at the first line on standard input, stops at
the second one or its end, and then says as JSON what it did.
"""

import json
import sys

import attrs

from sqlalchemy import create_engine

from benchmarks.counting import Counted
from benchmarks.relaying import connected, counted_relay


def main(db: str, url: str, table: str) -> None:
    """Relay between two lines."""
    engine = create_engine(db)
    with connected(url) as bus, counted_relay(engine, bus, table) as (relay, outbox):
        _say("ready")
        sys.stdin.readline()
        outbox.begin()
        relay.start()
        sys.stdin.readline()
        relay.stop()
        counted: Counted = outbox.end(relay.stats())
    engine.dispose()
    _say(json.dumps(attrs.asdict(counted)))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
