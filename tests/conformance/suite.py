"""The suite that every back end runs is a product: ``eventbus_sync.testing.conformance``."""

from eventbus_sync.testing.conformance import (
    BackendConformance,
    envelope,
    order_kept,
    publish_all,
    read,
)


__all__ = ["BackendConformance", "envelope", "order_kept", "publish_all", "read"]
