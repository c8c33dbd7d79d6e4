"""The contract of a store on PostgreSQL."""

import pytest

from conformance.store_operate_suite import OperateConformance
from conformance.store_order_suite import OrderConformance
from conformance.store_suite import StoreConformance
from conformance.store_write_suite import WriteConformance

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


pytest_plugins = ["support.databases"]


class TestPostgreSQL(
    StoreConformance, OrderConformance, OperateConformance, WriteConformance
):
    """Every test of the suites."""

    claim_statements = 4
    mark_statements = 2

    @pytest.fixture
    def outbox(self, postgresql_outbox: SqlAlchemyOutbox) -> SqlAlchemyOutbox:
        """An empty one."""
        return postgresql_outbox
