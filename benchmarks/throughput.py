"""Events per second, ours and its peers in turns: ``python -m benchmarks throughput``."""

from collections.abc import Iterator, Mapping
from typing import Final

from benchmarks import ours
from benchmarks.brokers import Broker
from benchmarks.events import Work
from benchmarks.figures import Measured, ratio
from benchmarks.parts import Part, Settings
from benchmarks.stored import stored_count
from benchmarks.tally import Runner


_DESCRIPTION: Final = """\
Events per second from the first publish until a reader thread holds the last outcome,
and CPU of this process per event. On each broker and for each workload these take
turns, round by round, each on a new stream or topic:

  ours              the bus: publisher threads, one reader with get_many
  by hand           the driver alone as a competent user writes it. Kafka: json.dumps,
                    headers, a closure and queue.put_nowait per message, a poll thread,
                    one reader, as many publisher threads as ours. NATS: json.dumps,
                    headers, js.publish_async pipelined in its own loop, one reader
  bare loop         the driver and nothing else: one thread, bytes made before, no queue.
                    No program is like that; what ours takes above it is its overhead
  literal           NATS: run_coroutine_threadsafe per event, executor.submit per ack
  publish and wait  one event after the other

Below them stand ratios, computed round by round: above 1 ours is faster.
"""

#: Events over 5 topics, as in the suite of the Go SDK.
LEVELS: Final = {"low": 500, "medium": 2000, "high": 5000, "extreme": 10_000}
_TOPICS: Final = 5
_THREADS: Final = (1, 16)
_PAYLOADS: Final = (1000, 10_000)
_LARGE: Final = (100_000, 1_000_000)
# What waits for each event gets fewer.
_FEWER: Final = 40


def measure(settings: Settings) -> Iterator[Measured]:
    """Yield figures of each broker."""
    rounds = settings.rounds()
    for opened in settings.each_broker():
        with opened as broker:
            main = Work(settings.pick(50_000, 10_000))
            _warm_up(broker)
            yield from _main(broker, main, rounds)
            yield from _pairs(broker, _wider(settings), rounds)


def _wider(settings: Settings) -> dict[str, Work]:
    """Return every workload but the main one, by its name; with --quick there is none."""
    if settings.quick:
        return {}
    found = {
        name: Work(settings.events or events, topics=_TOPICS)
        for name, events in LEVELS.items()
    }
    events = settings.pick(50_000, 0)
    found |= {f"{threads} threads": Work(events, threads) for threads in _THREADS}
    found |= {
        f"{size // 1000} kB": Work(max(1, events * 1000 // (1000 + size)), 4, size)
        for size in _PAYLOADS
    }
    if settings.events is None:
        found |= {f"{events // 1000} k": Work(events) for events in _LARGE}
    return found


def _warm_up(broker: Broker) -> None:
    """Load code, fill caches, and let the broker make its first files."""
    work = Work(1000)
    for run in list(_runners(broker).values())[:3]:
        _one(broker, run, work, Measured("", ""))


def _runners(broker: Broker) -> dict[str, Runner]:
    # Drivers are loaded when they are needed.
    if broker.kind == "nats":
        from benchmarks import nats_by_hand  # noqa: PLC0415

        return {
            "ours": ours.publish,
            "by hand (publish_async)": nats_by_hand.publish,
            "bare loop (no JSON)": nats_by_hand.bare_loop,
            "literal design": nats_by_hand.literal,
            "publish and wait": nats_by_hand.publish_and_wait,
        }
    from benchmarks import kafka_by_hand  # noqa: PLC0415

    return {
        "ours": ours.publish,
        "by hand (confluent-kafka)": kafka_by_hand.publish,
        "bare loop (no JSON)": kafka_by_hand.bare_loop,
        "publish and wait": kafka_by_hand.publish_and_wait,
    }


def _main(broker: Broker, work: Work, rounds: int) -> Iterator[Measured]:
    """Everybody in turns; then the ratios that the targets ask for."""
    runners = _runners(broker)
    found = {name: Measured(f"{name}; {work}", broker.title) for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            slow = "wait" in name or name.startswith("literal")
            events = max(1, work.events // _FEWER) if slow else work.events
            given = Work(events, work.threads, work.payload, work.topics)
            _one(broker, run, given, found[name])
    yield from found.values()
    mine, *peers = found.values()
    targets = iter(("T1" if broker.kind == "nats" else "T2",))
    for name, peer in zip(list(runners)[1:], peers, strict=True):
        yield ratio(f"ours / {name}", mine, peer, next(targets, ""))
    yield _overhead(mine, found["bare loop (no JSON)"], broker)


def _overhead(mine: Measured, bare: Measured, broker: Broker) -> Measured:
    """Return what ours takes above the bare loop, in µs of CPU for each event."""
    target = f"T3 {broker.kind}"
    found = Measured("overhead over the bare loop", mine.where, "µs CPU", target=target)
    for a, b in zip(mine.runs, bare.runs, strict=True):
        ours_cpu, its = a.details["µs CPU/event"], b.details["µs CPU/event"]
        run = found.add_value(ours_cpu - its)
        run.note(f"{ours_cpu:.1f} - {its:.1f} µs", balanced=True)
    return found


def _pairs(
    broker: Broker, works: Mapping[str, Work], rounds: int
) -> Iterator[Measured]:
    """Ours and the one by hand, in turns, for each further workload."""
    chosen = list(_runners(broker).items())[:2]
    for label, work in works.items():
        found = [
            Measured(f"{name}; {label}: {work}", broker.title, drawn=False)
            for name, _ in chosen
        ]
        for _ in range(1 if work.events == max(_LARGE) else rounds):
            for measured, (_, run) in zip(found, chosen, strict=True):
                _one(broker, run, work, measured)
        yield from found
        yield ratio(f"ours / {chosen[1][0]}; {label}", found[0], found[1])


def _one(broker: Broker, run: Runner, work: Work, measured: Measured) -> None:
    to = broker.destination(work.topics)
    with ours.connected(to):
        pass  # the stream is there, for whoever comes
    tally = run(to, work)
    # Everybody sends one message to each topic before the clock runs.
    tally.stored = stored_count(to) - len(to.topics)
    cpu = {"µs CPU/event": tally.cpu / work.events * 1e6}
    noted = measured.add_run(work.events, tally.seconds, **cpu)
    noted.note(str(tally), balanced=tally.balanced(work.events))
    to.remove()


PART: Final = Part(
    "throughput",
    "events/s and CPU per event, ours and its peers in turns",
    _DESCRIPTION,
    measure,
)
