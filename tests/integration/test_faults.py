"""Faults are done, felt and undone: by their block, by their time, by their test."""

import time

from collections.abc import Iterator
from typing import Any

import pytest

from conformance.suite import envelope, read
from support.eventually import eventually
from support.jetstream import make_stream, stream_config, unique_stream

from eventbus_sync import EventBus, KafkaConfig, NatsConfig, Outcome
from eventbus_sync.errors import BrokerFull, NotAuthorized
from eventbus_sync.testing import (
    Faults,
    KafkaServer,
    MemoryBus,
    MockKafkaCluster,
    NatsServer,
    NotPossibleHere,
    TcpProxy,
)


@pytest.fixture
def bus(proxied_nats_server: NatsServer) -> Iterator[EventBus]:
    """A bus on a server that can be broken in every way."""
    config = NatsConfig(
        servers=proxied_nats_server.url,
        stream="FAULTS",
        ack_wait=0.4,
        connect_timeout=0.4,
    )
    with EventBus(config) as bus:
        assert bus.publish_envelope_sync("faults", envelope()).success
        yield bus


@pytest.mark.nats
@pytest.mark.parametrize("verb", ["freeze", "kill", "cut", "mute", "deaf"])
def test_a_fault_holds_up_everything_until_its_block_ends(
    bus: EventBus, proxied_nats_server: NatsServer, faults: Faults, verb: str
) -> None:
    with getattr(faults, verb)(proxied_nats_server):
        bus.publish_envelope("faults", envelope(1))
        assert bus.flush(0.3) == 1
    assert read(bus, 1)[0].success


@pytest.mark.nats
@pytest.mark.parametrize("verb", ["freeze", "kill", "cut", "mute", "deaf"])
def test_a_fault_ends_after_its_seconds(
    bus: EventBus, proxied_nats_server: NatsServer, faults: Faults, verb: str
) -> None:
    began = time.monotonic()
    fault = getattr(faults, verb)(proxied_nats_server, seconds=0.5)
    assert bus.publish_envelope_sync("faults", envelope(1)).success
    assert time.monotonic() - began >= 0.5
    fault.wait()
    fault.undo()


@pytest.mark.nats
def test_a_slow_network(
    bus: EventBus, proxied_nats_server: NatsServer, faults: Faults
) -> None:
    with faults.slow(proxied_nats_server, delay=0.1):
        assert bus.publish_envelope_sync("faults", envelope(1)).latency >= 0.2
    assert bus.publish_envelope_sync("faults", envelope(2)).latency < 0.2
    assert proxied_nats_server.proxy is not None
    with faults.slow(proxied_nats_server.proxy, bytes_per_second=5000):
        result = bus.publish_envelope_sync("faults", envelope(3, trace_id="x" * 300))
        assert result.success
        assert result.latency >= 0.15


def test_memory_refuses(faults: Faults) -> None:
    with MemoryBus() as bus:
        with faults.reject(bus):
            for number in range(3):
                refused = bus.publish_envelope_sync("orders", envelope(number))
                assert isinstance(refused.error, BrokerFull)
        assert bus.publish_envelope_sync("orders", envelope(9)).success
        faults.reject(bus.broker, NotAuthorized("no"))
        refused = bus.publish_envelope_sync("orders", envelope(10))
        assert isinstance(refused.error, NotAuthorized)
        faults.undo()
        assert bus.publish_envelope_sync("orders", envelope(11)).success


@pytest.mark.nats
def test_a_stream_refuses(nats_server: NatsServer, faults: Faults) -> None:
    """As one that is full; what it holds it keeps, and its limits come back."""
    stream, subject = unique_stream()
    make_stream(nats_server.url, stream, subject, max_bytes=50_000)
    before = stream_config(nats_server.url, stream)
    with EventBus(NatsConfig(servers=nats_server.url)) as bus:
        assert bus.publish_envelope_sync(subject, envelope(1)).sequence == 1
        with faults.reject(nats_server, stream=stream):
            refused = bus.publish_envelope_sync(subject, envelope(2))
            assert isinstance(refused.error, BrokerFull)
            assert refused.outcome is Outcome.REJECTED
        assert bus.publish_envelope_sync(subject, envelope(3)).sequence == 2
    assert stream_config(nats_server.url, stream) == before


@pytest.mark.kafka
def test_a_mock_cluster_refuses(faults: Faults) -> None:
    with (
        MockKafkaCluster() as cluster,
        EventBus(KafkaConfig(bootstrap_servers=cluster.bootstrap_servers)) as bus,
    ):
        assert bus.publish_envelope_sync("orders", envelope(1)).success
        with faults.reject(cluster):
            refused = bus.publish_envelope_sync("orders", envelope(2))
            assert isinstance(refused.error, NotAuthorized)
        eventually(lambda: bus.publish_envelope_sync("orders", envelope(3)).success)


@pytest.mark.nats
@pytest.mark.kafka
def test_what_is_not_possible_is_said(
    faults: Faults, nats_server: NatsServer, kafka_server: KafkaServer
) -> None:
    with pytest.raises(NotPossibleHere, match="proxy=TcpProxy"):
        faults.cut(nats_server)
    wrong: Any = kafka_server
    with pytest.raises(NotPossibleHere, match="cannot be told to refuse"):
        faults.reject(wrong)
    with pytest.raises(TypeError, match="the stream"):
        faults.reject(nats_server)
    with MockKafkaCluster() as cluster, pytest.raises(TypeError, match="a number"):
        faults.reject(cluster, BrokerFull("x"))
    with MemoryBus() as bus, pytest.raises(TypeError, match="PublishError"):
        faults.reject(bus, 29)


# -- several at a time -----------------------------------------------------------------


@pytest.mark.nats
@pytest.mark.parametrize("outer", ["cut", "mute", "deaf"])
@pytest.mark.parametrize("inner", ["cut", "slow", "deaf"])
def test_the_network_is_given_back_as_it_was(
    bus: EventBus,
    proxied_nats_server: NatsServer,
    faults: Faults,
    outer: str,
    inner: str,
) -> None:
    """A fault that ends does not end the one around it."""
    with getattr(faults, outer)(proxied_nats_server):
        with getattr(faults, inner)(proxied_nats_server.proxy):
            bus.publish_envelope("faults", envelope(1))
        assert bus.flush(0.3) == 1
    assert read(bus, 1)[0].success


@pytest.mark.nats
def test_what_ends_first_ends_nothing_else(
    bus: EventBus, proxied_nats_server: NatsServer, faults: Faults
) -> None:
    """Also if it began first: the newest counts until it ends itself."""
    slow = faults.slow(proxied_nats_server, delay=0.01)
    with faults.cut(proxied_nats_server):
        slow.undo()
        bus.publish_envelope("faults", envelope(1))
        assert bus.flush(0.3) == 1
    assert read(bus, 1)[0].success


@pytest.mark.nats
@pytest.mark.parametrize("verb", ["freeze", "kill"])
def test_a_server_is_broken_until_the_last_fault_ends(
    bus: EventBus, proxied_nats_server: NatsServer, verb: str
) -> None:
    """Whoever asked for it: these are two testers."""
    with Faults() as mine, Faults() as yours:
        fault = getattr(mine, verb)(proxied_nats_server)
        getattr(yours, verb)(proxied_nats_server).undo()
        bus.publish_envelope("faults", envelope(1))
        assert bus.flush(0.3) == 1
        again = getattr(yours, verb)(proxied_nats_server)
        fault.undo()
        assert bus.flush(0.3) == 1
        again.undo()
        assert read(bus, 1)[0].success


@pytest.mark.nats
def test_what_could_not_be_given_back_is_refused(
    fresh_nats_server: NatsServer, faults: Faults
) -> None:
    """A dead server is not frozen any more; it is left as it is."""
    with faults.freeze(fresh_nats_server):
        with pytest.raises(NotPossibleHere, match="during a freeze"):
            faults.kill(fresh_nats_server)
        assert fresh_nats_server.running
    with (
        faults.kill(fresh_nats_server),
        pytest.raises(NotPossibleHere, match="during a kill"),
    ):
        faults.freeze(fresh_nats_server)
    assert fresh_nats_server.running


@pytest.mark.nats
def test_a_frozen_server_that_was_killed_stays_dead(
    fresh_nats_server: NatsServer, faults: Faults
) -> None:
    """Whoever killed it by its own verb starts it again."""
    with faults.freeze(fresh_nats_server) as fault:
        fault.wait()
        fresh_nats_server.kill()
    assert not fresh_nats_server.running


@pytest.mark.parametrize("verb", ["freeze", "kill", "cut", "mute", "deaf", "slow"])
def test_an_address_cannot_be_broken(faults: Faults, verb: str) -> None:
    with pytest.raises(NotPossibleHere, match="'nats://x'"):
        getattr(faults, verb)("nats://x")


@pytest.mark.nats
def test_what_was_closed_is_not_mended() -> None:
    """A server that is gone for good does not come back."""
    faults = Faults()
    with TcpProxy() as proxy, NatsServer(proxy=proxy) as server:
        faults.kill(server)
        faults.cut(server)
    faults.undo()
    assert not server.running
    assert server.closed


def test_all_are_undone_the_last_first_whatever_fails() -> None:
    """An error in one leaves none broken."""
    faults, undone = Faults(), list[int]()

    def undo(number: int) -> None:
        undone.append(number)
        if number == 2:
            raise ValueError(number)

    for number in range(4):
        faults._noted(lambda n=number: undo(n), None)  # type: ignore[misc]
    with pytest.raises(ValueError, match="2"):
        faults.undo()
    assert undone == [3, 2, 1, 0]
    faults.undo()
