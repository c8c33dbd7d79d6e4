"""One run on one broker: write, relay, break, wait, read back, hold it together."""

import contextlib
import tempfile
import time

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from sqlalchemy import Engine

from eventbus_sync.demo.faults import Fault, Schedule
from eventbus_sync.demo.figures import Spread
from eventbus_sync.demo.measure import CONNECT_TIMEOUT, GRACE
from eventbus_sync.demo.outbox.audit import audit
from eventbus_sync.demo.outbox.evidence import Evidence, rows_of, versions_of
from eventbus_sync.demo.outbox.figures import Figures
from eventbus_sync.demo.outbox.orders import Orders, Writers, metadata, open_database
from eventbus_sync.demo.outbox.watch import Watch
from eventbus_sync.demo.plan import Plan, Target
from eventbus_sync.demo.progress import Progress
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay
from eventbus_sync.outbox.settings import LEASE_MARGIN
from eventbus_sync.testing.readback import ReadBackFailed


#: When the broker goes away, as a share of the events, and for how many seconds.
OUTAGE_AT, OUTAGE_SECONDS = 0.3, 3.0

# Seconds in which the writers end their last transactions.
_STOP = 40.0
# Seconds without any row published, after Ctrl-C.
_EARLY = 10.0
# Seconds to read back, and the events for which each further second is added.
_READ_BACK, _READ_RATE = 30.0, 5000


def measure(target: Target, plan: Plan, progress: Progress) -> Figures:
    """
    Return what became of one run; its relay and its bus have ended.

    Ctrl-C ends the writing, not the bookkeeping; a second one ends that too.

    Raises:
        StartFailed: the broker cannot be published to.
        KeyboardInterrupt: Ctrl-C before or after the writing.
    """
    with _database() as engine:
        outbox = SqlAlchemyOutbox(engine)
        metadata.create_all(engine)
        outbox.create_all()
        return _measured(target, plan, progress, outbox)


def _measured(
    target: Target, plan: Plan, progress: Progress, outbox: SqlAlchemyOutbox
) -> Figures:
    bus, failures = target.bus, []
    interrupted, reconnects = False, list[float]()
    schedule = Schedule(_outage(target.faults), plan.events)
    shop = Orders(outbox.engine, outbox, target.topic)
    writers = Writers(
        shop, events=plan.events, threads=plan.threads, holds=schedule.holds
    )
    # The bus is the relay's own: it reads the results, nobody else does.
    relay = OutboxRelay(outbox, bus, lease=target.delivery_timeout + LEASE_MARGIN)
    watch = Watch(target.backend, outbox, relay, writers, schedule, progress)
    bus.register_reconnect_callback(lambda: reconnects.append(time.monotonic()))
    with bus:
        bus.start(CONNECT_TIMEOUT)
        began = time.perf_counter()
        relay.start()
        try:
            patience = target.delivery_timeout + GRACE + OUTAGE_SECONDS
            try:
                writers.start()
                schedule.start(bus.stats)
                if not watch.until_written(patience):
                    failures.append(f"nothing went on for {patience:g} s")
            except KeyboardInterrupt:
                interrupted, patience = True, _EARLY
                progress.say("interrupted; publishing what was committed…")
            finally:
                writers.stop(_STOP)
                schedule.stop()
            if not watch.until_published(patience):
                failures.append(f"rows were still pending after {patience:g} s")
        except BaseException:
            relay.stop(0)  # told to end at once
            raise
        seconds = time.perf_counter() - began
        relay.stop()
        bus.close()
    progress.say("reading back what is stored…")
    evidence = None
    try:
        evidence = Evidence(
            rows=rows_of(outbox),
            versions=versions_of(outbox.engine),
            relay=relay.stats(),
            bus=bus.stats(),
            stored=target.read_back(_READ_BACK + plan.events / _READ_RATE),
            once=target.backend != "kafka",
        )
    except ReadBackFailed as error:
        failures.append(str(error))
    journal = writers.journal
    return Figures(
        backend=target.backend,
        title=target.title,
        events=plan.events,
        threads=plan.threads,
        committed=journal.committed,
        rolled_back=journal.rolled_back,
        rows=Counter(row.state for row in rows_of(outbox)),
        relay=relay.stats(),
        bus=bus.stats(),
        reconnects=len(reconnects),
        oldest=watch.oldest,
        most=watch.most,
        seconds=seconds,
        commit=Spread.of([s for log in journal.writers for s in log.commits]),
        stored=None if evidence is None else len(evidence.stored),
        struck=tuple(schedule.struck),
        violations=() if evidence is None else tuple(audit(journal, evidence)),
        failures=(*journal.failures, *schedule.failures, *failures),
        interrupted=interrupted,
    )


def _outage(faults: Sequence[Fault]) -> list[Fault]:
    """Return the worst of *faults*, in the middle of the run and for longer."""
    if not faults:
        return []
    return [attrs.evolve(faults[-1], at=OUTAGE_AT, seconds=OUTAGE_SECONDS)]


@contextlib.contextmanager
def _database() -> Iterator[Engine]:
    """Make an SQLite file that goes away afterwards."""
    with tempfile.TemporaryDirectory(prefix="eventbus-demo-") as folder:
        engine = open_database(Path(folder) / "shop.db")
        try:
            yield engine
        finally:
            engine.dispose()
