"""A small valid envelope to change, and the error when the change is refused."""

from typing import Any

import pytest

from eventbus_sync.envelope import Envelope
from eventbus_sync.errors import EnvelopeError


def envelope(**changes: Any) -> Envelope:
    """Return a small valid envelope with some parts replaced."""
    parts: dict[str, Any] = {
        "aggregate_id": "order-1",
        "event_type": "OrderCreated",
        "payload": {"a": 1},
    }
    return Envelope(**{**parts, **changes})


def refusal(**changes: Any) -> EnvelopeError:
    """Return the error that a changed envelope is refused with."""
    with pytest.raises(EnvelopeError) as caught:
        envelope(**changes)
    return caught.value
