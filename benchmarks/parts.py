"""What the parts of the publishing comparison have in common: settings and arguments."""

import argparse
import contextlib

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs

from benchmarks import brokers
from benchmarks.brokers import Broker
from benchmarks.figures import Measured


#: What runs without ``--broker``.
DEFAULT_BROKERS = ("nats", "nats-memory", "kafka")


@attrs.frozen
class Settings:
    """
    What to measure, and how thoroughly.

    Attributes:
        brokers: names or URLs.
        quick: a first impression, in seconds.
        events: of each run; None is what suits the part.
        repeat: rounds; None is what suits the part.
    """

    brokers: tuple[str, ...] = DEFAULT_BROKERS
    quick: bool = False
    events: int | None = None
    repeat: int | None = None

    def pick(self, full: int, quick: int) -> int:
        """Return the number of events of a run."""
        return self.events or (quick if self.quick else full)

    def rounds(self, full: int = 5, quick: int = 1) -> int:
        """Return how often everything takes its turn."""
        return self.repeat or (quick if self.quick else full)

    def each_broker(
        self, *, once_per_kind: bool = False
    ) -> Iterator[contextlib.AbstractContextManager[Broker]]:
        """Yield each broker, not started yet."""
        for name in self.brokers:
            if once_per_kind and name == "nats-memory" and "nats" in self.brokers:
                continue
            yield brokers.broker(name)


@attrs.frozen
class Part:
    """
    One part of the comparison, a command of its own.

    Attributes:
        name: of the command.
        help: one line.
        description: what it measures, how, and how to read it.
        measure: yields figures as they are ready.
        uses_brokers: whether the choice of brokers means anything to it.
    """

    name: str
    help: str
    description: str
    measure: Callable[[Settings], Iterator[Measured]]
    uses_brokers: bool = True


def add_arguments(parser: argparse.ArgumentParser, *, uses_brokers: bool) -> None:
    """Add what all parts understand."""
    if uses_brokers:
        parser.add_argument(
            "--broker",
            nargs="+",
            choices=brokers.NAMES,
            metavar="NAME",
            help=f"what to start: {', '.join(brokers.NAMES)}; apache needs Java and "
            f"Maven; default: {' '.join(DEFAULT_BROKERS)}",
        )
        parser.add_argument(
            "--apache", action="store_true", help="Apache Kafka as well (needs Java)"
        )
        parser.add_argument(
            "--url",
            nargs="+",
            default=[],
            metavar="URL",
            help="brokers of your own, instead of started ones; streams and topics "
            "called BENCHMARK-… are made there and removed",
        )
    parser.add_argument(
        "--events", type=_count, metavar="N", help="of each run, instead of what suits"
    )
    parser.add_argument(
        "--repeat", type=_count, metavar="N", help="rounds in which all take turns"
    )
    parser.add_argument("--quick", action="store_true", help="a first impression")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE",
        help="draw them: .svg, or .png (matplotlib)",
    )


def settings_of(given: argparse.Namespace) -> Settings:
    """Return what the arguments ask for."""
    names: Sequence[str] = getattr(given, "url", ())
    if not names:
        names = getattr(given, "broker", None) or DEFAULT_BROKERS
    if getattr(given, "apache", False) and "apache" not in names:
        names = (*names, "apache")
    return Settings(tuple(names), given.quick, given.events, given.repeat)


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number
