"""Rows until all of them are published: by a relay in this process, or by several."""

import contextlib
import json
import subprocess
import sys
import time

from collections.abc import Callable, Iterator
from typing import IO, Final

from sqlalchemy import Engine, create_engine, select

from benchmarks import naive_relay
from benchmarks.books import books_of
from benchmarks.brokers import Broker, Destination
from benchmarks.counting import Counted, CountingOutbox
from benchmarks.databases import Place
from benchmarks.figures import Measured
from benchmarks.writing import TABLE, fill, new_table
from eventbus_sync import EventBus
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRelay


#: Seconds after which a run has failed; its books say how.
PATIENCE: Final = 300.0
_LOOK: Final = 0.005


@contextlib.contextmanager
def connected(url: str) -> Iterator[EventBus]:
    """Yield a bus that has reached its broker."""
    bus = EventBus.from_url(url)
    try:
        bus.start()
        yield bus
    finally:
        bus.close()


@contextlib.contextmanager
def counted_relay(
    engine: Engine, bus: EventBus, table: str
) -> Iterator[tuple[OutboxRelay, CountingOutbox]]:
    """Yield a relay that is not started yet, and its outbox; connected and checked."""
    outbox = CountingOutbox(engine, table_name=table)
    relay = OutboxRelay(outbox, bus, purge_after=None)
    try:
        outbox.stats()
        yield relay, outbox
    finally:
        relay.stop()
        outbox.close()


def measure_relays(  # noqa: PLR0913 - what a run is
    place: Place, broker: Broker, relays: int, rows: int, repeat: int, *, hot: bool
) -> Measured:
    """Return rows per second from the start of *relays* until all is published."""
    name = (
        f"{relays} relay{'s' if relays > 1 else ''}{', hot aggregate' if hot else ''}"
    )
    measured = Measured(name, f"{place.title}, {broker.title}", "rows/s")
    for _ in range(repeat):
        to = broker.destination()
        with new_table(place) as outbox:
            written = fill(outbox, to.topic, rows, hot=hot)
            if relays == 1:
                seconds, counted = _in_this_process(place, to, rows)
            else:
                seconds, counted = _in_processes(place, to, outbox, relays)
            books = books_of(written, outbox.stats(), to.stored())
        run = measured.add_run(rows, seconds, **_details(counted, rows))
        told = f"{books}; relays counted {counted.published:,}"
        run.note(told, balanced=books.balanced and counted.published == rows)
    return measured


def _details(counted: Counted, rows: int) -> dict[str, float]:
    full_claims = counted.claims - counted.empty_claims
    return {
        "µs CPU/row": counted.cpu_seconds / rows * 1e6,
        "statements/row": counted.statements / rows,
        "rows/claim": counted.published / max(1, full_claims),
        "rows/mark": counted.published / max(1, counted.marks),
        "s claiming": counted.claim_seconds,
        "s marking": counted.mark_seconds,
    }


def measure_naive(place: Place, broker: Broker, rows: int, repeat: int) -> Measured:
    """Return rows per second of the naive relay."""
    where = f"{place.title}, {broker.title}"
    measured = Measured("naive relay", where, "rows/s")
    for _ in range(repeat):
        to = broker.destination()
        with new_table(place) as outbox, connected(to.url) as bus:
            written = fill(outbox, to.topic, rows)
            before, cpu = time.perf_counter(), time.process_time()
            naive_relay.relay(outbox, bus)
            seconds = time.perf_counter() - before
            used = time.process_time() - cpu
            books = books_of(written, outbox.stats(), to.stored())
        run = measured.add_run(rows, seconds, **{"µs CPU/row": used / rows * 1e6})
        run.note(str(books), balanced=books.balanced)
    return measured


def measure_idle(place: Place, broker: Broker, seconds: float) -> Measured:
    """Return the CPU of a relay, its bus and this process that has nothing to do."""
    where = f"{place.title}, {broker.title}"
    measured = Measured("idle relay", where, "% of a core")
    with _relay_here(place, broker.destination(), new=True) as (relay, outbox):
        relay.start()
        time.sleep(min(2.0, seconds))  # polls have become rare
        outbox.begin()
        time.sleep(seconds)
        relay.stop()
        counted = outbox.end(relay.stats())
    run = measured.add_run(1, seconds)
    run.value = 100 * counted.cpu_seconds / seconds
    run.details = {"statements/s": counted.statements / seconds}
    run.note("nothing published", balanced=counted.published == 0)
    return measured


@contextlib.contextmanager
def _relay_here(
    place: Place, to: Destination, *, new: bool = False
) -> Iterator[tuple[OutboxRelay, CountingOutbox]]:
    with contextlib.ExitStack() as stack:
        if new:
            stack.enter_context(new_table(place))
        engine = create_engine(place.url)
        stack.callback(engine.dispose)
        bus = stack.enter_context(connected(to.url))
        yield stack.enter_context(counted_relay(engine, bus, TABLE))


def _in_this_process(place: Place, to: Destination, rows: int) -> tuple[float, Counted]:
    with _relay_here(place, to) as (relay, outbox):
        outbox.begin()
        before = time.perf_counter()
        relay.start()
        _until(lambda: relay.stats().published >= rows)
        seconds = time.perf_counter() - before
        relay.stop()
        return seconds, outbox.end(relay.stats())


def _in_processes(
    place: Place, to: Destination, outbox: SqlAlchemyOutbox, relays: int
) -> tuple[float, Counted]:
    command = [sys.executable, "-m", "benchmarks.relay_process"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(  # noqa: S603 - this very program
                    [*command, place.url, to.url, TABLE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(relays)
        ]
        for process in processes:
            _read(process.stdout)
        before = time.perf_counter()
        for process in processes:
            _write(process.stdin)
        c = outbox.table.c
        ask = select(c.position).where(c.state == "pending").limit(1)

        def nothing_pending() -> bool:
            with outbox.engine.connect() as connection:
                return connection.scalar(ask) is None

        _until(nothing_pending)
        seconds = time.perf_counter() - before
        for process in processes:
            _write(process.stdin)
        total = Counted()
        for process in processes:
            total = total.plus(Counted(**json.loads(_read(process.stdout))))
        return seconds, total


def _until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < end:
        time.sleep(_LOOK)


def _read(stream: IO[str] | None) -> str:
    line = stream.readline() if stream else ""
    if not line:
        msg = "a relay process ended; what it said stands above"
        raise RuntimeError(msg)
    return line


def _write(stream: IO[str] | None) -> None:
    if stream:
        stream.write("\n")
        stream.flush()
