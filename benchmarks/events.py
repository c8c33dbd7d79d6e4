"""What is published: how many events, how large, by how many threads, to which topics."""

import itertools
import json
import time

from typing import Any, Final

import attrs

from eventbus_sync import Envelope


#: How many aggregates there are.
AGGREGATES: Final = 1000
#: What the events of all runs are called.
EVENT_TYPE: Final = "OrderCreated"
# What is in a payload beside the note.
_FRAME: Final = 27


@attrs.frozen
class Work:
    """
    What one run publishes.

    Attributes:
        events: how many.
        threads: that publish.
        payload: bytes of one, more or less.
        topics: over which they are spread.
    """

    events: int
    threads: int = 4
    payload: int = 40
    topics: int = 1

    def share(self, thread: int) -> range:
        """Return the numbers of the events that *thread* publishes."""
        return range(thread, self.events, self.threads)

    def __str__(self) -> str:
        size = f"{self.payload} B" if self.payload < 1000 else _kilobytes(self.payload)  # noqa: PLR2004 - k
        text = f"{self.events:,} x {size}, {self.threads} thread"
        text += "s" if self.threads > 1 else ""
        return f"{text}, {self.topics} topics" if self.topics > 1 else text


def _kilobytes(size: int) -> str:
    return f"{size // 1000} kB"


def note(size: int) -> str:
    """Return the text that makes a payload as large as *size* bytes."""
    return "0123456789" * (max(0, size - _FRAME) // 10) + "x" * ((size - _FRAME) % 10)


def payload(number: int, text: str) -> dict[str, Any]:
    """Return one payload; *text* is a ``note``."""
    return {"number": number, "note": text}


def envelope(number: int, text: str) -> Envelope:
    """Return one event as users of the bus make it."""
    return Envelope(
        f"order-{number % AGGREGATES}", EVENT_TYPE, 1, {"number": number, "note": text}
    )


_nonces: Final = itertools.count()


def by_hand(number: int, text: str) -> tuple[str, str, bytes, dict[str, str]]:
    """
    Return aggregate id, event id, body and headers of one event, made without us.

    As a competent user would: one ``json.dumps``, an id that is cheap and unique, and
    the four headers. The bytes are as many as ours.
    """
    aggregate = f"order-{number % AGGREGATES}"
    now = time.time_ns()
    event_id = f"{aggregate}:{EVENT_TYPE}:1:{now}:{next(_nonces):08x}"
    seconds, fraction = divmod(now, 1_000_000_000)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    body = json.dumps(
        {
            "event_id": event_id,
            "aggregate_id": aggregate,
            "event_type": EVENT_TYPE,
            "event_version": 1,
            "timestamp": f"{stamp}.{fraction:09d}Z",
            "payload": {"number": number, "note": text},
        },
        separators=(",", ":"),
    ).encode()
    headers = {
        "X-Event-ID": event_id,
        "X-Aggregate-ID": aggregate,
        "X-Event-Version": "1",
        "X-Event-Type": EVENT_TYPE,
    }
    return aggregate, event_id, body, headers
