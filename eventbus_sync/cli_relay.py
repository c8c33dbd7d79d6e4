"""``python -m eventbus_sync relay``: an outbox relay as a process."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import time

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, TextIO
from urllib.parse import parse_qs

from eventbus_sync._threads import spawn
from eventbus_sync.cli_database import (
    BUS_VARIABLE,
    DB_VARIABLE,
    DONE,
    NOTHING,
    add_database,
    answered,
    complain,
)
from eventbus_sync.cli_once import Standstill, left
from eventbus_sync.cli_status import Status
from eventbus_sync.errors import BusClosed, ConfigError, StartFailed


if TYPE_CHECKING:
    from types import FrameType

    from eventbus_sync.bus import EventBus
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
    from eventbus_sync.outbox import OutboxRelay, RelayStats

#: Seconds; a lease of 30 s has to be longer than that by 5.
DELIVERY_TIMEOUT: Final = 20.0
#: Seconds between two looks at signals.
_LOOK: Final = 0.2
#: Seconds for a first answer of the broker; it may come later.
_BROKER: Final = 5.0

_DESCRIPTION = """\
Publish the rows of an outbox to a broker, until SIGTERM or Ctrl-C.

Any number of relays, on any number of hosts, may share one table. A broker or
database that goes away is waited for.
"""

_EPILOG = """\
examples:
  export {db}=sqlite:///app.db
  {prog} relay --bus 'nats://localhost:4222?stream=ORDERS'
  {prog} relay --bus kafka://localhost:9092 --once

URLs with passwords belong into the environment, ${db}
and ${bus}: arguments stand in the list of processes.

--bus takes what EventBus.from_url takes; unless it says otherwise,
delivery_timeout is {timeout:g} s, and linger is 0 on Kafka. --lease must be longer
than delivery_timeout by 5 s.

signals:
  SIGTERM or Ctrl-C: claims no more, waits for what is in flight, marks it,
  gives the rest back, and exits 0. A second signal ends it at once.

exit codes:
  0    stopped by a signal; or --once, and all that was due is published
  1    --once, and rows are left: dead ones, ones that were tried and wait for
       another attempt, ones that another relay has, at work or killed, ones
       that waited 10 s for an older transaction of the database (PostgreSQL);
       or no broker was reached. Or stopped by a signal, but outcomes did not
       come or could not be marked: these rows come back when their lease ends.
       The last line says which of these it was
  2    wrong arguments, a table that does not fit, or the bus was closed
  3    the database could not be reached when the relay started
  130  ended at once by a second Ctrl-C; 143: by a second SIGTERM
"""


def add_relay(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", prog: str
) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "relay",
        help="publish the rows of an outbox to a broker",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(
            prog=prog, db=DB_VARIABLE, bus=BUS_VARIABLE, timeout=DELIVERY_TIMEOUT
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_database(parser)
    parser.add_argument(
        "--bus",
        metavar="URL",
        default=os.environ.get(BUS_VARIABLE),
        help=f"the broker; default: ${BUS_VARIABLE}",
    )
    parser.add_argument(
        "--batch-size", type=int, default=500, metavar="N", help="rows per claim: 500"
    )
    parser.add_argument(
        "--lease",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="after so long a killed relay's rows come back: 30",
    )
    parser.add_argument(
        "--ordering",
        choices=("aggregate", "none"),
        default="aggregate",
        help="whether events of one aggregate keep their order: aggregate",
    )
    parser.add_argument(
        "--on-dead",
        choices=("hold", "skip"),
        default="hold",
        help="whether a dead row holds its aggregate: hold",
    )
    _add_limits(parser)
    purging = parser.add_mutually_exclusive_group()
    purging.add_argument(
        "--purge-after",
        type=float,
        default=7 * 86400.0,
        metavar="SECONDS",
        help="after that published rows are deleted: 604800, seven days",
    )
    purging.add_argument(
        "--no-purge", action="store_true", help="keep published rows for ever"
    )
    parser.add_argument(
        "--no-commit-order",
        action="store_true",
        help="do not let rows wait for older open transactions",
    )
    parser.add_argument(
        "--no-notify",
        action="store_true",
        help="poll, also where the database could wake the relay",
    )
    parser.add_argument(
        "--once", action="store_true", help="end as soon as nothing is due"
    )
    parser.set_defaults(
        run=answered(parser, lambda given, outbox: _relay(parser, given, outbox))
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    """Add what says how often and how long: the defaults are those of the relay."""
    parser.add_argument(
        "--max-attempts",
        type=int,
        default=20,
        metavar="N",
        help="after so many refusals a row is dead: 20",
    )
    parser.add_argument(
        "--max-age",
        type=float,
        default=7 * 86400.0,
        metavar="SECONDS",
        help="after failing for so long a row is dead: 604800, seven days",
    )
    parser.add_argument(
        "--poll-interval",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="longest pause between two looks where nothing notifies: 1",
    )


def _relay(
    parser: argparse.ArgumentParser,
    arguments: argparse.Namespace,
    outbox: "SqlAlchemyOutbox",
) -> int:
    from eventbus_sync.outbox import (  # noqa: PLC0415 - --help needs nothing
        OutboxRelay,
        RetryPolicy,
    )

    _log_to(sys.stderr)
    with _bus(arguments.bus) as bus:
        relay = OutboxRelay(
            outbox,
            bus,
            batch_size=arguments.batch_size,
            lease=arguments.lease,
            ordering=arguments.ordering,
            on_dead=arguments.on_dead,
            retry=RetryPolicy(
                max_attempts=arguments.max_attempts, max_age=arguments.max_age
            ),
            poll_interval=arguments.poll_interval,
            purge_after=None if arguments.no_purge else arguments.purge_after,
        )
        outbox.check_schema()  # fails now rather than later: unreachable, or another's
        with _signals() as asked:
            try:
                bus.start(_BROKER)
            except StartFailed as error:
                # It may come yet; a relay does not depend on the order of starts.
                complain(parser, error, "Trying on.")
            status = Status(sys.stderr, relay, outbox)
            relay.start()
            why = ""
            at_once = settled = False
            try:
                status.say("relaying; SIGTERM or Ctrl-C ends it")
                standstill = Standstill(relay, outbox)
                why = _until(relay, asked, status, standstill, once=arguments.once)
                status.say("stopping: waiting for what is in flight")
            except SystemExit:
                at_once = True  # a second signal
                raise
            finally:
                settled = relay.stop(0.0 if at_once else None)
            stats = relay.stats()
            status.say(_summary(stats))
    outbox.close()
    if stats.state == "failed":
        raise BusClosed
    if not arguments.once or asked:
        lost = (
            "outcomes did not come or could not be marked: their rows come back later"
        )
        reasons = [] if settled else [lost]
    else:
        reasons = [*left(outbox), *([why] if why else [])]
    if not reasons:
        return DONE
    status.say(f"exit {NOTHING}: {'; '.join(reasons)}")
    return NOTHING


def _until(
    relay: "OutboxRelay",
    asked: list[int],
    status: Status,
    standstill: Standstill,
    *,
    once: bool,
) -> str:
    """Return when a signal came or, with *once*, nothing is due; else say why."""
    drained: list[bool] = []
    if once:
        spawn("relay-drain", lambda: drained.append(relay.drain(start=False)))
    while not asked and not drained and relay.stats().state == "running":
        if once and relay.stats().breaker == "open":
            return "no broker was reached"
        hidden = standstill.look() if once else ""
        if hidden:
            return hidden
        status.show()
        time.sleep(_LOOK)
    return "" if drained == [True] else "it ended before all was done"


@contextlib.contextmanager
def _bus(url: str | None) -> "Iterator[EventBus]":
    from eventbus_sync.bus import EventBus  # noqa: PLC0415 - --help needs nothing
    from eventbus_sync.config import MemoryConfig  # noqa: PLC0415

    if not url:
        msg = (
            "say where events go: --bus nats://localhost:4222?stream=ORDERS, or a URL "
            f"in the environment variable {BUS_VARIABLE}"
        )
        raise ConfigError(msg)
    bus = EventBus.from_url(url, **_defaults(url))
    if isinstance(bus.config, MemoryConfig):
        msg = (
            "--bus memory:// is a broker inside of this process, which would take the "
            "events with it: use nats:// or kafka://"
        )
        raise ConfigError(msg)
    try:
        yield bus
    except BaseException:
        bus.close(0)  # a second signal: at once
        raise
    bus.close()


def _defaults(url: str) -> dict[str, float]:
    """Return what a relay's bus has unless its URL says otherwise."""
    said = parse_qs(url.partition("?")[2])
    defaults = {"delivery_timeout": DELIVERY_TIMEOUT}
    if url.partition("://")[0].lower() in {"kafka", "kafka+tls"}:
        # With one event of an aggregate in flight, a hot aggregate would wait it out for
        # each of its events; batches come about by themselves while requests are out.
        defaults["linger"] = 0.0
    return {name: value for name, value in defaults.items() if name not in said}


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Yield a list that gets the first signal; a second one ends the process."""
    asked: list[int] = []

    def note(number: int, frame: "FrameType | None") -> None:
        del frame
        # No lock is taken here: the main thread may hold it.
        if asked:
            raise SystemExit(128 + number)
        asked.append(number)

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _summary(stats: "RelayStats") -> str:
    held_back = f"{stats.held_back:,} held back, " if stats.held_back else ""
    return (
        f"stopped: {stats.published:,} published, {stats.retried:,} retried, "
        f"{held_back}{stats.buried:,} dead, {stats.released:,} given back, "
        f"{stats.held:,} still leased"
    )


def _log_to(stream: TextIO) -> None:
    """Show warnings, unless the application's own logging does."""
    root = logging.getLogger()
    if not root.handlers:
        start = "\r\x1b[K" if stream.isatty() else ""
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(f"{start}%(asctime)s %(message)s"))
        root.addHandler(handler)
