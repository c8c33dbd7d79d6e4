"""Three nats-servers with a replicated stream: one dies, a leader moves, none is lost."""

import contextlib
import json
import threading

from collections.abc import Iterator

import pytest

from conformance.suite import envelope, publish_all, read
from nats.js import JetStreamContext
from support.eventually import eventually
from support.jetstream import MakeBus, ask_jetstream, buses
from support.load import Load
from support.stored import as_of_a_rig
from support.verdict import verdict

from eventbus_sync import EventBus, Outcome
from eventbus_sync.testing import NatsServer
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing.conformance import books
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = [pytest.mark.nats, pytest.mark.slow]

STREAM = "REPLICATED"
COUNT = 8000


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


@pytest.fixture
def cluster() -> Iterator[list[NatsServer]]:
    """Three servers that know each other."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats://{HOST}:{port}" for port in ports)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                NatsServer(
                    config=f"cluster {{ name: C, listen: '{HOST}:{port}', "
                    f"routes: [{routes}] }}"
                )
            )
            for port in ports
        ]


def leader(server: NatsServer, cluster: list[NatsServer]) -> NatsServer:
    """Return the server that leads the stream, as *server* knows it."""

    async def ask(js: JetStreamContext) -> str:
        info = await js.stream_info(STREAM)
        assert info.cluster is not None
        return info.cluster.leader or ""

    name = ask_jetstream(server.url, ask)
    return next(server for server in cluster if server.identity == name)


both_modes = pytest.mark.parametrize("mode", ["single", "batch"])


def publish(bus: EventBus) -> threading.Thread:
    """Publish from four threads, in the background."""
    events = [envelope(n, f"order-{n % 30}") for n in range(COUNT)]
    thread = threading.Thread(target=publish_all, args=(bus, "replicated", events))
    thread.start()
    return thread


def stored_once(server: NatsServer, bus: EventBus) -> list[tuple[str, str, bytes]]:
    """Return what is stored: everything, once, and acked."""
    results = verdict(read)(bus, COUNT)
    stored = as_of_a_rig(read_nats_stream(server.url, STREAM))
    books.stored_once(stored, COUNT)
    assert {r.outcome for r in results} == {Outcome.ACKED}
    return stored


@both_modes
def test_promise_5_and_6_the_leader_is_killed(
    make: MakeBus, cluster: list[NatsServer], mode: str
) -> None:
    """We are connected to it, it is dead: the others store each event once, in order."""
    # Knowing one server is enough; it names the others.
    bus = make(cluster[0], stream=STREAM, replicas=3, publish_mode=mode)
    bus.start(60)
    victim = leader(cluster[0], cluster)
    bus.close(5)
    bus = make(victim, stream=STREAM, replicas=3, publish_mode=mode)
    publishing = publish(bus)
    eventually(lambda: bus.stats().acked > COUNT // 8, timeout=60, interval=0.001)
    victim.kill()
    publishing.join()
    stored = stored_once(next(s for s in cluster if s is not victim), bus)
    books.stored_once_in_order(stored, COUNT)
    assert bus.health().reconnects >= 1


def caught_up(server: NatsServer, cluster: list[NatsServer]) -> bool:
    """Whether every server has all that the stream holds."""

    async def ask(js: JetStreamContext) -> bool:
        found = (await js.stream_info(STREAM)).cluster
        assert found is not None
        peers = found.replicas or []
        return len(peers) == len(cluster) - 1 and all(p.current for p in peers)

    return ask_jetstream(server.url, ask)


def test_promises_1_2_and_5_the_leader_is_killed_twice(
    make: MakeBus, cluster: list[NatsServer]
) -> None:
    """Under load; each time another leads, and the dead one comes back."""
    bus = make(",".join(s.url for s in cluster), stream=STREAM, replicas=3)
    bus.start(60)
    with Load(bus, "replicated") as load:
        for _ in range(2):
            load.goes_on(1000)
            victim = leader(cluster[0], cluster)
            victim.kill()
            load.goes_on(1000)
            victim.start()
            # Without it a second death may leave a leader that lacks what was acked.
            eventually(lambda: caught_up(victim, cluster), 60)  # noqa: B023
    # A leader that moves refuses single messages, and later ones may pass them.
    load.check(read_nats_stream(cluster[0].url, STREAM), in_order=False)
    assert load.outcomes() == {Outcome.ACKED}


@both_modes
def test_promise_5_the_leader_moves(
    make: MakeBus, cluster: list[NatsServer], mode: str
) -> None:
    """On a live connection: refused for a moment, tried again, stored once."""
    urls = ",".join(s.url for s in cluster)
    bus = make(urls, stream=STREAM, replicas=3, publish_mode=mode)
    bus.start(60)
    publishing = publish(bus)

    async def step_down(js: JetStreamContext) -> bool:
        subject = f"$JS.API.STREAM.LEADER.STEPDOWN.{STREAM}"
        answer = await js._nc.request(subject, b"", timeout=10)
        return bool(json.loads(answer.data).get("success"))

    for part in (8, 4, 2):
        eventually(lambda: bus.stats().acked > COUNT // part, timeout=60)  # noqa: B023
        eventually(lambda: ask_jetstream(cluster[0].url, step_down), timeout=30)
    publishing.join()
    stored_once(cluster[0], bus)
