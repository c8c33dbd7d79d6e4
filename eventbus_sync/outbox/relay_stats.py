"""What a relay shows of itself."""

import contextlib

from typing import TYPE_CHECKING

import attrs

from eventbus_sync.outbox.lines import Counts
from eventbus_sync.outbox.trouble import Trouble


if TYPE_CHECKING:
    from eventbus_sync.outbox.running import Run


@attrs.frozen(kw_only=True)
class RelayStats:
    """
    What a relay did since it was made, and what it has now.

    Attributes:
        state: "new", "running", "stopping", "stopped", or "failed" (its bus was closed).
        claimed: rows leased.
        published: rows that the broker has stored and the database knows it.
        retried: attempts that failed and will be repeated.
        held_back: times that a row was put off untried: its topic takes nothing.
        buried: rows that became dead.
        released: rows given back untried.
        lost: outcomes that came after their lease had ended; they changed nothing.
        held: rows in memory.
        in_flight: those of them that have no outcome yet.
        rate: rows published per second, over the last five.
        breaker: "closed", or "open" while no broker can be reached.
        last_error: the last thing that went wrong, else None.
        last_error_age: seconds since then; None without an error.
    """

    state: str
    claimed: int
    published: int
    retried: int
    held_back: int
    buried: int
    released: int
    lost: int
    held: int
    in_flight: int
    rate: float
    breaker: str
    last_error: Exception | None
    last_error_age: float | None


def snapshot(
    state: str, run: "Run | None", counts: Counts, trouble: Trouble
) -> RelayStats:
    """Return what a relay shows, all of one moment."""
    error, age = trouble.last()
    with contextlib.nullcontext() if run is None else run.held.lock:
        return RelayStats(
            state=state,
            held=0 if run is None else run.held.held,
            in_flight=0 if run is None else run.held.in_flight,
            rate=0.0 if run is None else run.held.rate.per_second(),
            breaker="open" if run is not None and run.breaker.is_open else "closed",
            last_error=error,
            last_error_age=age,
            **attrs.asdict(counts),
        )
