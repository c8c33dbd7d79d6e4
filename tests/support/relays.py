"""What the tests of the relay begin with."""

from collections.abc import Callable

from eventbus_sync import Envelope
from eventbus_sync.outbox import OutboxRelay, RetryPolicy
from eventbus_sync.outbox.running import Run


#: So that retries come at once.
QUICK = RetryPolicy(backoff=0.02, max_backoff=0.05)

Make = Callable[..., OutboxRelay]
#: Takes how many rows of one aggregate there are.
Stuck = Callable[[int], OutboxRelay]


def events(count: int, aggregate: str = "a", *, first: int = 0) -> list[Envelope]:
    """Return events of one aggregate, numbered."""
    return [
        Envelope(aggregate, "E", 1, {"n": n}, event_id=f"{aggregate}-{n}")
        for n in range(first, first + count)
    ]


def run_of(relay: OutboxRelay) -> Run:
    """Return what runs of a started relay."""
    run = relay._run
    assert run is not None
    return run
