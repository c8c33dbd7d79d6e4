"""A soak from end to end: a broker, work and chaos, the books, the verdict."""

import contextlib
import json
import logging
import resource
import sys
import time

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from eventbus_sync._threads import Deadline
from eventbus_sync.config.url import config_from_url
from eventbus_sync.demo.measure import CONNECT_TIMEOUT, EARLY_CLOSE, GRACE
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.report import Paper
from eventbus_sync.errors import EventBusError, ProducerLost
from eventbus_sync.soak.audit import audit
from eventbus_sync.soak.chaos import Chaos
from eventbus_sync.soak.ground import ground
from eventbus_sync.soak.plan import Ground, Plan
from eventbus_sync.soak.report import Figures, as_json, plan_text, table, verdict
from eventbus_sync.soak.schedule import Strike, draw
from eventbus_sync.soak.spread import Spread
from eventbus_sync.soak.workload import Workload
from eventbus_sync.testing.apache_kafka import find_jars
from eventbus_sync.testing.readback import ReadBackFailed


OK, UNBALANCED, INTERRUPTED = 0, 1, 130

#: Seconds by which a promise may be late on a machine that does other things too.
SLACK = 3.0
#: Seconds between two lines where a line cannot be written over.
_PLAIN_INTERVAL = 10.0
# Seconds between two looks at a run.
_LOOK = 0.2
# Seconds that the threads of the soak get to end when the bus is closed.
_JOIN = 15.0
# Seconds to read back, and the events for which each further second is added.
_READ_BACK, _READ_RATE = 60.0, 3000


def show_plan(plan: Plan, out: TextIO) -> int:
    """Print what would break when, and return the exit code."""
    out.write(f"{plan_text(plan, draw(plan))}\n")
    return OK


def run(plan: Plan, out: TextIO, err: TextIO, *, file: Path | None = None) -> int:
    """
    Run the soak and return its exit code.

    Args:
        plan: what to do.
        out: gets the table and the verdict.
        err: gets the line that moves.
        file: gets everything as JSON, the schedule included.

    Returns:
        0 if every promise held, 1 if not, 130 after Ctrl-C.

    Raises:
        BrokerNotInstalled, BrokerStartFailed, StartFailed: there is no broker.
        ConfigError: the URL is wrong.
    """
    paper, progress = Paper.of(out), Progress(err, _PLAIN_INTERVAL)
    # Before it is said that anything starts.
    if plan.url is not None:
        config_from_url(plan.url)
    if plan.kafka_home is not None:
        find_jars(plan.kafka_home)
    with contextlib.ExitStack() as stack:
        stack.enter_context(silenced())
        stack.callback(progress.clear)
        progress.say(f"starting {plan.backend}, seed {plan.seed}…")
        where = stack.enter_context(ground(plan, progress.warn))
        figures = measure(plan, draw(plan), where, progress)
    if file is not None:
        file.write_text(f"{json.dumps(as_json(figures), indent=2)}\n")
    out.write(f"{table(figures, paper)}\n\n{verdict(figures, paper)}\n")
    if figures.interrupted:
        return INTERRUPTED
    return OK if figures.holds else UNBALANCED


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """What the library has to log while everything breaks is in the figures."""
    logger, silence = logging.getLogger("eventbus_sync"), logging.NullHandler()
    logger.addHandler(silence)
    try:
        yield
    finally:
        logger.removeHandler(silence)


def measure(
    plan: Plan, schedule: Sequence[Strike], where: Ground, progress: Progress
) -> Figures:
    """Publish and break things as *schedule* says; return what it came to."""
    bus, failures, interrupted = where.bus, list[str](), False
    workload = Workload(where, plan)
    chaos = Chaos(schedule, where, workload)
    lost: list[EventBusError] = []

    def note(error: EventBusError) -> None:
        if isinstance(error, ProducerLost):
            lost.append(error)

    bus.set_error_handler(note)
    with bus:
        bus.start(CONNECT_TIMEOUT)
        began = time.monotonic()
        try:
            workload.start()
            chaos.start()
            failures += _watch(plan, where, workload, chaos, progress)
        except KeyboardInterrupt:
            interrupted = True
            progress.say("interrupted; waiting for what is in flight…")
        finally:
            chaos.stop()
            workload.stop()
        if not interrupted:
            failures += _wait_for_outcomes(where, workload, progress)
        seconds = time.monotonic() - began
        bus.close(EARLY_CLOSE)
    workload.join(_JOIN)
    progress.say("reading back what is stored…")
    ledger, stats, stored = workload.ledger, bus.stats(), True
    try:
        where.scan(ledger.seen, _READ_BACK + stats.accepted / _READ_RATE)
    except ReadBackFailed as error:
        stored = False
        failures.append(str(error))
    # The last one waits for outcomes, and so for the broker.
    call = _together(workload.call[:-1])
    if call.largest > where.publish_timeout + SLACK:
        failures.append(f"a publish call took {call.largest:.1f} s")
    if ledger.latency.largest > where.delivery_timeout + GRACE + SLACK:
        failures.append(f"an outcome came only after {ledger.latency.largest:.1f} s")
    return Figures(
        plan=plan,
        title=where.title,
        stats=stats,
        seconds=seconds,
        codes=dict(ledger.codes),
        repeats=ledger.repeats,
        reconnects=bus.health().reconnects,
        replaced=len(lost),
        waited=sum(workload.waited),
        call=_three(call),
        latency=_three(ledger.latency),
        stored=ledger.read if stored else None,
        struck=tuple(sorted(chaos.struck, key=lambda struck: struck.strike.at)),
        violations=audit(ledger, stats, replaced=bool(lost)) if stored else (),
        failures=[*workload.failures, *chaos.failures, *failures],
        memory=_memory(),
        interrupted=interrupted,
    )


def _watch(
    plan: Plan, where: Ground, workload: Workload, chaos: Chaos, progress: Progress
) -> list[str]:
    """Show progress until the time is over; return what was wrong meanwhile."""
    wrong = dict[str, str]()
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < plan.seconds and workload.publishing:
        stats = where.bus.stats()
        if not stats.balanced:
            wrong.setdefault("balance", f"a snapshot did not balance: {stats}")
        if stats.oldest_age > where.delivery_timeout + GRACE + SLACK:
            wrong.setdefault(
                "age", f"an event had no outcome after {stats.oldest_age:.1f} s"
            )
        progress.line(
            [
                f"{plan.backend}  {elapsed / 60:5.1f} of {plan.minutes:.3g} min",
                chaos.now,
                f"{stats.accepted - stats.in_flight:>9,} settled",
                f"{stats.in_flight:>7,} in flight",
                f"{stats.unknown:,} unknown",
            ],
            "",
        )
        time.sleep(_LOOK)
    return list(wrong.values())


def _wait_for_outcomes(
    where: Ground, workload: Workload, progress: Progress
) -> list[str]:
    """Return when everything is settled, or say how much is not, though it should be."""
    due = Deadline.after(where.delivery_timeout + GRACE + SLACK)
    progress.say("waiting for the last outcomes…")
    while workload.publishing or where.bus.stats().in_flight:
        if due.expired():
            left = where.bus.stats().in_flight
            return [
                f"{left:,} events had no outcome {GRACE:g} s after delivery_timeout"
            ]
        time.sleep(_LOOK / 4)
    return []


def _together(spreads: list[Spread]) -> Spread:
    total = Spread()
    for spread in spreads:
        total.include(spread)
    return total


def _three(spread: Spread) -> tuple[float | None, float | None, float]:
    return spread.percentile(0.5), spread.percentile(0.99), spread.largest


def _memory() -> int:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
