"""Load from several threads while something breaks, and its books against what is stored."""

import collections
import itertools
import threading
import uuid

from collections.abc import Callable, Iterable, Sequence
from typing import Self

from support.eventually import eventually
from support.patience import SLACK
from support.verdict import verdict

from eventbus_sync import BackendBusy, Envelope, EventBus, Outcome, PublishResult
from eventbus_sync.testing.readback import StoredEvent


#: Promise 1 gives two seconds beyond delivery_timeout; the machine may be busy longer.
_LATE = 2.0 + SLACK
#: Seconds between two events of a thread: some hundred a second are load enough.
_PACE = 0.004


def _small(number: int) -> bytes:
    return b"%d" % number


class Load:
    """
    Four threads that publish and one that reads results, while the block lasts.

    Each thread has aggregates of its own and publishes to the topics in turns. The end
    of the block waits until every event has its outcome.

    Args:
        bus: nobody else reads its results.
        topics: where to.
        payload: of the event with this number.

    Attributes:
        results: what became of the events.
    """

    def __init__(
        self,
        bus: EventBus,
        *topics: str,
        payload: Callable[[int], bytes] = _small,
    ) -> None:
        self.bus = bus
        self.results: list[PublishResult] = []
        self._topics = topics
        self._name = uuid.uuid4().hex[:8]
        self._payload = payload
        self._accepted: list[list[tuple[str, str]]] = [[] for _ in range(4)]
        self._acked = 0
        self._stop = threading.Event()
        self._read = threading.Event()
        self._publishers = [
            threading.Thread(target=self._publish, args=(lane,)) for lane in range(4)
        ]
        self._reader = threading.Thread(target=self._read_results)

    def __enter__(self) -> Self:
        for thread in (self._reader, *self._publishers):
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._publishers:
            thread.join()
        try:
            self._all_are_settled()
        finally:
            self._read.set()
            self._reader.join()

    @verdict
    def _all_are_settled(self) -> None:
        wanted = sum(map(len, self._accepted))
        eventually(lambda: len(self.results) >= wanted, 90)

    def goes_on(self, events: int = 500, timeout: float = 60) -> None:
        """So many more events are acked."""
        enough = self._acked + events
        eventually(lambda: self._acked >= enough, timeout)

    def settles(self, events: int = 500, timeout: float = 60) -> None:
        """So many more events have an outcome, whichever."""
        enough = len(self.results) + events
        eventually(lambda: len(self.results) >= enough, timeout)

    def outcomes(self, topic: str | None = None) -> set[Outcome]:
        """Every outcome that there was."""
        return {r.outcome for r in self.results if topic in (None, r.topic)}

    @verdict
    def check(
        self,
        stored: Sequence[StoredEvent],
        topic: str | None = None,
        *,
        in_order: bool = True,
    ) -> None:
        """
        The books balance against what is stored in *topic*, by default the only one.

        One outcome for each event, in time; acked ⊆ stored ⊆ acked + unknown, each once;
        the events of an aggregate in the order in which its thread published them.
        """
        topic = topic or self._topics[0]
        self.check_outcomes(topic)
        ids = [event.event_id for event in stored]
        assert len(ids) == len(set(ids))
        acked = self.with_outcome(topic, Outcome.ACKED)
        assert not acked - set(ids)
        assert not set(ids) - acked - self.with_outcome(topic, Outcome.UNKNOWN)
        assert not in_order or in_the_order_of_publishing(stored)

    @verdict
    def check_outcomes(self, topic: str) -> None:
        """Each event to *topic* had one outcome, in time, and the counters agree."""
        accepted = [e for lane in self._accepted for to, e in lane if to == topic]
        results = [r for r in self.results if r.topic == topic]
        assert accepted
        assert collections.Counter(r.event_id for r in results) == dict.fromkeys(
            accepted, 1
        )
        limit = self.bus.config.delivery_timeout + _LATE
        assert max(r.latency for r in results) < limit
        stats = self.bus.stats()
        assert stats.balanced
        assert stats.dropped == stats.in_flight == 0

    def with_outcome(self, topic: str, outcome: Outcome) -> set[str]:
        """The ids of the events to *topic* that ended so."""
        found = (r for r in self.results if r.topic == topic)
        return {r.event_id for r in found if r.outcome is outcome}

    def _publish(self, lane: int) -> None:
        accepted = self._accepted[lane]
        for number in itertools.count():
            # All events of an aggregate go to one topic, else they have no order.
            topic = self._topics[number % len(self._topics)]
            event = Envelope(
                f"order-{lane}-{number % (5 * len(self._topics))}",
                "OrderChanged",
                1,
                self._payload(number),
                event_id=f"{self._name}/{lane}/{number}",
            )
            while not self._stop.is_set():
                try:
                    self.bus.publish_envelope(topic, event, timeout=0.5)
                except BackendBusy:
                    continue
                accepted.append((topic, event.event_id))
                break
            if self._stop.wait(_PACE):
                return

    def _read_results(self) -> None:
        channel = self.bus.get_publish_result_channel()
        while not self._read.is_set():
            taken = channel.get_many(10_000, timeout=0.1)
            self.results += taken
            self._acked += sum(result.success for result in taken)


def in_the_order_of_publishing(stored: Iterable[StoredEvent]) -> bool:
    """Whether the events of each aggregate are stored in their thread's order."""
    last: dict[str, int] = {}
    for event in stored:
        number = int(event.event_id.rpartition("/")[2])
        if last.get(event.aggregate_id, -1) >= number:
            return False
        last[event.aggregate_id] = number
    return True
