"""JetStream streams: made, checked, absent, full, deleted and strange ones."""

import threading
import time

from collections.abc import Iterator
from typing import Any

import pytest

from conformance.suite import envelope, order_kept, read
from nats.js.api import DiscardPolicy, StorageType
from support.eventually import eventually
from support.jetstream import (
    MakeBus,
    ask_jetstream,
    buses,
    delete_stream,
    make_stream,
    stream_config,
    unique_stream,
)
from support.patience import SLACK

from eventbus_sync import EventBus, Outcome
from eventbus_sync.errors import (
    BrokerFull,
    DeliveryTimedOut,
    DestinationNotFound,
    JetStreamDisabled,
    MessageRefused,
    StreamInvalid,
)
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = pytest.mark.nats


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


def numbers(server: NatsServer, stream: str, subject: str = ">") -> list[int]:
    """Return the numbers of the events in the stream, in its order."""
    stored = read_nats_stream(server.url, stream, subject=subject)
    return [int(e.value.rpartition(b'{"n":')[2].rstrip(b"}")) for e in stored]


# -- ensure_stream ---------------------------------------------------------------------


def test_create_makes_the_stream_as_configured(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """A stream that is absent is created with our settings."""
    stream, subject = unique_stream()
    bus = make(
        nats_server, stream=stream, storage="memory", duplicate_window=200, replicas=1
    )
    bus.start(10)
    config = stream_config(nats_server.url, stream)
    assert config.subjects == [subject, f"{subject}.>"]
    assert config.storage == StorageType.MEMORY
    assert config.duplicate_window == 200
    assert bus.publish_envelope_sync(f"{subject}.a.b", envelope()).success


def test_an_existing_stream_is_never_changed(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Whatever else it is set to, it stays so."""
    stream, subject = unique_stream()
    make_stream(
        nats_server.url, stream, subject, "also-" + subject, max_msgs=77, max_age=3600
    )
    before = stream_config(nats_server.url, stream)
    bus = make(nats_server, stream=stream, subjects=[subject], storage="memory")
    bus.start(10)
    assert bus.publish_envelope_sync(subject, envelope()).success
    assert stream_config(nats_server.url, stream) == before


@pytest.mark.parametrize("ensure", ["create", "validate"])
def test_missing_subjects_are_named(
    make: MakeBus, nats_server: NatsServer, ensure: Any
) -> None:
    """A stream that does not take what is configured fails start() by name."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, f"{subject}.a", f"{subject}.b.*")
    bus = make(
        nats_server,
        stream=stream,
        subjects=[f"{subject}.a", f"{subject}.b.>", f"{subject}.c"],
        ensure_stream=ensure,
    )
    with pytest.raises(StreamInvalid, match="never changed") as caught:
        bus.start(10)
    assert f"not ['{subject}.b.>', '{subject}.c']" in str(caught.value)
    # It is said again to whoever asks again, and without waiting for the timeout.
    with pytest.raises(StreamInvalid, match="never changed"):
        bus.start(60)
    # What the stream takes, it takes.
    assert bus.publish_envelope_sync(f"{subject}.a", envelope()).success


def test_validate_wants_the_stream_to_be_there(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """An absent stream fails start(), and is found when somebody made it."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream, ensure_stream="validate")
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    with pytest.raises(StreamInvalid, match=f"no stream '{stream}'.*ensure_stream"):
        bus.start(10)
    make_stream(nats_server.url, stream, subject)
    bus.start(10)
    assert bus.publish_envelope_sync(subject, envelope()).success
    assert sum(isinstance(error, StreamInvalid) for error in errors) == 1


def test_skip_asks_nothing(make: MakeBus, nats_server: NatsServer) -> None:
    """With "skip", or without a stream, whatever takes the subject is good."""
    stream, subject = unique_stream()
    for settings in ({"stream": stream, "ensure_stream": "skip"}, {}):
        bus = make(nats_server, **settings)
        bus.start(10)
    with pytest.raises(Exception, match="stream not found"):
        stream_config(nats_server.url, stream)
    make_stream(nats_server.url, stream, subject)
    assert bus.publish_envelope_sync(subject, envelope()).stream == stream


def test_two_workers_create_at_once(make: MakeBus, nats_server: NatsServer) -> None:
    """Many buses that all find no stream end with one, also if they differ."""
    stream, subject = unique_stream()
    several = [
        make(nats_server, stream=stream, subjects=[subject], duplicate_window=100 + n)
        for n in range(6)
    ]
    failures: list[BaseException] = []

    def start(bus: EventBus) -> None:
        try:
            bus.start(20)
        except BaseException as exc:
            failures.append(exc)
            raise

    starters = [threading.Thread(target=start, args=(bus,)) for bus in several]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert failures == []
    for number, bus in enumerate(several):
        assert bus.publish_envelope_sync(subject, envelope(number)).success
    assert numbers(nats_server, stream) == list(range(6))


def test_overlapping_subjects_are_refused(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """The server's own reason is told."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, f"{subject}.>")
    bus = make(nats_server, stream=stream + "2", subjects=[f"{subject}.x"])
    with pytest.raises(StreamInvalid, match="subjects overlap with an existing stream"):
        bus.start(10)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"no_ack": True}, "no_ack"), ({"sealed": True}, "sealed")],
    ids=["no_ack", "sealed"],
)
def test_streams_that_never_acknowledge(
    make: MakeBus, nats_server: NatsServer, settings: dict[str, Any], reason: str
) -> None:
    """A stream that gives no outcomes, or takes nothing, fails start()."""
    stream, subject = unique_stream()
    sealed = settings.pop("sealed", False)
    make_stream(nats_server.url, stream, subject, **settings)
    if sealed:

        async def seal(js: Any) -> None:
            await js.update_stream(
                name=stream, subjects=[subject], sealed=True, deny_delete=True
            )

        ask_jetstream(nats_server.url, seal)
    bus = make(nats_server, stream=stream, subjects=[subject], delivery_timeout=3)
    with pytest.raises(StreamInvalid, match=reason):
        bus.start(10)
    result = bus.publish_envelope_sync(subject, envelope())
    assert not result.success
    if sealed:
        assert isinstance(result.error, DestinationNotFound)
        assert result.latency < 3 + SLACK


def test_js_domain(make: MakeBus) -> None:
    """The stream is made in the configured domain; a wrong one is named."""
    with NatsServer(config="jetstream: { domain: hub }") as server:
        bus = make(server, stream="DOMAIN", js_domain="hub")
        bus.start(10)
        assert bus.publish_envelope_sync("domain", envelope()).success
        wrong = make(server, stream="DOMAIN", js_domain="spoke")
        with pytest.raises(StreamInvalid, match="no domain 'spoke'"):
            wrong.start(10)


def test_server_without_jetstream(make: MakeBus) -> None:
    """start() says so; events are rejected, plain messages go."""
    with NatsServer(jetstream=False) as server:
        bus = make(server, stream="NONE", delivery_timeout=1.0)
        with pytest.raises(StreamInvalid, match="JetStream is not enabled"):
            bus.start(10)
        result = bus.publish_envelope_sync("none", envelope())
        assert isinstance(result.error, DestinationNotFound)
        assert result.outcome is Outcome.REJECTED
        assert "JetStream is not enabled" in str(result.error)


def test_jetstream_off_by_configuration(make: MakeBus, nats_server: NatsServer) -> None:
    """Events are refused by an exception; plain messages are core NATS."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject)
    bus = make(nats_server, jetstream=False)
    bus.start(10)
    with pytest.raises(JetStreamDisabled):
        bus.publish_envelope(subject, envelope())
    bus.publish(subject, b'{"n":1}', headers={"kind": "hint"})
    bus.publish(subject, b'{"n":2}')
    bus.close(5)
    assert numbers(nats_server, stream) == [1, 2]


# -- no stream -------------------------------------------------------------------------


def test_promise_1_no_stream_takes_the_subject(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Rejected at delivery_timeout, retriable; other subjects flow meanwhile."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream, delivery_timeout=1.5)
    bus.start(10)
    for number in range(100):
        bus.publish_envelope(f"no-{subject}", envelope(number))
    for number in range(100):
        result = bus.publish_envelope_sync(subject, envelope(number))
        assert result.success
        assert result.latency < 1.0 + SLACK
    for result in read(bus, 100):
        assert isinstance(result.error, DestinationNotFound)
        assert result.outcome is Outcome.REJECTED
        assert result.error.retriable
        assert 1.5 <= result.latency < 3.5 + SLACK
    assert bus.health().reconnects == 0
    # No gate is left for the next event.
    eventually(lambda: not _gates(bus))


def test_a_subject_without_a_stream_shows_at_once(
    make: MakeBus, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """In health, handler and log, long before delivery_timeout; once."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream)
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    bus.start(10)
    started = time.monotonic()
    for number in range(100):
        bus.publish_envelope(f"no-{subject}", envelope(number))
    eventually(lambda: errors)
    assert time.monotonic() - started < 1.0 + SLACK
    assert isinstance(bus.health().last_error, DestinationNotFound)
    assert f"no stream takes subject 'no-{subject}'" in str(errors[0])
    assert str(errors[0]) in caplog.text
    # Its probes go on.
    assert bus.flush(2) == 100
    assert len(errors) == 1


def _gates(bus: EventBus) -> int:
    return len(bus._runtime.backend._pump._gates)  # type: ignore[union-attr]


def test_promise_6_a_stream_that_appears_later(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Events that waited for their stream are acked, in order."""
    stream, subject = unique_stream()
    bus = make(nats_server)
    bus.start(10)
    bus.publish_envelope(subject, envelope(0))
    eventually(lambda: _gates(bus) == 1)
    for number in range(1, 300):
        bus.publish_envelope(subject, envelope(number))
    make_stream(nats_server.url, stream, subject)
    results = read(bus, 300)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert numbers(nats_server, stream) == list(range(300))
    assert not _gates(bus)


def test_promise_1_stream_deleted_and_made_again(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Nothing is lost between the two, and nothing is stored twice."""
    stream, subject = unique_stream()
    bus = make(nats_server, stream=stream, subjects=[subject])
    for number in range(100):
        assert bus.publish_envelope_sync(subject, envelope(number)).success
    delete_stream(nats_server.url, stream)
    for number in range(100, 200):
        bus.publish_envelope(subject, envelope(number))
    eventually(lambda: _gates(bus) == 1)
    make_stream(nats_server.url, stream, subject)
    results = read(bus, 100)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    stored = read_nats_stream(nats_server.url, stream)
    assert len(stored) == len({e.event_id for e in stored}) == 100


def test_a_missing_stream_is_made_again_after_a_reconnect(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """A server that comes back empty gets its stream anew, and the events."""
    server = fresh_nats_server
    bus = make(server, stream="EMPTY", storage="memory")
    assert bus.publish_envelope_sync("empty", envelope(0)).success
    server.kill()
    for number in range(1, 100):
        bus.publish_envelope("empty", envelope(number))
    server.start()
    results = read(bus, 99)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert order_kept(
        [
            (e.event_id, e.aggregate_id, e.value)
            for e in read_nats_stream(server.url, "EMPTY")
        ]
    )


def test_events_that_wait_for_a_stream_keep_their_order_over_a_reconnect(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """A lost connection does not let later events pass those at the gate."""
    server = fresh_nats_server
    bus = make(server)
    bus.start(10)
    for number in range(100):
        bus.publish_envelope("later", envelope(number))
    eventually(lambda: _gates(bus) == 1)
    server.restart()
    eventually(lambda: bus.health().reconnects == 1)
    for number in range(100, 200):
        bus.publish_envelope("later", envelope(number))
    make_stream(server.url, "LATER", "later")
    results = read(bus, 200)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    assert numbers(server, "LATER") == list(range(200))


# -- refused by the stream -------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "count", "text"),
    [
        ({"max_msgs": 5}, 5, "maximum messages exceeded"),
        ({"max_bytes": 2000}, None, "maximum bytes exceeded"),
        (
            {"max_msgs_per_subject": 3, "discard_new_per_subject": True},
            3,
            "maximum messages per subject exceeded",
        ),
    ],
    ids=["messages", "bytes", "per-subject"],
)
def test_promise_1_full_stream(
    make: MakeBus,
    nats_server: NatsServer,
    settings: dict[str, Any],
    count: int | None,
    text: str,
) -> None:
    """Rejected at once, retriable, as full; stored later when there is room."""
    stream, subject = unique_stream()
    settings.setdefault("max_msgs", 1000)
    make_stream(nats_server.url, stream, subject, discard=DiscardPolicy.NEW, **settings)
    bus = make(nats_server, stream=stream, subjects=[subject])
    for number in range(20):
        bus.publish_envelope(subject, envelope(number))
    results = read(bus, 20)
    acked = [r for r in results if r.success]
    refused = [r for r in results if not r.success]
    assert len(acked) == count or count is None
    assert refused
    for result in refused:
        assert result.outcome is Outcome.REJECTED
        assert isinstance(result.error, BrokerFull)
        assert result.error.retriable
        assert text in str(result.error)
        assert "10077" in str(result.error)
        assert result.latency < 3 + SLACK
    assert len(numbers(nats_server, stream)) == len(acked)

    async def purge(js: Any) -> None:
        await js.purge_stream(stream)

    ask_jetstream(nats_server.url, purge)
    assert bus.publish_envelope_sync(subject, envelope(99)).success


def test_promise_1_larger_than_the_stream_takes(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Rejected at once for its own size, for good; others go."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject, max_msg_size=2000)
    bus = make(nats_server, stream=stream, subjects=[subject])
    big = bus.publish_envelope_sync(subject, envelope(0, trace_id="x" * 2000))
    assert isinstance(big.error, MessageRefused)
    assert big.outcome is Outcome.REJECTED
    assert not big.error.retriable
    assert "10054" in str(big.error)
    assert bus.publish_envelope_sync(subject, envelope(1)).success


def test_promise_1_account_without_room(make: MakeBus) -> None:
    """A server whose disk quota is used up: rejected at once, retriable."""
    config = "jetstream: { max_file_store: 64KB, max_memory_store: 64KB }"
    with NatsServer(config=config) as server:
        bus = make(server, stream="QUOTA")
        bus.start(10)
        results = [
            bus.publish_envelope_sync("quota", envelope(n, trace_id="x" * 4000))
            for n in range(20)
        ]
        refused = [r for r in results if not r.success]
        assert 0 < len(refused) < 20
        assert {type(r.error) for r in refused} == {BrokerFull}


# -- the duplicate window --------------------------------------------------------------


def test_short_window_fails_start_and_is_told(
    make: MakeBus, nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A window in which a retry may be stored twice is warned about; it still works."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject, duplicate_window=10)
    bus = make(nats_server, stream=stream, subjects=[subject])
    errors: list[Exception] = []
    bus.set_error_handler(errors.append)
    for _ in range(2):
        with pytest.raises(
            StreamInvalid, match=r"recognises repeats for 10 s only.*35"
        ):
            bus.start(10)
    assert bus.publish_envelope_sync(subject, envelope()).success
    eventually(lambda: "recognises repeats for 10 s" in caplog.text)
    assert isinstance(errors[0], StreamInvalid)


@pytest.mark.parametrize("settings", [{}, {"stream": "S", "ensure_stream": "skip"}])
def test_a_window_that_nobody_looks_at(
    make: MakeBus, nats_server: NatsServer, settings: dict[str, Any]
) -> None:
    """It is taken to be the server's default; who wants more has to name the stream."""
    make(nats_server, delivery_timeout=115, **settings).start(10)
    bus = make(nats_server, delivery_timeout=116, **settings)
    with pytest.raises(StreamInvalid, match=r"120 s only.*=116 s: name one as stream"):
        bus.start(10)


def test_without_jetstream_there_is_no_window(
    make: MakeBus, nats_server: NatsServer
) -> None:
    """Plain messages are never sent again."""
    make(nats_server, delivery_timeout=300, jetstream=False).start(10)


def test_promise_5_no_repeat_past_the_window(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """What the stream may have forgotten is not sent again: unknown, never twice."""
    server = fresh_nats_server
    make_stream(server.url, "SHORT", "short", duplicate_window=1)
    bus = make(
        server,
        stream="SHORT",
        subjects=["short"],
        delivery_timeout=2.5,
        ack_wait=0.3,
        connect_timeout=0.3,
    )
    assert bus.publish_envelope_sync("short", envelope(0)).success
    server.freeze()
    for number in range(1, 50):
        bus.publish_envelope("short", envelope(number))
    eventually(lambda: bus.health().connected is False)
    server.resume()
    eventually(lambda: bus.health().connected is True)
    # What comes behind them is not held up.
    assert bus.publish_envelope_sync("short", envelope(50)).success
    results = read(bus, 49)
    assert {type(r.error) for r in results} == {DeliveryTimedOut}
    stored = numbers(server, "SHORT")
    assert len(stored) == len(set(stored))
