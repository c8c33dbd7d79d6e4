"""
Lists of servers, as settings and URLs give them.

A server may carry a password where somebody put one, so no message repeats an entry:
it says which one of the list is wrong, and why.
"""

import re

from collections.abc import Sequence
from typing import Any, Final, NoReturn

from eventbus_sync.errors import ConfigError


KAFKA_PORT: Final = 9092
NATS_PORT: Final = 4222

_MAX_PORT: Final = 65_535
_server: Final = re.compile(
    r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://)?"
    r"(?:(?P<user>[^@/]*)@)?"
    r"(?P<host>[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.\-]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"/?"
).fullmatch
_bad_percent: Final = re.compile("%(?![0-9A-Fa-f]{2})").search


def entries(field: str, value: object) -> list[str]:
    """
    Return the servers one by one.

    Raises:
        ConfigError: there is none, or *value* is neither a text nor a list of texts.
    """
    found: list[Any]
    if isinstance(value, str):
        found = value.split(",")
    elif isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        found = list(value)
    else:
        msg = f"{field} must be a text or a list of texts, not {type(value).__name__}"
        raise ConfigError(msg)
    if not found:
        msg = f"{field} is empty: name at least one server"
        raise ConfigError(msg)
    for number, entry in enumerate(found, 1):
        if not isinstance(entry, str):
            _refuse(
                field, number, found, f"is of type {type(entry).__name__}: pass a str"
            )
        if not entry.strip():
            _refuse(field, number, found, "is blank: name a host, or remove a comma")
    return [entry.strip() for entry in found]


def listed(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return NATS servers one by one; ``nats`` looks at each."""
    return tuple(entries("servers", value))


def kafka(value: str | Sequence[str]) -> str:
    """Return bootstrap servers as librdkafka wants them: ``host:port,host:port``."""
    field = "bootstrap_servers"
    found = entries(field, value)
    servers = []
    for number, entry in enumerate(found, 1):
        match = _server(entry)
        if match is None or match["scheme"] or match["user"] is not None:
            _refuse(field, number, found, 'must be a host and a port: "kafka-1:9092"')
        servers.append(
            f"{match['host']}:{_port(field, number, found, match, KAFKA_PORT)}"
        )
    return ",".join(servers)


def nats(value: str | Sequence[str]) -> tuple[list[str], bool, set[str]]:
    """
    Return NATS servers as ``host:port``, whether TLS is asked for, and credentials.

    The credentials stand before an ``@``, still encoded; a set of more than one means
    that the servers disagree.
    """
    field = "servers"
    found = entries(field, value)
    servers = []
    tls = False
    credentials = set()
    for number, entry in enumerate(found, 1):
        match = _server(entry)
        scheme = (match["scheme"] or "nats").lower() if match else ""
        if match is None or scheme not in {"nats", "tls"}:
            _refuse(
                field,
                number,
                found,
                'must be like "nats://host:4222" or "tls://host:4222"',
            )
        tls = tls or scheme == "tls"
        if match["user"] is not None:
            credentials.add(match["user"])
        servers.append(
            f"{match['host']}:{_port(field, number, found, match, NATS_PORT)}"
        )
    return servers, tls, credentials


def decoded(what: str, text: str) -> str:
    """
    Return percent-encoded text of a URL as it was meant.

    Raises:
        ConfigError: a ``%`` encodes nothing, or no text in UTF-8. The text itself is
            not repeated, for it may be a password.
    """
    from urllib.parse import unquote  # noqa: PLC0415 - rarely needed, and not small

    try:
        if _bad_percent(text) is None:
            return unquote(text, errors="strict")
    except UnicodeDecodeError:
        pass
    msg = f"{what} has a % that encodes no UTF-8: write %25 for a percent sign"
    raise ConfigError(msg)


def _port(
    field: str, number: int, found: list[str], match: re.Match[str], default: int
) -> int:
    port = int(match["port"] or default)
    if not 0 < port <= _MAX_PORT:
        _refuse(field, number, found, f"must have a port from 1 to {_MAX_PORT}")
    return port


def _refuse(field: str, number: int, found: Sequence[object], problem: str) -> NoReturn:
    which = f"{field}" if len(found) == 1 else f"{field} entry {number} of {len(found)}"
    msg = f"{which} {problem}"
    raise ConfigError(msg)
