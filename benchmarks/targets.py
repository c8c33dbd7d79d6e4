"""What is to be reached, beside what was measured."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from benchmarks.figures import Measured
from benchmarks.table import shown


@attrs.frozen
class Target:
    """
    One target.

    Attributes:
        text: what it is about.
        limit: the figure.
        at_most: whether less is better.
        above: if there is one, what it must not be below.
    """

    text: str
    limit: float
    at_most: bool = True
    above: float | None = None

    def met(self, value: float) -> bool:
        """Whether *value* is as it should be."""
        if self.above is not None and value < self.above:
            return False
        return value <= self.limit if self.at_most else value >= self.limit

    @property
    def shown(self) -> str:
        """The limit in words."""
        if self.above is not None:
            return f"{self.above:g} to {self.limit:g}"
        return f"{'at most' if self.at_most else 'at least'} {self.limit:g}"


#: By the name that measurements carry. T4 is measured elsewhere, against another SDK.
TARGETS: Final = {
    "T1": Target("NATS, ours / publish_async by hand", 1.5, at_most=False),
    "T2": Target("Kafka, ours / confluent-kafka by hand", 1.0, at_most=False),
    "T3 kafka": Target("Kafka, CPU above the bare loop", 6),
    "T3 nats": Target("NATS, CPU above the bare loop", 10),
    "T5 paced": Target("call at 200/s / bare minimum", 1.7),
    "T5 flat out": Target("call flat out, p50", 25),
    "T6 kafka": Target("Kafka, call to result at 20/s, p50 (linger + 3 ms)", 8000),
    "T6 nats": Target("NATS, call to result at 20/s, p50", 2000),
    "T7": Target("full channel, slow / fast reader", 0.9, at_most=False),
    "T8 in flight": Target("memory per event above its bytes", 1500),
    "T8 growth": Target("memory gained per event of a long run", 10),
    "T9": Target("CPU per event, last quarter / first", 1.15, above=0.85),
    "T10": Target("idle bus", 0.5),
    "T11": Target("import, no driver loaded", 60),
    "T12": Target("relay, PostgreSQL and a broker", 5000, at_most=False),
}


def lines(measured: Sequence[Measured]) -> Iterator[str]:
    """Yield the table of targets: what was measured, and whether that is enough."""
    rows = [("target", "", "where", "measured", "wanted", "met")]
    for name, target in TARGETS.items():
        found = [one for one in measured if one.target == name]
        for one in found:
            met = "yes" if target.met(one.median) and one.balanced else "NO"
            value = f"{shown(one.median)} {one.unit}"
            rows.append((name, target.text, one.where, value, target.shown, met))
        if not found:
            rows.append((name, target.text, "", "not measured", target.shown, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)]
        yield "  ".join(cells).rstrip()


def as_json(measured: Sequence[Measured]) -> list[dict[str, object]]:
    """Return the table of targets in plain types."""
    return [
        {
            "target": one.target,
            "text": TARGETS[one.target].text,
            "where": one.where,
            "measured": one.median,
            "unit": one.unit,
            "wanted": TARGETS[one.target].shown,
            "met": TARGETS[one.target].met(one.median) and one.balanced,
        }
        for one in measured
        if one.target
    ]
