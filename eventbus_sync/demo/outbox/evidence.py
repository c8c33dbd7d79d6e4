"""What the database and the broker have when a run is over."""

from collections.abc import Mapping, Sequence

import attrs

from sqlalchemy import Engine, func, select

from eventbus_sync.demo.outbox.orders import orders
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.observe import Stats
from eventbus_sync.outbox import RelayStats
from eventbus_sync.testing.readback import StoredEvent


@attrs.frozen
class Row:
    """A row of the outbox: which event, of which aggregate, in which state."""

    event_id: str
    aggregate_id: str
    state: str


@attrs.frozen(kw_only=True)
class Evidence:
    """
    Four witnesses that do not know of each other.

    Attributes:
        rows: of the outbox, the oldest first.
        versions: how often each order was changed, as the orders themselves say.
        relay: what the relay counted.
        bus: what its bus counted.
        stored: what the broker holds, each partition in its own order.
        once: whether this broker recognises repeats, so that there may be none.
    """

    rows: Sequence[Row]
    versions: Mapping[str, int]
    relay: RelayStats
    bus: Stats
    stored: Sequence[StoredEvent]
    once: bool


def rows_of(outbox: SqlAlchemyOutbox) -> list[Row]:
    """Return every row of the outbox."""
    with outbox.engine.connect() as connection:
        count = connection.scalar(select(func.count()).select_from(outbox.table))
    found = outbox.rows(limit=max(1, count or 0))
    return [Row(row.event_id, row.aggregate_id, row.state.value) for row in found]


def versions_of(engine: Engine) -> dict[str, int]:
    """Return the version of every order."""
    with engine.connect() as connection:
        found = connection.execute(select(orders.c.name, orders.c.version))
        return {row.name: row.version for row in found}
