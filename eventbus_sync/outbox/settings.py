"""What a relay was told, checked."""

from typing import Any, Final

import attrs

from eventbus_sync.config import fields as _fields
from eventbus_sync.errors import ConfigError
from eventbus_sync.outbox.retry import RetryPolicy
from eventbus_sync.outbox.store import OnDead, Ordering


#: By how many seconds a lease must exceed the ``delivery_timeout`` of the bus.
LEASE_MARGIN: Final = 5.0


def _policy(_: Any, __: Any, value: Any) -> None:
    if not isinstance(value, RetryPolicy):
        msg = f"retry must be a RetryPolicy, not {type(value).__name__}"
        raise ConfigError(msg)


@_fields.by_name
@attrs.frozen(kw_only=True)
class Settings:
    """What ``OutboxRelay`` was told; its text says what each means."""

    name: str = attrs.field(validator=_fields.text)
    retry: RetryPolicy = attrs.field(validator=_policy)
    batch_size: int = attrs.field(validator=_fields.whole(1, 10_000))
    lease: float = attrs.field(validator=_fields.seconds(zero=False))
    ordering: Ordering = attrs.field(validator=_fields.choice("aggregate", "none"))
    on_dead: OnDead = attrs.field(validator=_fields.choice("hold", "skip"))
    poll_interval: float = attrs.field(validator=_fields.seconds(zero=False))
    purge_after: float | None = attrs.field(
        validator=attrs.validators.optional(_fields.seconds(zero=True))
    )
    purge_batch: int = attrs.field(validator=_fields.whole(1, 100_000))
    delivery_timeout: float

    @property
    def margin(self) -> float:
        """Seconds of its lease that a row must have left to be published."""
        return self.delivery_timeout + 3.0


def check_lease(lease: float, delivery_timeout: float) -> None:
    """
    Refuse a lease that could end while its rows are in flight.

    Raises:
        ConfigError: it is too short.
    """
    if lease < delivery_timeout + LEASE_MARGIN:
        msg = (
            f"lease={lease:g} is too short for the bus's delivery_timeout="
            f"{delivery_timeout:g}: another relay could take rows that are in flight; "
            f"it must be at least {LEASE_MARGIN:g} s more: raise lease to "
            f"{_fields.shown(delivery_timeout + LEASE_MARGIN)}, or lower "
            "delivery_timeout of the relay's bus"
        )
        raise ConfigError(msg)
