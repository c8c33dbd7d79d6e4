"""
The fault matrix: one line for each way in which a server, a network or a reader fails.

Each line is a soak with a schedule of its own: five threads publish, one reads, and in the
end the broker is read back: acked ⊆ stored ⊆ acked + unknown, nothing twice, the order of
each aggregate, one outcome for each event, in time.

On this machine an answer comes so soon that nothing is in doubt when a connection breaks.
So the network is slow before: events and answers are under way then, some are stored and
not acknowledged, some are lost, and what is sent again can be stored twice or out of order.

Lines that need another kind of test
have one: ``test_matrix_nats_*.py``, ``test_matrix_kafka_*.py``, ``test_nats_faults.py``,
``test_nats_cluster.py``.
"""

import io
import json

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from support.verdict import kept

from eventbus_sync.soak import run as soak
from eventbus_sync.soak import workload
from eventbus_sync.soak.plan import DELIVERY_TIMEOUT, Plan
from eventbus_sync.soak.schedule import UNDER_WAY, Strike, overflow


#: Seeds whose runs drop results when the channel is full, and that make publishers wait.
DROP, RESERVE = 6, 2
#: Longer than delivery_timeout.
LONG = DELIVERY_TIMEOUT + 1.0


def strike(at: float, lane: str, kind: str, seconds: float, **more: Any) -> Strike:
    """Return a line of a schedule."""
    return Strike(at=at, lane=lane, kind=kind, seconds=seconds, **more)


def under_way(*strikes: Strike, before: float = 0.8) -> list[Strike]:
    """Return them, with bytes under way for so many seconds when each one strikes."""
    slow = [
        # It is slow until the strike is felt; that is for longer on a busy machine.
        strike(s.at - before, UNDER_WAY, "slow", before + 0.3, delay=0.15)
        for s in strikes
    ]
    return [*strikes, *slow]


@attrs.frozen(kw_only=True)
class Line:
    """
    One line of the matrix.

    Attributes:
        fault: what breaks.
        brokers: on which it is tried.
        strikes: when.
        seconds: how long events are published.
        rate: how many each second.
        lossless: whether every event must be acked, since nothing outlasts
            ``delivery_timeout``.
        doubt: whether NATS must be seen to have stored what it could not acknowledge.
        seed: of the bursts, and of what a full channel costs.
    """

    fault: str
    strikes: Sequence[Strike]
    seconds: float
    brokers: tuple[str, ...] = ("nats", "kafka")
    rate: int = 1000
    lossless: bool = True
    doubt: bool = True
    seed: int = DROP


MATRIX = [
    Line(
        fault="network cut, twice",
        strikes=under_way(
            strike(1, "network", "cut", 0.8), strike(3, "network", "cut", 0.3)
        ),
        seconds=4,
    ),
    Line(
        fault="answers lost, and then the connection",
        strikes=[
            strike(0.5, "network", "mute", 0.8),
            strike(2, "network", "mute", 0.8),
        ],
        seconds=4,
    ),
    Line(
        fault="connection half-open",
        strikes=under_way(strike(1, "network", "deaf", 2.5)),
        seconds=4.5,
    ),
    Line(
        fault="network slow",
        strikes=[strike(0.5, "network", "slow", 2, delay=0.2, bytes_per_second=5e5)],
        seconds=3,
        doubt=False,
    ),
    Line(
        fault="network so slow that it is given up",
        # There and back takes longer than ack_wait, so NATS is connected to anew.
        brokers=("nats",),
        strikes=[strike(0.5, "network", "slow", 3, delay=1.5)],
        seconds=4.5,
        # A busy machine may give it up too late, when an answer has come.
        doubt=False,
    ),
    Line(
        fault="frozen for a while",
        # For so long that both drivers give the connection up, and send again.
        strikes=[strike(0.5, "server", "freeze", 4.5)],
        seconds=6,
        rate=2000,
    ),
    Line(
        fault="server frozen behind a slow network",
        strikes=[
            strike(0.2, "network", "slow", 5, delay=0.1),
            strike(0.5, "server", "freeze", 4.5),
        ],
        seconds=6,
    ),
    Line(
        fault="server killed while the network is cut",
        brokers=("nats",),
        strikes=[
            *under_way(strike(1, "network", "cut", 1)),
            strike(1.2, "server", "kill", 0.3),
        ],
        seconds=3.5,
    ),
]

SLOW_MATRIX = [
    Line(
        fault="restarted five times in a row",
        brokers=("nats",),
        strikes=under_way(
            *(strike(1 + 2 * n, "server", "restart", 0.2) for n in range(5))
        ),
        seconds=12,
        rate=2000,
    ),
    Line(
        fault="killed ten times in a row",
        brokers=("nats",),
        # Time to start, to connect and to send again, on a busy machine, too.
        strikes=under_way(
            *(strike(1 + 2 * n, "server", "kill", 0.1) for n in range(10))
        ),
        seconds=22,
        rate=1000,
    ),
    Line(
        fault="cut twenty times in a row",
        # librdkafka waits for up to a second before it connects again, and at this pace
        # often meets the next cut: on Kafka some events reach delivery_timeout.
        brokers=("nats",),
        strikes=under_way(
            *(strike(1 + n, "network", "cut", 0.2) for n in range(20)), before=0.3
        ),
        seconds=22,
        rate=1000,
    ),
    Line(
        fault="frozen for longer than delivery_timeout",
        strikes=[strike(1, "server", "freeze", LONG)],
        seconds=LONG + 4,
        rate=2000,
        lossless=False,
        doubt=False,
    ),
    Line(
        fault="cut for longer than delivery_timeout",
        strikes=under_way(strike(1, "network", "cut", LONG)),
        seconds=LONG + 4,
        rate=2000,
        lossless=False,
    ),
    Line(
        fault="half-open for longer than delivery_timeout",
        strikes=under_way(strike(1, "network", "deaf", LONG)),
        seconds=LONG + 4,
        rate=2000,
        lossless=False,
    ),
    Line(
        fault="answers lost for longer than delivery_timeout",
        strikes=[strike(1, "network", "mute", LONG)],
        seconds=LONG + 4,
        rate=2000,
        lossless=False,
    ),
    Line(
        fault="dead for longer than delivery_timeout",
        brokers=("nats",),
        strikes=under_way(strike(1, "server", "kill", LONG)),
        seconds=LONG + 4,
        rate=2000,
        lossless=False,
    ),
    Line(
        fault="nobody reads, results are dropped",
        strikes=[strike(0.5, "reader", "no reader", 14)],
        seconds=16,
        rate=2000,
        doubt=False,
    ),
    Line(
        fault="nobody reads, publishers wait",
        strikes=[strike(0.5, "reader", "no reader", 14)],
        seconds=16,
        rate=2000,
        doubt=False,
        seed=RESERVE,
    ),
    Line(
        fault="a slow reader, and the server frozen",
        strikes=[
            strike(0.5, "reader", "slow reader", 8),
            strike(2, "server", "freeze", 4.5),
        ],
        seconds=10,
        rate=2000,
        seed=RESERVE,
    ),
]


def _cases() -> list[Any]:
    return [
        pytest.param(
            line,
            broker,
            id=f"{line.fault}, {broker}".replace("slow", "tired"),
            marks=[getattr(pytest.mark, broker), *slow],
        )
        for lines, slow in ((MATRIX, ()), (SLOW_MATRIX, (pytest.mark.slow,)))
        for line in lines
        for broker in line.brokers
    ]


@pytest.mark.parametrize(("line", "broker"), _cases())
def test_promises_1_2_5_and_6(
    line: Line, broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, nothing stored twice, nothing out of order, all in time."""
    monkeypatch.setattr(soak, "draw", lambda plan: line.strikes)
    # Steadily: after a large burst a publisher is silent when something strikes.
    monkeypatch.setattr(workload, "_BURSTS", (1, 10))
    monkeypatch.setattr(workload, "_OFTEN", (50, 50))
    plan = Plan(
        backend=broker, minutes=line.seconds / 60, seed=line.seed, rate=line.rate
    )
    out, file = io.StringIO(), tmp_path / "soak.json"
    code = soak.run(plan, out, io.StringIO(), file=file)
    kept(code, out.getvalue())
    figures = json.loads(file.read_text())
    stats = figures["stats"]
    assert len(figures["strikes"]) == len(line.strikes)
    assert stats["accepted"] > 300
    if line.lossless:
        assert stats["acked"] == stats["accepted"], out.getvalue()
    else:
        assert stats["unknown"] + stats["rejected"] > 0
        assert stats["acked"] > 0
    if line.doubt:
        in_doubt(broker, figures)


def in_doubt(broker: str, figures: Mapping[str, Any]) -> None:
    """Assert that something could have gone wrong: else the test proves nothing."""
    stats = figures["stats"]
    if broker == "kafka":
        # It does not say that it had an event before. What is struck is in flight.
        struck = [s for s in figures["strikes"] if s["lane"] != UNDER_WAY]
        assert all(s["in_flight_before"] or s["in_flight_after"] for s in struck)
    elif stats["unknown"]:
        assert figures["stored"] > stats["acked"]
    else:
        assert figures["repeats"] > 0


def test_the_seeds_are_what_they_are_called() -> None:
    """Both ways of a full channel are in the matrix."""
    ways = [overflow(Plan(backend="nats", minutes=1, seed=s)) for s in (DROP, RESERVE)]
    assert ways == ["drop", "reserve"]
