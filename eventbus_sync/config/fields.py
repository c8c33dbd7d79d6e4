"""
Checks of single settings, for all configurations.

Every refusal is a ``ConfigError`` that names the setting, says what is wrong with the
value and what would be right. Values of secret settings are never shown.
"""

import functools
import os

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final, TypeVar

import attrs

from eventbus_sync.errors import ConfigError


Check = Callable[[Any, "attrs.Attribute[Any]", Any], None]
C = TypeVar("C", bound=type)

#: The longest time in seconds: drivers count milliseconds in 32 bits.
MAX_SECONDS: Final = 2_147_483
#: The largest number of events or bytes for which drivers have room.
MAX_COUNT: Final = 2**31 - 1

_SHOWN: Final = 60


def shown(value: object) -> str:
    """Return a value that is no secret as a message shows it."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python cares to print
        return f"that {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant, or an empty text."""
    import difflib  # noqa: PLC0415 - only mistakes need it

    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return found[0] if found else ""


def seconds(*, zero: bool, most: float = MAX_SECONDS) -> Check:
    """Let pass a finite number of seconds, also 0 if *zero*."""
    wanted = f"a number of seconds from 0 to {most}"
    if not zero:
        wanted = f"a number of seconds above 0, at most {most}"

    def check(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not (0 <= value <= most if zero else 0 < value <= most)
        ):
            msg = f"{field.name} must be {wanted}, not {shown(value)}"
            raise ConfigError(msg)

    return check


def whole(least: int, most: int = MAX_COUNT) -> Check:
    """Let pass a whole number between the two, and None if that is the default."""

    def check(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        if value is None and field.default is None:
            return
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not least <= value <= most
        ):
            msg = (
                f"{field.name} must be a whole number from {least} to {most}, not "
                f"{shown(value)}"
            )
            raise ConfigError(msg)

    return check


def flag(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass True and False."""
    if not isinstance(value, bool):
        msg = f"{field.name} must be True or False, not {shown(value)}"
        raise ConfigError(msg)


def choice(*allowed: str | None) -> Check:
    """Let pass one of a few texts."""
    wanted = ", ".join(repr(one) for one in allowed)

    def check(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
        if not (isinstance(value, str) or value is None) or value not in allowed:
            msg = f"{field.name} must be one of {wanted}, not {shown(value)}"
            raise ConfigError(msg)

    return check


def text(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass a text that says something, and None if that is the default."""
    if value is None and field.default is None:
        return
    if not isinstance(value, str):
        msg = f"{field.name} must be a text, not {shown(value)}"
        raise ConfigError(msg)
    if not value.strip() or not value.isprintable():
        msg = f"{field.name} must be printable and not blank, not {shown(value)}"
        raise ConfigError(msg)


def secret(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass a text that is not empty, or None, and show neither."""
    if value is None:
        return
    if not isinstance(value, str):
        msg = f"{field.name} must be a text, not of type {type(value).__name__}"
        raise ConfigError(msg)
    if not value:
        msg = f"{field.name} is empty: leave it out if there is none"
        raise ConfigError(msg)


def file(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass the path of a file that can be read now, or None."""
    if value is None:
        return
    if not isinstance(value, str) or not value:
        msg = f"{field.name} must be the path of a file, not {shown(value)}"
        raise ConfigError(msg)
    try:
        with open(value, "rb"):  # noqa: PTH123 - pathlib takes 3 ms to import
            pass
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        msg = f"{field.name} cannot be read: {shown(value)}: {why}"
        raise ConfigError(msg) from error


def check_tls(config: Any, *names: str) -> None:
    """Refuse a certificate without its key, or TLS settings without TLS."""
    for name in names:
        if not config.tls and getattr(config, name) is not None:
            msg = f"{name} needs tls=True: without it nothing is encrypted"
            raise ConfigError(msg)
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        if getattr(config, name) is not None and getattr(config, other) is None:
            msg = f"{other} is missing: {name} needs it (it may be the same file)"
            raise ConfigError(msg)


def as_path(value: "str | os.PathLike[str] | None") -> str | None:
    """Return a path as a text; what is no path is left to the check."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def as_plain(value: Any) -> Any:
    """
    Return the text or the number that a member of an enum is; anything else as it is.

    A member's own ``str()`` and ``format()`` may say ``Stream.ORDERS``, and a setting
    may end up in the name of a subject or a thread.
    """
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Enum) and isinstance(value, (int, float)):
        return int(value) if isinstance(value, int) else float(value)
    return value


def hidden(value: object) -> str:
    """Return what ``repr`` shows of a secret: whether there is one."""
    return "None" if value is None else "'***'"


def by_name(cls: C) -> C:
    """
    Make a configuration's constructor say what is wrong with the names it is given.

    Without this a misspelt setting is a TypeError from somewhere inside.
    """
    build = cls.__init__  # type: ignore[misc]
    fields = {field.name: field for field in attrs.fields(cls) if field.init}
    required = [
        name for name, field in fields.items() if field.default is attrs.NOTHING
    ]

    @functools.wraps(build)
    def checked(self: Any, *args: Any, **settings: Any) -> None:
        if args:
            msg = (
                f"{cls.__name__} takes settings by name, such as {next(iter(fields))}=…"
            )
            raise ConfigError(msg)
        for name in settings:
            if name not in fields:
                meant = nearest(name, fields)
                hint = (
                    f"did you mean {meant}?" if meant else f"it has {', '.join(fields)}"
                )
                msg = f"{cls.__name__} has no setting {name!r}: {hint}"
                raise ConfigError(msg)
        for name in required:
            if name not in settings:
                msg = f"{name} is missing: {cls.__name__} cannot do without"
                raise ConfigError(msg)
        build(self, **{name: as_plain(value) for name, value in settings.items()})

    cls.__init__ = checked  # type: ignore[misc]
    return cls
