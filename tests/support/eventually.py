"""Wait for something to become true, instead of sleeping and hoping."""

from eventbus_sync.testing.eventually import eventually


__all__ = ["eventually"]
