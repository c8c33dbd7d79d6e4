"""``relay --once``: when is it over, and is anything left?"""

import contextlib
import time

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from eventbus_sync.errors import StoreFailed


if TYPE_CHECKING:
    from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
    from eventbus_sync.outbox import OutboxRelay

#: Seconds without a new row after which it is not waited for transactions of others.
PATIENCE: Final = 10.0


class Standstill:
    """
    Tells when a relay has nothing, and only waits for older transactions to end.

    These are somebody else's, and may last for hours.

    Args:
        relay: what is watched.
        outbox: its table.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        relay: "OutboxRelay",
        outbox: "SqlAlchemyOutbox",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._outbox = outbox
        self._clock = clock
        self._claimed = -1
        self._since = 0.0

    def look(self) -> str:
        """Return how many rows wait for whom, after so long; "" if it goes on."""
        now = self._clock()
        stats = self._relay.stats()
        if stats.held or stats.claimed != self._claimed:
            self._claimed = stats.claimed
            self._since = now
        if now - self._since < PATIENCE:
            return ""
        self._since = now  # the table is counted now and then only
        # A database that is away is waited for, as by the relay itself.
        with contextlib.suppress(StoreFailed):
            rows = self._outbox.stats(settled=False)
            if rows.hidden:
                who = rows.blocked_by or "it is not known which"
                wait = _rows(rows.hidden, "row waits", "rows wait")
                return (
                    f"{wait} for the end of an older transaction of the database: {who}"
                )
        return ""


def left(outbox: "SqlAlchemyOutbox") -> list[str]:
    """Return which rows had to be published and were not, in words; [] if none."""
    from sqlalchemy import func, or_, select  # noqa: PLC0415 - installed, see opened
    from sqlalchemy.exc import DBAPIError  # noqa: PLC0415

    c = outbox.table.c
    # Not the rows that wait for their not_before: nobody tried them. A lease may be
    # that of a relay which is at work, or was killed: nobody can tell these apart. One
    # that has ended by now held its row while we looked for work.
    rows = select(func.count(), func.count(c.lease)).where(
        c.state == "pending", or_(c.error.is_not(None), c.lease.is_not(None))
    )
    dead = outbox.stats(settled=False).dead
    try:
        with outbox.engine.connect() as connection:
            tried, leased = connection.execute(rows).one()
    except DBAPIError as error:
        msg = f"the outbox's database failed: {error.orig}"
        raise StoreFailed(msg) from error
    said = []
    if dead:
        are_left = _rows(dead, "dead row is left", "dead rows are left")
        said.append(f"{are_left} (outbox list --state dead)")
    if waiting := tried - leased:
        said.append(
            _rows(
                waiting,
                "row waits for its next attempt",
                "rows wait for their next attempt",
            )
        )
    if leased:
        another = "leased by another relay, which is at work or was killed"
        said.append(_rows(leased, f"row is {another}", f"rows are {another}"))
    return said


def _rows(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
