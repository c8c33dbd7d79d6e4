"""
What breaks when. Pure: the same plan draws the same strikes, whatever happens in the run.

There are three lanes, and a strike of one may meet a strike of another: a server that is
frozen behind a slow network while nobody reads results.
"""

import random

from collections.abc import Iterator, Mapping
from typing import Final, Literal

import attrs

from eventbus_sync.soak.plan import DELIVERY_TIMEOUT, Plan


#: Lane → kind → how often, for each broker. The embedded Kafka broker stores in memory
#: and is not killed: that would lose what it acknowledged.
KINDS: Final[Mapping[str, Mapping[str, Mapping[str, int]]]] = {
    "nats": {
        "server": {"kill": 3, "freeze": 4, "restart": 2},
        "network": {"cut": 3, "deaf": 3, "slow": 3},
        "reader": {"slow reader": 2, "no reader": 2},
    },
    "kafka": {
        "server": {"freeze": 1},
        "network": {"cut": 3, "deaf": 3, "slow": 3},
        "reader": {"slow reader": 2, "no reader": 2},
    },
    "apache kafka": {
        "server": {"kill": 3, "freeze": 4, "restart": 2},
        "network": {"cut": 3, "deaf": 3, "slow": 3},
        "reader": {"slow reader": 2, "no reader": 2},
    },
}
#: What is done to a broker that is not ours: nothing.
_OWN_LANES: Final = ("reader",)

#: How long a strike lasts: share of the strikes, from and to, in seconds. The last
#: kind outlasts ``delivery_timeout``.
_LASTS: Final = (
    (0.55, 0.1, 1.5),
    (0.35, 1.5, 6.0),
    (0.10, DELIVERY_TIMEOUT + 0.5, DELIVERY_TIMEOUT + 4.0),
)
#: Seconds between two strikes of one lane, on an average, and at least.
_PAUSE: Final = {"server": 6.0, "network": 8.0, "reader": 12.0}
_SHORTEST_PAUSE: Final = 0.3
#: Seconds that Apache Kafka gets to start again, so that it is not down all the time.
_STARTS_IN: Final = 8.0
#: Seconds below which a strike is not worth it.
_SHORTEST: Final = 0.1


#: The lane of a slow network that only keeps bytes under way until something else strikes.
UNDER_WAY: Final = "under way"


@attrs.frozen(kw_only=True)
class Strike:
    """
    One thing that is done, and undone.

    Attributes:
        at: seconds from the first event.
        lane: strikes of one lane follow each other, those of two may meet: "server",
            "network", ``UNDER_WAY``; and "reader", only for the reader.
        kind: a key of ``KINDS``, or "mute".
        seconds: until it is undone.
        delay, bytes_per_second: of a slow network.
    """

    at: float
    lane: str
    kind: str
    seconds: float
    delay: float = 0.0
    bytes_per_second: float | None = None

    def __str__(self) -> str:
        more = f" {self.delay * 1000:.0f} ms" if self.delay else ""
        if self.bytes_per_second:
            more += f" {self.bytes_per_second / 1000:,.0f} kB/s"
        return f"{self.kind}{more} for {self.seconds:.1f} s"


def draw(plan: Plan) -> list[Strike]:
    """Return everything that *plan* breaks, in the order of its beginning."""
    lanes = kinds(plan)
    strikes = [
        strike
        for lane in lanes
        if plan.url is None or lane in _OWN_LANES
        for strike in _lane(plan, lane, lanes[lane])
    ]
    return sorted(strikes, key=lambda strike: (strike.at, strike.lane))


def kinds(plan: Plan) -> Mapping[str, Mapping[str, int]]:
    """Return what can be broken: lane → kind → how often."""
    return KINDS[plan.backend if plan.kafka_home is None else "apache kafka"]


def overflow(plan: Plan) -> Literal["drop", "reserve"]:
    """Return what a full result channel costs in this run."""
    if plan.overflow is not None:
        return plan.overflow
    source = random.Random(f"{plan.seed}/overflow")  # noqa: S311 - no secret
    return source.choice(("drop", "reserve"))


def _lane(plan: Plan, lane: str, kinds: Mapping[str, int]) -> Iterator[Strike]:
    # A source of its own for each lane, seeded with text: the same on every platform.
    source = random.Random(f"{plan.seed}/{plan.backend}/{lane}")  # noqa: S311 - no secret
    at = 0.0
    while True:
        at += _SHORTEST_PAUSE + source.expovariate(1 / _PAUSE[lane])
        (kind,) = source.choices(list(kinds), list(kinds.values()))
        ((_, shortest, longest),) = source.choices(
            _LASTS, [share for share, *_ in _LASTS]
        )
        seconds = source.uniform(shortest, longest)
        delay = source.choice((0.0, 0.005, 0.05, 0.2))
        rate = source.choice((None, 100_000.0, 500_000.0, 2_000_000.0))
        left = plan.seconds - at
        if left < _SHORTEST:
            return
        strike = Strike(
            at=round(at, 3), lane=lane, kind=kind, seconds=round(min(seconds, left), 3)
        )
        if kind == "slow":
            # Slow in one way or the other, or in both.
            strike = attrs.evolve(strike, delay=delay or 0.02, bytes_per_second=rate)
        yield strike
        at += seconds
        if plan.kafka_home is not None and kind in {"kill", "restart"}:
            at += _STARTS_IN
