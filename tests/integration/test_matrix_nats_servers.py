"""
The fault matrix, NATS: a server that is late, leaves, denies or is hard to reach.

Four threads publish to it meanwhile, and each line ends with the books. Servers that are
killed, frozen and restarted under load are in ``test_fault_matrix.py``.
"""

import contextlib
import os
import signal

from collections.abc import Iterator
from pathlib import Path

import pytest

from nats.js.api import Placement
from support.eventually import eventually
from support.jetstream import MakeBus, buses, make_stream, reload_server
from support.load import Load
from support.nats_accounts import Operator
from support.patience import let_pass

from eventbus_sync import NatsConfig, Outcome
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerUnavailable,
    BrokerUnreachable,
    NotAuthorized,
)
from eventbus_sync.testing import NatsServer, TcpProxy
from eventbus_sync.testing._ports import HOST, free_port
from eventbus_sync.testing.readback import read_nats_stream


pytestmark = [pytest.mark.nats, pytest.mark.slow]


@pytest.fixture
def make() -> Iterator[MakeBus]:
    """Buses that are closed after the test."""
    with buses() as make:
        yield make


def test_promises_1_2_5_and_6_ten_seconds_late(
    make: MakeBus, fresh_nats_server: NatsServer
) -> None:
    """What was published before there was a server is stored, before the rest."""
    server = fresh_nats_server
    server.stop()
    bus = make(server, stream="LATE")
    with Load(bus, "late") as load:
        let_pass(10)
        assert isinstance(bus.health().last_error, BrokerUnreachable)
        assert bus.stats().in_flight == bus.stats().accepted > 1000
        server.start()
        load.goes_on(bus.stats().in_flight + 500)
    assert load.outcomes() == {Outcome.ACKED}
    load.check(read_nats_stream(server.url, "LATE"))
    assert max(result.latency for result in load.results) > 9


def test_promises_1_2_5_and_6_lame_duck(make: MakeBus) -> None:
    """A server that asks its clients to leave, ends, and comes back."""
    config = 'lame_duck_duration: "30s"\nlame_duck_grace_period: "1s"'
    with TcpProxy() as proxy, NatsServer(config=config, proxy=proxy) as server:
        bus = make(server, stream="DUCK")
        with Load(bus, "duck") as load:
            load.goes_on()
            # So that some of it is stored and will have to go again.
            proxy.mute()
            eventually(lambda: proxy.swallowed > 1000, 30)
            assert server.pid is not None
            os.kill(server.pid, signal.SIGUSR2)
            eventually(lambda: not server.running, 60)
            server.kill()
            server.start()
            proxy.heal()
            load.goes_on()
        load.check(read_nats_stream(server.url, "DUCK"))
        assert load.outcomes() == {Outcome.ACKED}
        assert any(result.duplicate for result in load.results)
        assert bus.health().reconnects >= 1


def test_promises_1_2_5_and_6_permission_denied_for_a_subject(make: MakeBus) -> None:
    """Rejected at once, and the other subject flows; granted, it is stored."""

    def config(permissions: str) -> str:
        return (
            "authorization { users: [ { user: bus, password: p, permissions: "
            f"{{ publish: {{ {permissions} }} }} }}, {{ user: a, password: a }} ] }}"
        )

    with NatsServer(config=config("allow: '>', deny: [law.denied]")) as server:
        bus = make(server, stream="LAW", user="bus", password="p")
        with Load(bus, "law.free", "law.denied") as load:
            eventually(lambda: bus.stats().rejected > 500, 30)
            assert load.outcomes("law.denied") == {Outcome.REJECTED}
            reload_server(server, config("allow: '>'"))
            eventually(lambda: Outcome.ACKED in load.outcomes("law.denied"), 30)
            load.goes_on()
        assert load.outcomes("law.free") == {Outcome.ACKED}
        refused = [r for r in load.results if not r.success]
        assert {type(r.error) for r in refused} == {NotAuthorized}
        admin = server.url.replace("//", "//a:a@")
        for subject in ("law.free", "law.denied"):
            load.check(read_nats_stream(admin, "LAW", subject=subject), subject)


def test_promises_1_2_5_and_6_permission_taken_away_while_acks_are_late(
    make: MakeBus,
) -> None:
    """The stream's leader stands still, the server that we are on does not: no mix-up."""
    ports = [free_port() for _ in range(3)]
    routes = ", ".join(f"nats://{HOST}:{port}" for port in ports)

    def config(number: int, permissions: str = "allow: '>'") -> str:
        return (
            f"server_tags: [n{number}]\n"
            f"cluster {{ name: C, listen: '{HOST}:{ports[number]}', routes: [{routes}] }}\n"
            "authorization { users: [ { user: bus, password: p, permissions: "
            f"{{ publish: {{ {permissions} }} }} }}, {{ user: a, password: a }} ] }}"
        )

    with contextlib.ExitStack() as stack:
        holder, near, _ = (
            stack.enter_context(NatsServer(config=config(n))) for n in range(3)
        )
        admin = near.url.replace("//", "//a:a@")
        place = Placement(cluster="C", tags=["n0"])

        def made() -> bool:
            make_stream(admin, "LAW", "law.*", num_replicas=1, placement=place)
            return True

        eventually(made, 60, interval=0.5)
        bus = make(
            near,
            stream="LAW",
            subjects=["law.*"],
            user="bus",
            password="p",
            delivery_timeout=20.0,
            ack_wait=10.0,
        )
        subjects = ("law.free", "law.denied")
        with Load(bus, *subjects) as load:
            for _ in range(3):
                load.goes_on()
                rejected = bus.stats().rejected
                holder.freeze()
                let_pass(0.3)
                reload_server(near, config(1, "allow: '>', deny: [law.denied]"))
                let_pass(0.5)
                reload_server(near, config(1))
                let_pass(0.3)
                holder.resume()
                eventually(lambda: bus.stats().rejected > rejected + 50, 30)  # noqa: B023
        assert bus.health().reconnects == 0
        assert load.outcomes("law.free") == {Outcome.ACKED}
        assert load.outcomes("law.denied") == {Outcome.ACKED, Outcome.REJECTED}
        refused = [r for r in load.results if not r.success]
        assert {type(r.error) for r in refused} == {NotAuthorized}
        for subject in subjects:
            load.check(read_nats_stream(admin, "LAW", subject=subject), subject)


def test_promises_1_2_5_and_6_the_login_expires(make: MakeBus, tmp_path: Path) -> None:
    """Thrown out and not let in again: events end in time, and new credentials mend it."""
    operator = Operator(tmp_path)
    creds = operator.creds_file("brief", seconds=3)
    with NatsServer(config=operator.server_config()) as server:
        bus = make(server, stream="LAW", creds_file=creds, delivery_timeout=2.0)
        with Load(bus, "law") as load:
            load.goes_on()
            eventually(
                lambda: isinstance(bus.health().last_error, AuthenticationFailed), 20
            )
            load.settles(1)
            eventually(lambda: bus.stats().rejected > 300, 30)
            creds.write_text(operator.creds_file("fresh").read_text())
            load.goes_on()
        refused = [r for r in load.results if r.outcome is Outcome.REJECTED]
        assert {type(r.error) for r in refused} == {BrokerUnavailable}
        assert all("Authorization Violation" in str(r.error) for r in refused)
        config = NatsConfig(servers=server.url, creds_file=creds)
        load.check(read_nats_stream(config, "LAW"))


def test_promises_1_2_5_and_6_messages_that_need_longer_than_ack_wait(
    make: MakeBus,
) -> None:
    """On a line so slow, too, everything gets through, and soon without a new connection."""
    with TcpProxy() as proxy, NatsServer(proxy=proxy) as server:
        bus = make(
            server,
            stream="SLOW",
            ack_wait=0.4,
            delivery_timeout=30.0,
            max_in_flight=8,
            publish_timeout=0.2,
        )
        bus.start(10)
        proxy.slow(bytes_per_second=100_000)
        blob = b'"%s"' % (b"x" * 100_000)
        with Load(bus, "slow", payload=lambda _: blob) as load:
            load.goes_on(5)
            reconnects = bus.health().reconnects
            load.goes_on(5)
            assert bus.health().reconnects == reconnects
            proxy.heal()
            load.goes_on(50)
        assert load.outcomes() == {Outcome.ACKED}
        load.check(read_nats_stream(server.url, "SLOW"))
        # Doubled from 0.4 s until it was enough.
        assert 1 <= reconnects <= 4
