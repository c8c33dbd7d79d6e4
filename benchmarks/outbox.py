"""``python -m benchmarks outbox``: rows per second through the outbox."""

import argparse
import json
import sys

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from benchmarks import brokers, databases, relaying, writing
from benchmarks.brokers import Broker
from benchmarks.databases import NotHere, Place
from benchmarks.figures import Measured, as_json
from benchmarks.machine import machine
from benchmarks.table import lines
from eventbus_sync.errors import ConfigError
from eventbus_sync.testing import BrokerNotInstalled


#: Exit codes.
DONE, UNBALANCED, USAGE = 0, 1, 2

#: The naive relay and the hot aggregate wait for each row: they get fewer.
_FEWER: Final = 10

_DESCRIPTION = """\
Rows per second from a filled table to a broker, by one relay in this process and by
several processes, over 1,000 aggregates and with one hot among them; beside it a naive
relay that publishes, waits and commits row by row; the cost of adding events, and of a
relay with nothing to do. Fills a table benchmark_outbox of its own.
"""


def add_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "outbox",
        help="rows per second through the outbox",
        description=_DESCRIPTION,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--db",
        nargs="+",
        default=["sqlite", "postgresql", "mariadb"],
        metavar="DB",
        help=f"{', '.join(databases.NAMES)}, or a URL of SQLAlchemy; default: all three",
    )
    parser.add_argument(
        "--bus",
        nargs="+",
        default=["nats"],
        metavar="BUS",
        help=f"{', '.join(brokers.NAMES)}, or a URL of a bus; default: nats",
    )
    parser.add_argument(
        "--rows", type=_count, metavar="N", help="per run; 20,000, or --quick 2,000"
    )
    parser.add_argument(
        "--relays",
        type=_count,
        nargs="+",
        default=[1, 4],
        metavar="N",
        help="how many at once; default: 1 4",
    )
    parser.add_argument(
        "--repeat", type=_count, metavar="N", help="runs of each; 3, or --quick 1"
    )
    parser.add_argument("--quick", action="store_true", help="a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.set_defaults(run=lambda given: _run(parser, given, sys.stdout))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _run(
    parser: argparse.ArgumentParser, given: argparse.Namespace, out: TextIO
) -> int:
    for name, known in [
        *((db, databases.NAMES) for db in given.db),
        *((bus, brokers.NAMES) for bus in given.bus),
    ]:
        if name not in known and "://" not in name:
            parser.error(f"{name!r} is none of {', '.join(known)}, nor a URL")
    measured: list[Measured] = []
    try:
        for one in _measure(given):
            measured.append(one)
            for run in one.runs:
                _say(out, f"{one.what}; {one.where}: {run.books}")
    except (NotHere, BrokerNotInstalled, ConfigError) as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return USAGE
    return _report(measured, given.json, out)


def _measure(given: argparse.Namespace) -> Iterator[Measured]:
    rows = given.rows or (2000 if given.quick else 20_000)
    repeat = given.repeat or (1 if given.quick else 3)
    fewer = max(1, rows // _FEWER)
    idle = 1.0 if given.quick else 10.0
    for db in given.db:
        with databases.database(db) as place:
            yield from writing.measure_writing(place, fewer, repeat)
            for bus in given.bus:
                with brokers.broker(bus) as broker:
                    yield from _relays(place, broker, given.relays, rows, repeat)
                    yield relaying.measure_naive(place, broker, fewer, repeat)
                    yield relaying.measure_idle(place, broker, idle)


def _say(out: TextIO, line: str) -> None:
    out.write(line + "\n")
    out.flush()


def _relays(
    place: Place, broker: Broker, relays: Sequence[int], rows: int, repeat: int
) -> Iterator[Measured]:
    relaying.measure_relays(place, broker, 1, rows // _FEWER, 1, hot=False)  # warm
    for hot in (False, True):
        many = max(1, rows // _FEWER) if hot else rows
        for count in relays:
            yield relaying.measure_relays(place, broker, count, many, repeat, hot=hot)


def _report(measured: Sequence[Measured], file: Path | None, out: TextIO) -> int:
    about = machine()
    out.write("\n" + "\n".join(lines(measured, about)) + "\n")
    if file is not None:
        file.write_text(json.dumps(as_json(measured, about), indent=2) + "\n")
    return DONE if all(one.balanced for one in measured) else UNBALANCED
