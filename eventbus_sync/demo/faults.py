"""``--break``: what is done to a broker in the middle of the run, and when."""

import itertools
import threading
import time

from collections.abc import Callable, Sequence

import attrs

from eventbus_sync._threads import spawn
from eventbus_sync.demo.workload import Hold
from eventbus_sync.errors import EventBusError
from eventbus_sync.observe import Stats


#: Seconds between two looks at how many events are settled.
_LOOK = 0.002
#: Seconds that an orderly end may take: the broker may have to be started again.
_STOP_TIMEOUT = 15.0


@attrs.frozen(kw_only=True)
class Fault:
    """
    One thing that is done to a broker, and undone.

    Attributes:
        at: when, as a share of the events that have their outcome.
        seconds: until it is undone.
        done: what was done, such as "frozen".
        undone: what was done then, such as "resumed".
        strike, repair: do it and undo it.
    """

    at: float
    seconds: float
    done: str
    undone: str
    strike: Callable[[], None]
    repair: Callable[[], None]


@attrs.frozen
class Struck:
    """
    A fault that was done and undone.

    Attributes:
        fault: which one.
        seconds: how long it lasted.
        caught: events in flight when it was done.
        waiting: events in flight when it was undone.
    """

    fault: Fault
    seconds: float
    caught: int
    waiting: int

    def __str__(self) -> str:
        return (
            f"{self.fault.done} for {self.seconds:.1f} s and {self.fault.undone}, with "
            f"{self.caught:,} to {self.waiting:,} events in flight"
        )


class Schedule:
    """
    Carries faults out, one after another, while a workload publishes.

    It holds the publishers back where they would otherwise be done too early: each
    fault strikes while they publish, and they go on publishing while it lasts.

    Args:
        faults: in the order of ``at``.
        events: how many there will be.
    """

    def __init__(self, faults: Sequence[Fault], events: int) -> None:
        #: What was done so far.
        self.struck: list[Struck] = []
        #: What could not be done or undone, in words.
        self.failures: list[str] = []
        #: What the broker suffers now, "" for nothing.
        self.now = ""
        self.holds: list[Hold] = []
        self._events = events
        self._steps: list[tuple[Fault, Hold, Hold | None]] = []
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        for fault, later in itertools.zip_longest(faults, faults[1:]):
            end = 1.0 if later is None else later.at
            struck = Hold((fault.at + end) / 2, trickle=True)
            repaired = None if later is None else Hold(later.at)
            self.holds += [struck] if repaired is None else [struck, repaired]
            self._steps.append((fault, struck, repaired))

    def start(self, stats: Callable[[], Stats]) -> None:
        """Start; *stats* of the bus are asked for again and again."""
        if self._steps:
            self._thread = spawn("demo-faults", lambda: self._run(stats))

    @property
    def done(self) -> bool:
        """Whether every fault was done and undone, or could not be."""
        return self._thread is None or not self._thread.is_alive()

    def stop(self) -> None:
        """Do nothing more; afterwards the broker is whole again."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_TIMEOUT)

    def _run(self, stats: Callable[[], Stats]) -> None:
        try:
            for fault, struck, repaired in self._steps:
                while _settled(stats()) < int(fault.at * self._events):
                    if self._stopping.wait(_LOOK):
                        return
                self._carry_out(fault, struck, stats)
                if repaired is not None:
                    repaired.opened.set()
        except (EventBusError, OSError, RuntimeError) as error:
            self.failures.append(f"the broker could not be broken as planned: {error}")
        finally:
            for hold in self.holds:
                hold.opened.set()

    def _carry_out(
        self, fault: Fault, struck: Hold, stats: Callable[[], Stats]
    ) -> None:
        began = time.monotonic()
        try:
            fault.strike()
            self.now = f"{fault.done}…"
            caught = stats().in_flight
            struck.opened.set()
            self._stopping.wait(fault.seconds)
            waiting = stats().in_flight
        finally:
            fault.repair()
            self.now = ""
        self.struck.append(Struck(fault, time.monotonic() - began, caught, waiting))


def _settled(stats: Stats) -> int:
    return stats.accepted - stats.in_flight
