"""
The outbox: rows that were written in your transaction, published by a relay.

``record.py`` has the values and every transition, ``store.py`` what a relay needs of a
database; ``eventbus_sync.integrations`` has databases. ``OutboxRelay`` publishes;
``ResultConsumer`` is for users of a bus who have no rows.
"""

from eventbus_sync.outbox.consumer import ResultConsumer
from eventbus_sync.outbox.record import OutboxRow, OutboxStats, Requeued, RowState
from eventbus_sync.outbox.relay import OutboxRelay
from eventbus_sync.outbox.relay_stats import RelayStats
from eventbus_sync.outbox.retry import RetryPolicy
from eventbus_sync.outbox.store import OutboxStore


__all__ = [
    "OutboxRelay",
    "OutboxRow",
    "OutboxStats",
    "OutboxStore",
    "RelayStats",
    "Requeued",
    "ResultConsumer",
    "RetryPolicy",
    "RowState",
]
