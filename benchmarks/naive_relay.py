"""The peer: what a relay is in an afternoon. Select, publish and wait, commit per row."""

from typing import Final

from sqlalchemy import select, update

from eventbus_sync import Envelope, EventBus, Outcome
from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


_AT_ONCE: Final = 100


def relay(outbox: SqlAlchemyOutbox, bus: EventBus) -> int:
    """Publish all pending rows one after the other; return how many."""
    table, done = outbox.table, 0
    c = table.c
    pending = select(table).where(c.state == "pending")
    while True:
        with outbox.engine.connect() as connection:
            rows = connection.execute(pending.order_by(c.position).limit(_AT_ONCE))
            batch = rows.all()
        if not batch:
            return done
        for row in batch:
            envelope = Envelope(
                row.aggregate_id,
                row.event_type,
                row.event_version,
                row.payload,
                event_id=row.event_id,
                timestamp=row.occurred_at,
            )
            result = bus.publish_envelope_sync(row.topic, envelope)
            if result.outcome is not Outcome.ACKED:
                msg = f"{row.event_id} was not stored: {result.error}"
                raise RuntimeError(msg)
            with outbox.engine.begin() as connection:
                connection.execute(
                    update(table)
                    .where(c.position == row.position)
                    .values(state="published")
                )
            done += 1
