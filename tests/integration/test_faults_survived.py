"""``faults`` on real brokers: a few of its lines, and one that is not survived."""

import asyncio
import json

from typing import Any

import nats
import pytest

from support.verdict import kept

from eventbus_sync import cli
from eventbus_sync.soak import ground, lines, survival
from eventbus_sync.soak.lines import Line
from eventbus_sync.soak.schedule import Strike
from eventbus_sync.testing import NatsServer


SHORT = (
    Line(
        fault="killed",
        brokers=("nats",),
        strikes=(Strike(at=0.5, lane="server", kind="kill", seconds=0.3),),
    ),
    Line(
        fault="cut",
        strikes=(Strike(at=0.5, lane="network", kind="cut", seconds=0.5),),
    ),
    Line(
        fault="nobody reads",
        strikes=(Strike(at=0.5, lane="reader", kind="no reader", seconds=1.5),),
        overflow="drop",
    ),
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LINES", SHORT)


@pytest.mark.nats
@pytest.mark.kafka
@pytest.mark.slow
def test_a_short_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each line breaks a broker of its own, under load, and its books balance."""
    # So few that a slow machine fills it too, while nobody reads.
    monkeypatch.setattr(ground, "CAPACITY", 500)
    code = cli.main(["faults", "--json", "--rate", "8000"])
    data = json.loads(capsys.readouterr().out)
    kept(code, data)
    faults: list[dict[str, Any]] = data["faults"]
    assert [(x["fault"], x["plan"]["backend"]) for x in faults] == [
        ("killed", "nats"),
        *(("cut", broker) for broker in ("nats", "kafka")),
        *(("nobody reads", broker) for broker in ("nats", "kafka")),
    ]
    for fault in faults:
        assert (fault["lost"], fault["twice"], fault["balanced"]) == (0, 0, True)
        assert fault["stored"] == fault["stats"]["acked"] > 1000
        assert fault["strikes"]
    for outage in faults[:3]:
        assert outage["most_in_flight"] > 100
    for unread in faults[3:]:
        assert unread["stats"]["dropped"] > 0


@pytest.mark.nats
def test_a_broker_that_forgets_is_found(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that comes back without what it acknowledged: lost, and 1."""
    real = NatsServer.start

    def start_empty(server: NatsServer) -> None:
        real(server)
        if forgetful:
            delete_messages(server.url)
        forgetful.append(server)

    forgetful: list[NatsServer] = []
    monkeypatch.setattr(NatsServer, "start", start_empty)
    code = cli.main(["faults", "--only", "killed", "--backend", "nats", "--markdown"])
    said = capsys.readouterr().out
    assert len(forgetful) == 2
    assert code == 1
    assert "WRONG: " in said
    assert " acked, but not stored (such as " in said
    assert "0 of 1 faults survived" in said
    assert survival.HEADING[5] == "lost"
    assert said.splitlines()[2].split(" | ")[5] != "0"


def delete_messages(url: str) -> None:
    """Delete what the soak's stream holds, behind its back."""

    async def purge() -> None:
        client = await nats.connect(url)
        try:
            await client.jetstream().purge_stream("SOAK")
        finally:
            await client.close()

    asyncio.run(purge())
