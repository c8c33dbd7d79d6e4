"""``SqlAlchemyOutbox``: the write side for applications, the store for relays."""

import contextlib

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from eventbus_sync._threads import Deadline
from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import SchemaMismatch, StoreFailed
from eventbus_sync.integrations.sqlalchemy import (
    claim as _claim,
)
from eventbus_sync.integrations.sqlalchemy import (
    marks as _marks,
)
from eventbus_sync.integrations.sqlalchemy import (
    operate as _operate,
)
from eventbus_sync.integrations.sqlalchemy import (
    purge as _purge,
)
from eventbus_sync.integrations.sqlalchemy import (
    schema as _schema,
)
from eventbus_sync.integrations.sqlalchemy import (
    writing as _writing,
)
from eventbus_sync.integrations.sqlalchemy.database import (
    Database,
    begins_before_savepoints,
    may_be_of_schema,
)
from eventbus_sync.integrations.sqlalchemy.listen import Listener
from eventbus_sync.integrations.sqlalchemy.table import DEFAULT_NAME, outbox_table
from eventbus_sync.integrations.sqlalchemy.writing import Transactional
from eventbus_sync.outbox.record import (
    Claim,
    Mark,
    OutboxRow,
    OutboxStats,
    Requeued,
    RowState,
)
from eventbus_sync.outbox.store import OnDead, Ordering


T = TypeVar("T")


class SqlAlchemyOutbox:
    """
    The outbox in a table of your database.

    Constructing does no I/O. Everything may be called from any thread.

    On SQLite *engine* gets an event listener that sends BEGIN before a savepoint with
    which a transaction begins: the driver does not, and what was added inside would
    survive a rollback of the transaction.

    On SQLite a relay needs a connection of its own: with a ``StaticPool`` or a
    ``SingletonThreadPool`` (``sqlite://``) only ``add`` and ``add_many`` work, and the
    store's methods raise ``ConfigError``.

    Args:
        engine: of the database; it stays yours. Store methods use connections of its
            pool, one at a time and for short.
        table_name: up to 50 characters of ASCII, no ``%`` among them.
        schema: of the table; without one it is that of *metadata*. An engine with a
            ``schema_translate_map`` for it is refused: name the schema itself here.
        metadata: yours, so that Alembic and ``create_all`` know the table; a table of
            this name and schema in it, such as that of an ``OutboxMixin``, is used.
        notify: whether ``add`` wakes relays by PostgreSQL's NOTIFY. It makes commits
            take turns; without it relays poll. Two-phase transactions never do.
        commit_order: whether a row waits for older transactions that are still open
            and could bring an older row of its aggregate. On PostgreSQL older are those
            whose transaction number is, wherever on the server they write. Not
            guaranteed there: the order between two transactions that add to one
            aggregate at the same time while neither locks anything of it. What each of
            them adds stays in order, but the one with the older number may be sent as
            soon as it is committed, before rows that the other one added earlier, and
            these later. Lock or update the aggregate's own row before ``add``, as is
            usual, and its events come in the order in which they were added. On MariaDB and MySQL a row that is not
            committed yet holds its aggregate, and nothing else. SQLite has one writer
            at a time.

    Raises:
        ConfigError: no table can have this name on every database, the engine would look
            for it in another schema, or *engine* is no Engine.
    """

    def __init__(  # noqa: PLR0913 - settings
        self,
        engine: Engine,
        *,
        table_name: str = DEFAULT_NAME,
        schema: str | None = None,
        metadata: MetaData | None = None,
        notify: bool = True,
        commit_order: bool = True,
    ) -> None:
        self.engine = engine
        metadata = MetaData() if metadata is None else metadata
        self.table = outbox_table(metadata, table_name, schema=schema)
        self._database = Database(engine, commit_order=commit_order)
        _schema.refuse_translation(engine, self.table)
        self._notifier = _writing.Notifier(table_name) if notify else None
        self._listener = Listener(engine, table_name) if notify else None
        self._checked = False
        begins_before_savepoints(engine)

    def create_all(self) -> None:
        """
        Create the table and its indexes, as far as they are not there.

        Several processes may do so at once.

        Raises:
            SchemaMismatch: there is a table of this name with other columns.
        """
        in_order = self._database.commit_order
        _schema.create(self.engine, self.table, commit_order=in_order)

    # -- the write side --------------------------------------------------------------

    def add(  # noqa: PLR0913 - what an event can have
        self,
        session_or_connection: Transactional,
        topic: str,
        envelope: Envelope,
        *,
        not_before: datetime | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """
        Write *envelope* into the caller's transaction, at once, and never commit.

        Args:
            session_or_connection: whose transaction decides whether the event is sent.
            topic: where it goes.
            envelope: the event.
            not_before: an aware datetime before which it is not sent.
            headers: for the wire; without a ``traceparent`` among them, that of
                OpenTelemetry's current span is added.
            idempotency_key: adding with a key that a row has already adds nothing,
                until that row is purged.

        Returns:
            The event id: of the envelope, or of the row that had the idempotency key.

        Raises:
            AutocommitRefused: the connection has no transactions.
            DuplicateKey: there is a row of this event id; the transaction can go on.
            EnvelopeError: a part does not fit into the table, or is no header.
            SchemaMismatch: the table has not the columns that it needs.
        """
        row = _writing.row_of(topic, envelope, not_before, headers, idempotency_key)
        connection = _writing.connection_of(session_or_connection, self.table)
        try:
            event_id = _writing.add(connection, self.table, row)
        except DBAPIError as error:
            self._explain(connection, error)
            raise
        self._tell(connection)
        return event_id

    def add_many(
        self,
        session_or_connection: Transactional,
        topic: str,
        envelopes: Iterable[Envelope],
        *,
        not_before: datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """
        Write several events, in their order, as ``add`` does but in few round trips.

        Raises:
            DuplicateKey: one is there already. None of them was added, and the
                transaction can go on.
        """
        rows = [
            _writing.row_of(topic, envelope, not_before, headers, None)
            for envelope in envelopes
        ]
        connection = _writing.connection_of(session_or_connection, self.table)
        try:
            event_ids = _writing.add_many(connection, self.table, rows)
        except DBAPIError as error:
            self._explain(connection, error)
            raise
        if rows:
            self._tell(connection)
        return event_ids

    # -- the store: see outbox/store.py ------------------------------------------------

    def claim(  # noqa: PLR0913 - the contract's
        self,
        lease: str,
        *,
        limit: int,
        seconds: float,
        scan_from: int,
        ordering: Ordering,
        on_dead: OnDead,
        without: Collection[str] = (),
        max_bytes: int | None = None,
    ) -> Claim:
        """Lease up to *limit* rows that are due, the oldest first, for *seconds*."""
        wish = _claim.Wish(
            lease=lease,
            limit=limit,
            seconds=seconds,
            scan_from=scan_from,
            ordering=ordering,
            on_dead=on_dead,
            without=without,
            max_bytes=max_bytes,
        )
        if not self._database.locks_rows:
            # SQLite has one lock for all who write: an idle relay does not take it.
            look = partial(_claim.nothing, table=self.table, scan_from=scan_from)
            nothing = self._run(look, writes=False)
            if nothing is not None:
                return nothing
        # Dirty reads on purpose: a row that is not committed yet is seen, cannot be
        # locked, and so holds its aggregate. All that is taken is locked before.
        return self._run(
            lambda c: _claim.claim(c, self._database, self.table, wish),
            dirty=self._database.commit_order,
        )

    def renew(self, leases: Collection[str], *, seconds: float) -> int:
        """Make *leases* that still stand last for *seconds* from now; count the rows."""
        return self._run(lambda c: _marks.renew(c, self.table, leases, seconds))

    def mark(self, marks: Sequence[Mark]) -> set[int]:
        """Do *marks* whose lease still stands and return the positions of those."""
        if not marks:
            return set()
        return self._run(lambda c: _marks.mark(c, self._database, self.table, marks))

    def purge(self, *, older_than: float, limit: int) -> int:
        """Delete up to *limit* rows settled over *older_than* seconds ago; count them."""
        return self._run(
            lambda c: _purge.purge(c, self._database, self.table, older_than, limit)
        )

    def wait(self, deadline: Deadline) -> bool:
        """Wait until a row may have been committed; False if nothing tells that."""
        return self._listener is not None and self._listener.wait(deadline)

    def wake(self) -> None:
        """End a ``wait`` of another thread."""
        if self._listener is not None:
            self._listener.wake()

    def stats(self, *, settled: bool = True) -> OutboxStats:
        """
        Return counts and ages.

        Args:
            settled: whether to count what is published or discarded, which may be
                millions of rows; else these two are 0.
        """
        return self._run(
            lambda c: _operate.stats(c, self._database, self.table, settled=settled),
            writes=False,
        )

    def rows(
        self, state: RowState | None = None, *, limit: int = 100
    ) -> list[OutboxRow]:
        """Return the oldest rows, of one state or of all."""
        return self._run(
            lambda c: _operate.rows(c, self.table, state, limit), writes=False
        )

    def requeue(self, event_ids: Collection[str] | None = None) -> Requeued:
        """Make dead rows pending again: those given, or all with None."""

        def work(connection: Connection) -> Requeued:
            done = _operate.requeue(connection, self._database, self.table, event_ids)
            self._tell(connection)
            return done

        return self._run(work)

    def discard(self, event_ids: Collection[str]) -> tuple[str, ...]:
        """Give dead rows up for good, and return which these were."""

        def work(connection: Connection) -> tuple[str, ...]:
            done = _operate.discard(connection, self._database, self.table, event_ids)
            self._tell(connection)  # of what the dead row held
            return done

        return self._run(work)

    def close(self) -> None:
        """Let go of what waits for notifications; the engine stays the caller's."""
        if self._listener is not None:
            self._listener.close()

    # -- inside ------------------------------------------------------------------------

    def check_schema(self) -> None:
        """
        Compare the table in the database with what is needed.

        Raises:
            SchemaMismatch: it or an index is missing, or a column is not as it must
                be.
            StoreFailed: the database could not be asked.
        """

        def check(connection: Connection) -> None:
            self._check(connection)
            _schema.check_indexes(connection, self.table)

        self._database.run(check, writes=False)
        self._checked = True

    def _tell(self, connection: Connection) -> None:
        """Wake relays when the transaction is committed."""
        if self._notifier is not None:
            self._notifier.tell(connection)

    def _check(self, connection: Connection) -> None:
        in_order = self._database.commit_order
        _schema.check(connection, self.table, commit_order=in_order)

    def _run(
        self,
        work: Callable[[Connection], T],
        *,
        writes: bool = True,
        dirty: bool = False,
    ) -> T:
        # Once, before anything is done: a wrong table may also look right at first.
        if not self._checked:
            self.check_schema()
        try:
            return self._database.run(work, writes=writes, dirty=dirty)
        except StoreFailed:
            # Look again next time: somebody may have migrated under us.
            self._checked = False
            raise

    def _explain(self, connection: Connection, error: DBAPIError) -> None:
        """Raise SchemaMismatch if that is why a statement of ``add`` failed."""
        if error.connection_invalidated or not may_be_of_schema(error):
            return
        with contextlib.suppress(SQLAlchemyError):
            try:
                if connection.dialect.name == "postgresql":
                    # The transaction is over there: ask on another connection.
                    with connection.engine.connect() as other:
                        self._check(other)
                else:
                    self._check(connection)
            except SchemaMismatch as mismatch:
                raise mismatch from error.orig
