"""Names as NATS allows them, and checks of its settings that go together."""

import functools
import re

from collections.abc import Callable, Sequence
from typing import Any, Final

import attrs

from eventbus_sync.config import servers as _servers
from eventbus_sync.config.fields import MAX_SECONDS, as_plain, check_tls, secret, shown
from eventbus_sync.errors import ConfigError


#: How many seconds longer than delivery_timeout a stream must recognise repeats.
WINDOW_MARGIN: Final = 5.0

_CREDENTIALS: Final = ("user", "token", "nkey_seed", "nkey_seed_file", "creds_file")

_is_name: Final = re.compile(r"[^\s\x00-\x1f\x7f.*>/\\]{1,255}").fullmatch
_is_token: Final = re.compile(r"[^\s\x00-\x1f\x7f.*>]+").fullmatch


def name(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass the name of a stream or a domain, or None."""
    if value is not None and not (isinstance(value, str) and _is_name(value)):
        msg = (
            f"{field.name} must be a name of up to 255 characters without blanks and "
            f"without . * > / \\, not {shown(value)}"
        )
        raise ConfigError(msg)


def prefix(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass the beginning of a subject, without wildcards."""
    if not isinstance(value, str) or not all(map(_is_token, value.split("."))):
        msg = (
            f'{field.name} must be one or more names joined by dots, such as "_INBOX", '
            f"without blanks and wildcards, not {shown(value)}"
        )
        raise ConfigError(msg)


def as_subjects(value: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return subjects one by one; what is neither is left to the check."""
    if isinstance(value, Following):
        return None  # they follow from the stream, which may have another name now
    if isinstance(value, str):
        return tuple(subject.strip() for subject in value.split(","))
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return tuple(map(as_plain, value))
    return value


def subjects(_: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass subjects with wildcards in their places, or None."""
    if value is None:
        return
    if not isinstance(value, tuple) or not value:
        msg = f'{field.name} must be a list such as ["orders.>"], not {shown(value)}'
        raise ConfigError(msg)
    for subject in value:
        if not isinstance(subject, str) or not _is_subject(subject):
            msg = (
                f"{field.name} holds {shown(subject)}: a subject is names joined by "
                "dots, with * for one whole name and > for all that follow at the end"
            )
            raise ConfigError(msg)


def _is_subject(subject: str) -> bool:
    *names, last = subject.split(".")
    return (last in {"*", ">"} or _is_token(last) is not None) and all(
        one == "*" or _is_token(one) for one in names
    )


def credential(config: Any, field: "attrs.Attribute[Any]", value: Any) -> None:
    """Let pass a text that is shown nowhere, or what returns one, or None."""
    if not callable(value):
        secret(config, field, value)


class Following:
    """
    Marks what a setting follows from others, and was not given.

    ``attrs.evolve`` hands all values of a configuration to the constructor of the next
    one, which can tell in this way which of them to work out anew.
    """

    __slots__ = ()


class FollowingSeconds(float, Following):
    """Seconds that follow from other settings."""

    __slots__ = ()


class FollowingSubjects(tuple[str, ...], Following):
    """Subjects that follow from the stream's name."""

    __slots__ = ()


def _follow(config: Any, put: Callable[[str, object], None]) -> None:
    """Work out what follows from other settings, all of which are right by now."""
    timeout = config.delivery_timeout
    found = {
        # As the server does, or as much as a long delivery_timeout takes.
        "duplicate_window": min(max(120.0, timeout + WINDOW_MARGIN), MAX_SECONDS),
        # A short delivery_timeout leaves no room for 5 s.
        "ack_wait": min(5.0, timeout / 2),
        "max_reconnect_wait": max(2.0, config.reconnect_wait),
    }
    for name, value in found.items():
        if isinstance(getattr(config, name), Following):
            put(name, FollowingSeconds(value))
    if config.stream and config.subjects is None and config.ensure_stream == "create":
        lower = config.stream.lower()
        put("subjects", FollowingSubjects((lower, f"{lower}.>")))


def settle(config: Any) -> None:
    """
    Fill in what follows from other settings, and refuse what contradicts them.

    Credentials in server URLs become settings, which are masked; a server with
    ``tls://`` turns TLS on for all.
    """
    put = functools.partial(object.__setattr__, config)  # it is still being built
    servers, tls, credentials = _servers.nats(config.servers)
    put("tls", config.tls or tls)
    scheme = "tls" if config.tls else "nats"
    put("servers", tuple(f"{scheme}://{server}" for server in servers))
    if credentials:
        for name, value in _login(config, credentials).items():
            put(name, value)
    _check_credentials(config)
    check_tls(config, "tls_ca", "tls_cert", "tls_key", "tls_hostname")
    _check_stream(config)
    _follow(config, put)
    _check_times(config)


def _login(config: Any, credentials: set[str]) -> dict[str, str]:
    """Return the settings that credentials before an ``@`` stand for."""
    if len(credentials) > 1:
        msg = "servers have different credentials: give them once, as user and password"
        raise ConfigError(msg)
    for name in (*_CREDENTIALS, "password"):
        if getattr(config, name) is not None:
            msg = f"servers have credentials already, so {name} must be left out"
            raise ConfigError(msg)
    user, colon, password = credentials.pop().partition(":")
    if not user or (colon and not password):
        msg = "servers have incomplete credentials: write user:password@ or token@"
        raise ConfigError(msg)
    if not colon:
        return {"token": _servers.decoded("servers", user)}
    return {
        "user": _servers.decoded("servers", user),
        "password": _servers.decoded("servers", password),
    }


def _check_credentials(config: Any) -> None:
    given = [name for name in _CREDENTIALS if getattr(config, name) is not None]
    if len(given) > 1:
        msg = f"{' and '.join(given)} exclude each other: keep one of them"
        raise ConfigError(msg)
    if config.password is not None and config.user is None:
        msg = "user is missing: password needs it"
        raise ConfigError(msg)


def _check_stream(config: Any) -> None:
    if config.stream is not None and not config.jetstream:
        msg = "stream needs jetstream=True: only JetStream has streams"
        raise ConfigError(msg)
    if config.subjects is not None and config.stream is None:
        msg = "stream is missing: subjects belong to one"
        raise ConfigError(msg)
    looks = config.stream is not None and config.ensure_stream != "skip"
    if config.publish_mode == "batch" and not looks:
        msg = (
            'publish_mode="batch" needs to know the stream: name it as stream, and let '
            'ensure_stream be "create" or "validate"'
        )
        raise ConfigError(msg)


def _check_times(config: Any) -> None:
    if config.ack_wait >= config.delivery_timeout:
        msg = (
            f"ack_wait={config.ack_wait:g} must be less than delivery_timeout="
            f"{config.delivery_timeout:g}, or nothing would ever be sent again"
        )
        raise ConfigError(msg)
    enough = config.delivery_timeout + WINDOW_MARGIN
    creates = config.stream is not None and config.ensure_stream == "create"
    if creates and config.duplicate_window < enough:
        msg = (
            f"duplicate_window={config.duplicate_window:g} must be at least {enough:g}, "
            f"{WINDOW_MARGIN:g} s more than delivery_timeout, or repeats would be stored"
        )
        raise ConfigError(msg)
    if config.max_reconnect_wait < config.reconnect_wait:
        msg = (
            f"max_reconnect_wait={config.max_reconnect_wait:g} must not be less than "
            f"reconnect_wait={config.reconnect_wait:g}"
        )
        raise ConfigError(msg)
