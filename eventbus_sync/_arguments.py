"""Checks of what callers pass, each with an error that names the field."""

from collections.abc import Callable

from eventbus_sync.errors import ConfigError, EnvelopeError


#: Longer waits overflow the clocks of some platforms; it is more than a year.
MAX_SECONDS = 4e7


def check_seconds(field: str, value: object) -> None:
    """Raise ``ConfigError`` unless *value* is a number of seconds one can wait."""
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value <= MAX_SECONDS
    ):
        msg = (
            f"{field} must be a non-negative number of seconds, at most "
            f"{MAX_SECONDS:g}, not {value!r}"
        )
        raise ConfigError(msg)


def check_callable(field: str, value: Callable[..., object]) -> None:
    """Raise ``ConfigError`` unless *value* can be called."""
    if not callable(value):
        msg = f"{field} must be callable, not {type(value).__name__}"
        raise ConfigError(msg)


def text(field: str, value: object) -> str:
    """Return *value*, or raise ``EnvelopeError`` if it is not a str."""
    if type(value) is str:
        return value
    if not isinstance(value, str):
        msg = f"{field} must be a str, not {type(value).__name__}"
        raise EnvelopeError(msg, field=field)
    # Of an enum member that is a str, the text and not the name.
    return str.__str__(value)


def encoded(field: str, value: str) -> bytes:
    """Return *value* as UTF-8, or raise ``EnvelopeError`` for lone surrogates."""
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        msg = f"{field} holds a lone surrogate, which UTF-8 cannot carry"
        raise EnvelopeError(msg, field=field) from exc
