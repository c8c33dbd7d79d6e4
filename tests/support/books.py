"""
The books of programs of several processes: what each accepted, and what it was told.

In the program a ``Keeper`` publishes, reads results, and writes both into a folder, a line
at a time, so that what was written outlives its process however that ends. The test reads
the folder as ``Books`` and compares it with what the broker gives back.
"""

import contextlib
import json
import os
import threading

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from support.order import first_occurrences
from support.verdict import verdict

from eventbus_sync import Envelope, EventBus, ResultChannelClosed
from eventbus_sync.testing.readback import StoredEvent


#: The first lines of a script that has no pytest to put the tests on its path.
FIND_SUPPORT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from support.books import Keeper
"""


class Keeper:
    """
    Publishes to one topic and writes the books of this process, also after a fork.

    Args:
        bus: whose results nobody else reads.
        topic: where to.
        folder: for the books of all processes.
    """

    def __init__(self, bus: EventBus, topic: str, folder: str | Path) -> None:
        self.bus = bus
        self._topic = topic
        self._folder = Path(folder)
        self._numbers: defaultdict[str, int] = defaultdict(int)

    def publish(self, line: str = "", payload: Any = 0, timeout: float = 20) -> str:
        """
        Publish one event and return its id.

        Args:
            line: an aggregate; one thread of this process publishes to it.
            payload: of the event.
            timeout: for room.
        """
        aggregate = f"{os.getpid()}-{line}"
        number = self._numbers[line]
        self._numbers[line] = number + 1
        event_id = f"{aggregate}-{number}"
        event = Envelope(aggregate, "Made", 1, payload, event_id=event_id)
        self._write("tried", aggregate, event_id)
        self.bus.publish_envelope(self._topic, event, timeout=timeout)
        self._write("accepted", aggregate, event_id)
        return event_id

    def read(self, count: int, timeout: float = 40) -> int:
        """Take up to *count* results within so many seconds each; return how many."""
        channel, taken = self.bus.get_publish_result_channel(), 0
        while taken < count:
            with contextlib.suppress(ResultChannelClosed):
                if results := channel.get_many(count - taken, timeout=timeout):
                    taken += len(results)
                    for result in results:
                        self._write("outcome", result.event_id, result.outcome.value)
                    continue
            break
        return taken

    def start_reader(self) -> threading.Thread:
        """Read every result on a thread until the bus is closed."""

        def read() -> None:
            for result in self.bus.get_publish_result_channel():
                self._write("outcome", result.event_id, result.outcome.value)

        reader = threading.Thread(target=read, name="reader", daemon=True)
        reader.start()
        return reader

    def end(self, timeout: float = 20, reader: threading.Thread | None = None) -> None:
        """Close the bus and write how its books stand; a reader has ended before."""
        self.bus.close(timeout)
        if reader is not None:
            reader.join(timeout)
        stats = self.bus.stats()
        figures = attrs.asdict(stats) | {"balanced": stats.balanced}
        self._write("closed", str(os.getpid()), figures)

    def _write(self, *entry: object) -> None:
        # One write for a line: lines of several threads and processes never mix.
        path = self._folder / f"{os.getpid()}.books"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{json.dumps(entry)}\n".encode())
        finally:
            os.close(file)


@attrs.frozen
class Books:
    """
    What all processes wrote.

    Attributes:
        tried, accepted: (aggregate, event id), each aggregate in its order.
        outcomes: (event id, outcome), as often as there was one.
        closed: process → the counters of its bus when that was closed.
    """

    tried: list[tuple[str, str]]
    accepted: list[tuple[str, str]]
    outcomes: list[tuple[str, str]]
    closed: list[tuple[str, dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> "Books":
        """Return the books of the processes that wrote into *folder*."""
        found: defaultdict[str, list[Any]] = defaultdict(list)
        for path in sorted(folder.glob("*.books")):
            for line in path.read_text().splitlines():
                kind, name, value = json.loads(line)
                found[kind].append((name, value))
        return cls(*(found[x] for x in ("tried", "accepted", "outcome", "closed")))

    @property
    def processes(self) -> set[str]:
        """The processes that have published, by their number."""
        return {aggregate.partition("-")[0] for aggregate, _ in self.accepted}

    def ids(self, outcome: str) -> set[str]:
        """Return the events that had this outcome."""
        return {event_id for event_id, what in self.outcomes if what == outcome}

    @verdict
    def balance(
        self, stored: Iterable[StoredEvent], *, told: bool = True, tidy: bool = True
    ) -> None:
        """
        Assert that nothing was lost, invented, doubled or put out of order.

        Args:
            stored: what the broker gave back.
            told: whether every accepted event must have its outcome in the books; not
                if processes ended without reading them: then all must be stored.
            tidy: whether every process has closed its bus.
        """
        here = [(event.aggregate_id, event.event_id) for event in stored]
        ids = [event_id for _, event_id in here]
        held = set(ids)
        accepted = {event_id for _, event_id in self.accepted}
        tried = {event_id for _, event_id in self.tried}
        assert _repeated(ids) == []
        assert _repeated(event_id for event_id, _ in self.outcomes) == []
        # What was interrupted may have been accepted, and then it has an outcome.
        answered = {event_id for event_id, _ in self.outcomes}
        assert answered <= tried
        acked, unknown = self.ids("acked"), self.ids("unknown")
        assert acked <= held, f"lost: {sorted(acked - held)[:5]}"
        if told:
            assert accepted <= answered, sorted(accepted - answered)[:5]
            assert held <= acked | unknown, sorted(held - acked - unknown)[:5]
        else:
            assert accepted <= held | unknown, sorted(accepted - held)[:5]
            assert held <= tried
        expected = first_occurrences(pair for pair in self.tried if pair[1] in held)
        assert first_occurrences(iter(here)) == expected, "out of order"
        for process, stats in self.closed:
            assert stats["balanced"], (process, stats)
            assert stats["in_flight"] == 0, (process, stats)
        if tidy:
            assert {process for process, _ in self.closed} >= self.processes


def _repeated(ids: Iterable[str]) -> list[str]:
    return [event_id for event_id, count in Counter(ids).items() if count > 1]
