"""
The outbox in SQLAlchemy 2, for SQLite, PostgreSQL and MariaDB or MySQL.

::

    outbox.py      SqlAlchemyOutbox: both sides in one class; begin here
    table.py       the table, as a Table and as a declarative mixin
    writing.py     add: an envelope becomes a row in the caller's transaction
    claim.py       a relay takes rows (choose.py: which ones; pure)
    reading.py     a row becomes what a relay publishes
    marks.py       a relay says what became of them
    operate.py     what operators do and see
    purge.py       what is settled goes after a while
    database.py    short transactions, and what differs between databases
    listen.py      PostgreSQL says when there is something to do
    schema.py      is the table as it must be? (keys.py: are rows numbered, told apart?)
    clock.py       SQL that each database says in its own words
"""

from eventbus_sync.integrations.sqlalchemy.outbox import SqlAlchemyOutbox
from eventbus_sync.integrations.sqlalchemy.table import OutboxMixin, outbox_table


__all__ = ["OutboxMixin", "SqlAlchemyOutbox", "outbox_table"]
