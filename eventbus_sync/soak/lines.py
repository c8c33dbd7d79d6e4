"""Each fault alone: what ``python -m eventbus_sync faults`` does, a line for each."""

from typing import Final, Literal

import attrs

from eventbus_sync.soak.plan import DELIVERY_TIMEOUT
from eventbus_sync.soak.schedule import UNDER_WAY, Strike


#: Longer than ``delivery_timeout``: events that are in flight then become unknown.
_LONG: Final = DELIVERY_TIMEOUT + 1.0
#: Seconds of publishing before a fault, and after it.
_BEFORE, _AFTER = 1.0, 2.0

_BOTH: Final = ("nats", "kafka")
#: The embedded Kafka broker stores in memory: to kill it loses what it acknowledged.
_NATS: Final = ("nats",)


@attrs.frozen(kw_only=True)
class Line:
    """
    One fault.

    Attributes:
        fault: in words.
        brokers: that can have it.
        strikes: one after another.
        overflow: what a full result channel costs.
    """

    fault: str
    brokers: tuple[str, ...] = _BOTH
    strikes: tuple[Strike, ...]
    overflow: Literal["drop", "reserve"] = "reserve"

    @property
    def seconds(self) -> float:
        """How long events are published."""
        return max(strike.at + strike.seconds for strike in self.strikes) + _AFTER


def _strike(lane: str, kind: str, seconds: float, at: float = _BEFORE) -> Strike:
    slow = kind == "slow"
    return Strike(
        at=at,
        lane=lane,
        kind=kind,
        seconds=seconds,
        delay=0.2 if slow else 0.0,
        bytes_per_second=500_000.0 if slow else None,
    )


def _cut(seconds: float) -> tuple[Strike, ...]:
    """Cut a network on which bytes are under way, as they always are on a longer one."""
    slow = Strike(at=0.2, lane=UNDER_WAY, kind="slow", seconds=_BEFORE, delay=0.15)
    return slow, _strike("network", "cut", seconds)


LINES: Final = (
    Line(
        fault="server killed (`kill -9`), back after 1 s",
        brokers=_NATS,
        strikes=(_strike("server", "kill", 1.0),),
    ),
    Line(
        fault="server killed five times in a row",
        brokers=_NATS,
        strikes=tuple(
            _strike("server", "kill", 0.3, at=_BEFORE + 1.5 * n) for n in range(5)
        ),
    ),
    Line(
        fault=f"server dead for {_LONG:g} s, longer than `delivery_timeout`",
        brokers=_NATS,
        strikes=(_strike("server", "kill", _LONG),),
    ),
    Line(
        fault="server restarted in good order",
        brokers=_NATS,
        strikes=(_strike("server", "restart", 0.5),),
    ),
    Line(
        fault="server frozen for 3 s",
        strikes=(_strike("server", "freeze", 3.0),),
    ),
    Line(
        fault=f"server frozen for {_LONG:g} s, longer than `delivery_timeout`",
        strikes=(_strike("server", "freeze", _LONG),),
    ),
    Line(
        fault="network cut for 2 s",
        strikes=_cut(2.0),
    ),
    Line(
        fault=f"network cut for {_LONG:g} s, longer than `delivery_timeout`",
        strikes=_cut(_LONG),
    ),
    Line(
        fault="connection half-open for 3 s: it stands, and nothing gets through",
        strikes=(_strike("network", "deaf", 3.0),),
    ),
    Line(
        fault="network slow for 3 s: 200 ms and 500 kB/s",
        strikes=(_strike("network", "slow", 3.0),),
    ),
    Line(
        fault='nobody reads results for 5 s, `overflow="reserve"`: publishers wait',
        strikes=(_strike("reader", "no reader", 5.0),),
    ),
    Line(
        fault='nobody reads results for 5 s, `overflow="drop"`: results are dropped',
        strikes=(_strike("reader", "no reader", 5.0),),
        overflow="drop",
    ),
    Line(
        fault="slow reader for 5 s, and the server frozen for 3 s meanwhile",
        strikes=(
            _strike("reader", "slow reader", 5.0),
            _strike("server", "freeze", 3.0, at=_BEFORE + 1.0),
        ),
    ),
)
