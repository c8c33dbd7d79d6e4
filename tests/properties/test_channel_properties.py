"""The result channel against a model: bounded, nothing lost, nothing invented."""

import queue

import pytest

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from eventbus_sync.errors import ResultChannelClosed
from eventbus_sync.results import Outcome, PublishResult, PublishResultChannel


def result(number: int) -> PublishResult:
    """Return a result that can be told from others by its event id."""
    return PublishResult(
        str(number), "t", Outcome.ACKED, None, 0.0, "a", "E", 0, 0.0, offset=number
    )


class ChannelMachine(RuleBasedStateMachine):
    """Offers, reads, the end and a fork's reset, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.model: list[str] = []
        self.offered = self.taken = self.dropped = 0
        self.ended = False

    @initialize(capacity=st.integers(1, 5))
    def make(self, capacity: int) -> None:
        """Start with an empty channel."""
        self.capacity = capacity
        self.channel = PublishResultChannel(capacity)

    @rule(count=st.integers(0, 7))
    def offer(self, count: int) -> None:
        """A chunk is taken as far as there is room, in order; the rest is dropped."""
        chunk = [result(self.offered + i) for i in range(count)]
        self.offered += count
        room = 0 if self.ended else self.capacity - len(self.model)
        ids = [r.event_id for r in chunk]
        dropped = self.channel._offer(chunk)
        assert chunk == []
        assert dropped == max(0, count - room)
        self.dropped += dropped
        self.model += ids[: max(0, room)]

    @rule()
    def get_nowait(self) -> None:
        """One result in order, Empty, or the end."""
        if self.model:
            assert self.channel.get_nowait().event_id == self.model.pop(0)
            self.taken += 1
        elif self.ended:
            with pytest.raises(ResultChannelClosed):
                self.channel.get_nowait()
        else:
            with pytest.raises(queue.Empty):
                self.channel.get(timeout=0)

    @rule(count=st.integers(1, 7))
    def get_many(self, count: int) -> None:
        """Up to *count* results in order, nothing, or the end."""
        if self.ended and not self.model:
            with pytest.raises(ResultChannelClosed):
                self.channel.get_many(count, timeout=0)
            return
        batch = [r.event_id for r in self.channel.get_many(count, timeout=0)]
        assert batch == self.model[:count]
        del self.model[:count]
        self.taken += len(batch)

    @rule()
    def end(self) -> None:
        """The end refuses what comes after it and keeps what came before."""
        self.channel._end()
        self.ended = True

    @rule()
    def fork(self) -> None:
        """In a forked child the same object is empty, open and counts from zero."""
        self.channel._reset_after_fork()
        self.model.clear()
        self.taken = self.dropped = 0
        self.ended = False

    @invariant()
    def counts_agree(self) -> None:
        """The counters are those of the model."""
        if not hasattr(self, "channel"):
            return
        counts = self.channel._counts()
        assert counts.queued == len(self.model) == self.channel.qsize()
        assert counts.taken == self.taken
        assert counts.dropped == self.dropped
        assert counts.queued <= counts.capacity == self.capacity


TestChannel = ChannelMachine.TestCase
