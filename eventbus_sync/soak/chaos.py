"""Carries a schedule out: one thread for each lane, which does and undoes."""

import contextlib
import threading
import time

from collections.abc import Callable, Iterator, Sequence

import attrs

from eventbus_sync._threads import Deadline, join_all, spawn
from eventbus_sync.errors import EventBusError
from eventbus_sync.soak.plan import Ground
from eventbus_sync.soak.schedule import Strike
from eventbus_sync.soak.workload import Workload
from eventbus_sync.testing.faults import Fault, Faults


#: Seconds that an orderly end may take: the broker may have to be started again.
_STOP_TIMEOUT = 30.0


@attrs.frozen
class Struck:
    """
    A strike that was done and undone.

    Attributes:
        strike: which one.
        seconds: how long it lasted.
        caught, waiting: events in flight when it was done, and when it was undone.
    """

    strike: Strike
    seconds: float
    caught: int
    waiting: int


class Chaos:
    """Breaks *ground* and the workload's reader as the schedule says."""

    def __init__(
        self, schedule: Sequence[Strike], ground: Ground, workload: Workload
    ) -> None:
        #: What was done so far.
        self.struck: list[Struck] = []
        #: What could not be done or undone, in words.
        self.failures: list[str] = []
        self._schedule = schedule
        self._ground = ground
        self._workload = workload
        self._faults = Faults()
        self._now: dict[str, str] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def now(self) -> str:
        """What is broken at the moment, in words."""
        return ", ".join(sorted(dict(self._now).values()))

    def start(self) -> None:
        """Start; the schedule counts from now."""
        began = time.monotonic()
        for lane in sorted({strike.lane for strike in self._schedule}):
            strikes = [strike for strike in self._schedule if strike.lane == lane]
            self._threads.append(
                spawn(
                    f"soak-{lane}",
                    lambda s=strikes: self._guarded(lambda: self._run(s, began)),  # type: ignore[misc]
                )
            )

    def stop(self) -> None:
        """Do nothing more; afterwards everything is whole again."""
        self._stopping.set()
        alive = join_all(self._threads, Deadline.after(_STOP_TIMEOUT))
        self.failures += [f"thread {name} did not end" for name in alive]

    def _run(self, strikes: Sequence[Strike], began: float) -> None:
        for strike in strikes:
            if self._stopping.wait(max(0.0, began + strike.at - time.monotonic())):
                return
            self._strike(strike)

    def _strike(self, strike: Strike) -> None:
        stats, done = self._ground.bus.stats, time.monotonic()
        with self._broken(strike):
            caught = stats().in_flight
            self._stopping.wait(max(0.0, strike.seconds - (time.monotonic() - done)))
            waiting = stats().in_flight
        seconds = time.monotonic() - done
        self.struck.append(Struck(strike, seconds, caught, waiting))

    @contextlib.contextmanager
    def _broken(self, strike: Strike) -> Iterator[None]:
        self._now[strike.lane] = strike.kind
        try:
            with self._fault(strike):
                yield
        finally:
            del self._now[strike.lane]

    def _fault(self, strike: Strike) -> Fault:
        faults, server, proxy = self._faults, self._ground.server, self._ground.proxy
        if strike.lane == "reader":
            self._workload.reading = strike.kind
            return Fault(self._read_again)
        # A schedule holds only what the ground can do.
        assert server is not None  # noqa: S101
        assert proxy is not None  # noqa: S101
        if strike.kind == "restart":
            server.stop()
            return Fault(server.start)
        if strike.kind == "slow":
            return faults.slow(proxy, strike.delay, strike.bytes_per_second)
        verbs: dict[str, Callable[[], Fault]] = {
            "kill": lambda: faults.kill(server),
            "freeze": lambda: faults.freeze(server),
            "cut": lambda: faults.cut(proxy),
            "mute": lambda: faults.mute(proxy),
            "deaf": lambda: faults.deaf(proxy),
        }
        return verbs[strike.kind]()

    def _read_again(self) -> None:
        self._workload.reading = ""

    def _guarded(self, run: Callable[[], None]) -> None:
        try:
            run()
        except (EventBusError, OSError, RuntimeError) as error:
            self.failures.append(f"the broker could not be broken as planned: {error}")
