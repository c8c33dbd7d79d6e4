"""What was stored against what was said of it: each check raises ``PromiseBroken``."""

import time

from collections.abc import Callable, Iterable, Sequence

from eventbus_sync import Outcome, PublishResult
from eventbus_sync.testing._verdict import verdict
from eventbus_sync.testing.conformance.publishing import order_kept


#: (event id, aggregate id, body), as a rig gives it back.
Stored = Sequence[tuple[str, str, bytes]]


def settled(stored: Callable[[], Stored], seconds: float = 1.0) -> Stored:
    """Return what is stored when nothing was added for so many seconds."""
    found, since = stored(), time.monotonic()
    while time.monotonic() < since + seconds:
        time.sleep(seconds / 5)
        if len(more := stored()) != len(found):
            found, since = more, time.monotonic()
    return found


@verdict
def stored_exactly(stored: Stored, event_ids: Iterable[str]) -> None:
    """These events are stored, each as often as it is named, and no other."""
    assert sorted(event_id for event_id, _, _ in stored) == sorted(event_ids)


@verdict
def stored_once(stored: Stored, count: int) -> None:
    """*count* events are stored, each of them once."""
    assert len(stored) == len({event_id for event_id, _, _ in stored}) == count


@verdict
def stored_once_in_order(stored: Stored, count: int) -> None:
    """*count* events are stored, each of them once, and in the order of its aggregate."""
    stored_once(stored, count)
    assert order_kept(list(stored)), "out of order"


@verdict
def books_agree(
    stored: Stored, results: Iterable[PublishResult], *, once: bool
) -> None:
    """
    Acked ⊆ stored ⊆ acked + unknown.

    Args:
        stored: all that is stored.
        results: all that there were.
        once: whether nothing may be stored twice.
    """
    ids: dict[Outcome, set[str]] = {outcome: set() for outcome in Outcome}
    for result in results:
        ids[result.outcome].add(result.event_id)
    held = [event_id for event_id, _, _ in stored]
    assert not ids[Outcome.ACKED] - set(held), "acked, and not stored"
    assert not ids[Outcome.REJECTED] & set(held), "stored, and said to be rejected"
    assert set(held) <= ids[Outcome.ACKED] | ids[Outcome.UNKNOWN], "nobody's"
    assert len(held) == len(set(held)) or not once, "stored twice"
