"""All parts after each other: ``python -m benchmarks`` without a command."""

import argparse
import sys
import time

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks import brokers, databases, plot, relaying
from benchmarks.databases import NotHere
from benchmarks.figures import Measured
from benchmarks.parts import Part, Settings, settings_of
from benchmarks.report import USAGE, Report
from eventbus_sync.errors import EventBusError
from eventbus_sync.testing import BrokerNotInstalled


_RELAY: Final = "relay"


def run(parts: Sequence[Part], given: argparse.Namespace, prog: str) -> int:
    """Run *parts* and a relay; what cannot run here is left out and said."""
    settings = settings_of(given)
    report = Report(sys.stdout)
    try:
        plot.check(given.plot)
    except NotHere as error:
        sys.stderr.write(f"{prog}: {error}\n")
        return USAGE
    relay = Part(_RELAY, "", "", _relay)
    for part in (*parts, relay):
        before = time.monotonic()
        report.say(f"--- {part.name}")
        try:
            report.take(part.measure(settings))
        except (NotHere, BrokerNotInstalled, EventBusError) as error:
            report.skipped.append(f"{part.name}: {error}")
        report.say(f"--- {part.name} took {time.monotonic() - before:.0f} s")
    if not report.measured:
        sys.stderr.write(f"{prog}: nothing could be measured\n")
        return USAGE
    return report.end(all_targets=True, file=given.json, drawing=given.plot)


def _relay(settings: Settings) -> Iterator[Measured]:
    """One relay on PostgreSQL (T12); ``outbox`` measures the rest of it."""
    rows, rounds = settings.pick(20_000, 2000), settings.rounds(full=3)
    with (
        databases.database("postgresql") as place,
        brokers.broker(settings.brokers[0]) as broker,
    ):
        relaying.measure_relays(place, broker, 1, rows // 10, 1, hot=False)
        found = relaying.measure_relays(place, broker, 1, rows, rounds, hot=False)
        found.target = "T12"
        yield found
