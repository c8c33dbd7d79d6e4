"""
The life of a bus against a model: only forward, closed for good, and the books balance.

Real forks are in ``integration/test_fork.py``. Here the hook is called in place of one,
after the threads that a child would not have are gone, and the pid is another.
"""

import queue
import threading

import pytest

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.eventually import eventually

from eventbus_sync import (
    BackendBusy,
    BusClosed,
    ChannelFull,
    Envelope,
    EventBusError,
    MemoryConfig,
    ResultChannelClosed,
    _lifecycle,
    _process,
    _runtime,
)
from eventbus_sync._threads import Deadline
from eventbus_sync.backends.memory import MemoryBackend
from eventbus_sync.errors import BrokerFull, BrokerUnreachable
from eventbus_sync.testing import MemoryBus


class Process:
    """Stands for the module ``os`` where the bus asks for the pid."""

    def __init__(self) -> None:
        self.pid = 1

    def getpid(self) -> int:
        return self.pid


def our_threads() -> set[threading.Thread]:
    """Return the threads of every bus in this process."""
    return {t for t in threading.enumerate() if t.name.startswith("eventbus")}


class LifecycleMachine(RuleBasedStateMachine):
    """Everything that an application does with a bus, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.process = Process()
        self.patch = pytest.MonkeyPatch()
        for module in (_process, _runtime):
            self.patch.setattr(module, "os", self.process)
        self.before = our_threads()
        self.inherited = len(_lifecycle._abandoned)
        self.state = "new"
        self.frozen = False
        self.refusals = 0
        # Where the events of this process are: their numbers in the two equations.
        self.waiting = self.queued = self.taken = self.dropped = self.returned = 0
        self.acked = self.rejected = self.unknown = 0

    @initialize(
        capacity=st.integers(1, 4),
        limit=st.integers(1, 4),
        reserve=st.booleans(),
        lifetime=st.integers(0, 40),
    )
    def make(self, capacity: int, limit: int, lifetime: int, *, reserve: bool) -> None:
        """A bus with little room, so that it is often used up, and not closed soon."""
        self.capacity, self.limit, self.reserve = capacity, limit, reserve
        self.lifetime = lifetime
        self.bus = MemoryBus(
            MemoryConfig(
                result_capacity=capacity,
                max_in_flight=limit,
                overflow="reserve" if reserve else "drop",
                publish_timeout=0.0,
            )
        )
        self.channel = self.bus.get_publish_result_channel()

    def teardown(self) -> None:
        if hasattr(self, "bus"):
            self.bus.broker.resume()
            self.bus.close(5)
            eventually(lambda: our_threads() <= self.before, timeout=5)
            assert self.bus not in _lifecycle._running
        del _lifecycle._abandoned[self.inherited :]
        self.patch.undo()

    # -- the model ---------------------------------------------------------------------

    def refusal(self) -> type[EventBusError] | None:
        """Return what a publish raises now."""
        if self.state == "closed":
            return BusClosed
        if self.waiting >= self.limit:
            return BackendBusy
        if self.reserve and self.waiting + self.queued >= self.capacity:
            return ChannelFull
        return None

    def used(self) -> None:
        """The bus runs from its first use on."""
        if self.state == "new":
            self.state = "running"

    def answer(self) -> None:
        """The broker answers everything that waits for it."""
        while self.waiting:
            self.waiting -= 1
            self.judge()
            if self.queued < self.capacity:
                self.queued += 1
            else:
                self.dropped += 1

    def judge(self) -> None:
        """The broker stores an event, or refuses it."""
        if self.refusals:
            self.refusals -= 1
            self.rejected += 1
        else:
            self.acked += 1

    # -- publishing --------------------------------------------------------------------

    @rule(count=st.integers(1, 5))
    def publish(self, count: int) -> None:
        """Accepted exactly if the bus is open and there is room."""
        for _ in range(count):
            expected = self.refusal()
            self.used()
            event = Envelope("order-1", "OrderCreated", 1, 0)
            if expected is not None:
                with pytest.raises(expected):
                    self.bus.publish_envelope("orders", event)
                return
            self.bus.publish_envelope("orders", event)
            self.waiting += 1
            if not self.frozen:
                assert self.bus.flush(10) == 0
                self.answer()

    @rule(count=st.integers(1, 5))
    def publish_while_frozen(self, count: int) -> None:
        """What is accepted stays in flight."""
        self.freeze()
        self.publish(count)

    @precondition(lambda self: not self.frozen)
    @rule()
    def publish_sync(self) -> None:
        """The outcome is returned, and is nowhere else."""
        expected = self.refusal()
        self.used()
        event = Envelope("order-1", "OrderCreated", 1, 0)
        if expected is not None:
            with pytest.raises(expected):
                self.bus.publish_envelope_sync("orders", event)
            return
        result = self.bus.publish_envelope_sync("orders", event)
        assert result.success is not bool(self.refusals)
        self.returned += 1
        self.judge()

    @rule()
    def publish_plain(self) -> None:
        """A plain message is in no book."""
        self.used()
        if self.state == "closed":
            with pytest.raises(BusClosed):
                self.bus.publish("hints", b"x")
        else:
            self.bus.publish("hints", b"x")

    # -- the broker --------------------------------------------------------------------

    @rule()
    def freeze(self) -> None:
        """From now on nothing is answered."""
        self.bus.broker.freeze()
        self.frozen = True

    @rule()
    def resume(self) -> None:
        """What waited is answered."""
        self.bus.broker.resume()
        self.frozen = False
        assert self.bus.flush(10) == 0
        self.answer()

    @rule()
    def refuse(self) -> None:
        """The next event is refused."""
        self.bus.broker.reject(BrokerFull(), topic="orders")
        self.refusals += 1

    # -- reading -----------------------------------------------------------------------

    @rule()
    def get(self) -> None:
        """A result, nothing yet, or the end."""
        if self.queued:
            self.channel.get_nowait()
            self.queued -= 1
            self.taken += 1
        else:
            nothing = ResultChannelClosed if self.state == "closed" else queue.Empty
            with pytest.raises(nothing):
                self.channel.get_nowait()

    @rule(count=st.integers(1, 5))
    def get_many(self, count: int) -> None:
        """As many results as there are, nothing yet, or the end."""
        if self.state == "closed" and not self.queued:
            with pytest.raises(ResultChannelClosed):
                self.channel.get_many(count, timeout=0)
            return
        found = len(self.channel.get_many(count, timeout=0))
        assert found == min(count, self.queued)
        self.queued -= found
        self.taken += found

    # -- life --------------------------------------------------------------------------

    @rule()
    def start(self) -> None:
        """Says whether the broker answers; the bus runs in any case."""
        self.used()
        if self.state == "closed":
            with pytest.raises(BusClosed):
                self.bus.start(0)
        elif self.frozen:
            with pytest.raises(BrokerUnreachable):
                self.bus.start(0)
        else:
            self.bus.start(0)

    @rule()
    def flush(self) -> None:
        """Flush without time says what is in flight."""
        assert self.bus.flush(0) == self.waiting

    @precondition(lambda self: self.lifetime <= 0)
    @rule(closers=st.integers(1, 2))
    def close(self, closers: int) -> None:
        """What is in flight ends as unknown; nothing runs, also for a second closer."""
        timeout = 0.05 if self.waiting else 5
        threads = [
            threading.Thread(target=self.bus.close, args=(timeout,))
            for _ in range(closers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.state = "closed"
        self.unknown += self.waiting
        room = self.capacity - self.queued
        self.queued += min(room, self.waiting)
        self.dropped += max(0, self.waiting - room)
        self.waiting = 0
        eventually(lambda: our_threads() <= self.before, timeout=5)

    @precondition(lambda self: self.lifetime <= 0 and self.waiting)
    @rule()
    def close_and_resume(self) -> None:
        """While close waits nothing is accepted; what is answered in time counts."""
        closer = threading.Thread(target=self.bus.close, args=(20,))
        closer.start()
        eventually(lambda: self.bus.health().state == "draining")
        with pytest.raises(BusClosed):
            self.bus.publish_envelope("orders", Envelope("order-1", "E", 1, 0))
        with pytest.raises(BusClosed):
            self.bus.publish("hints", b"x")
        assert self.bus.flush(0) == self.waiting
        self.bus.broker.resume()
        closer.join()
        self.frozen = False
        self.state = "closed"
        self.answer()

    @precondition(lambda self: self.lifetime <= 30)
    @rule()
    def fork(self) -> None:
        """The child has no thread, no event and no result of the parent's."""
        runtime = self.bus._runtime
        if runtime is not None:
            self.end_threads(runtime)
        self.process.pid += 1
        self.bus._after_fork_in_child()
        if self.state == "running":
            self.state = "new"
        self.waiting = self.queued = self.taken = self.dropped = self.returned = 0
        self.acked = self.rejected = self.unknown = 0

    @staticmethod
    def end_threads(runtime: _runtime.Runtime) -> None:
        """What a fork does to them: they are not there, and nothing was settled."""
        backend = runtime.backend
        assert isinstance(backend, MemoryBackend)
        with backend._lock:
            backend._queue.clear()
            backend._unanswered.clear()
            backend._closing = True
            backend._changed.wake_all_locked()
        assert backend._thread is not None
        backend._thread.join()
        runtime.observer.stop(Deadline.after(5))

    # -- what always holds -------------------------------------------------------------

    @invariant()
    def only_forward(self) -> None:
        """The state is the model's: it goes back in a fork only, and never if closed."""
        if hasattr(self, "bus"):
            self.lifetime -= 1
            assert self.bus.health().state == self.state
            threads = our_threads() - self.before
            assert len(threads) == (2 if self.state == "running" else 0)

    @invariant()
    def books_balance(self) -> None:
        """Both equations hold, with the numbers of the model."""
        if not hasattr(self, "bus"):
            return
        stats = self.bus.stats()
        settled = self.acked + self.rejected + self.unknown
        assert stats.balanced
        assert stats.accepted == settled + self.waiting
        assert (stats.acked, stats.rejected) == (self.acked, self.rejected)
        assert (stats.unknown, stats.in_flight) == (self.unknown, self.waiting)
        assert (stats.queued, stats.taken) == (self.queued, self.taken)
        assert (stats.dropped, stats.returned) == (self.dropped, self.returned)
        assert not (self.reserve and stats.dropped)
        assert stats.capacity == self.capacity
        assert stats.late_outcomes == 0

    @invariant()
    def one_channel(self) -> None:
        """It is the same object for ever, also in forked children."""
        if hasattr(self, "bus"):
            assert self.bus.get_publish_result_channel() is self.channel


TestLifecycle = LifecycleMachine.TestCase
