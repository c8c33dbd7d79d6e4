"""Texts in columns: what does not fit, and the one character PostgreSQL cannot hold."""

import json

from collections.abc import Mapping
from typing import Any, Final

from eventbus_sync.envelope.headers import check_extra_headers
from eventbus_sync.errors import EnvelopeError
from eventbus_sync.integrations.sqlalchemy.table import LENGTHS


_MARK: Final = "\x1a"
_MOST_ERROR: Final = 4000
# No header can have this name: publishing it is refused, with a text that says why.
_DAMAGED: Final = {"(the row's headers are no JSON object)": ""}
# Neither JSON nor UTF-8: no envelope can have it.
_NO_BYTES: Final = b"\xff(the row's payload is no bytes)"


def to_column(field: str, text: str) -> str:
    """
    Return *text* as it is stored: NUL, which PostgreSQL refuses, has another form.

    Raises:
        EnvelopeError: it is too long for its column.
    """
    if "\x00" in text or _MARK in text:
        text = text.replace(_MARK, _MARK + _MARK).replace("\x00", _MARK + "0")
    if len(text) > LENGTHS[field]:
        msg = (
            f"{field} has {len(text)} characters, and the outbox holds at most "
            f"{LENGTHS[field]}: pass a shorter one"
        )
        raise EnvelopeError(msg, field=field)
    return text


def from_column(stored: Any) -> str:
    """
    Return what was given to ``to_column``; NULL is an empty text.

    Bytes that are no UTF-8 become lone surrogates, which no event may have.
    """
    if not stored:
        return ""
    text = stored if isinstance(stored, str) else _text(stored)
    if _MARK not in text:
        return text
    parts = text.split(_MARK + _MARK)
    return _MARK.join(part.replace(_MARK + "0", "\x00") for part in parts)


def _text(stored: Any) -> str:
    """Return what SQLite may hold in place of a text."""
    if isinstance(stored, bytes | bytearray | memoryview):
        return bytes(stored).decode(errors="surrogateescape")
    return str(stored)


def to_show(stored: Any) -> str:
    """Return a text for people's eyes: it can be printed, whatever is in the row."""
    return from_column(stored).encode(errors="replace").decode()


def bytes_from_column(stored: Any) -> bytes:
    """Return a payload; what is no bytes and no text gives what no bus will publish."""
    if isinstance(stored, str):  # SQLite keeps a text that somebody put there
        return stored.encode(errors="surrogateescape")
    if isinstance(stored, bytes | bytearray | memoryview):
        return bytes(stored)
    return _NO_BYTES


def headers_to_column(headers: Mapping[str, str] | None) -> str | None:
    """
    Return checked headers as they are stored.

    Raises:
        EnvelopeError: a name or a value cannot be a header.
    """
    pairs = check_extra_headers(headers)
    return json.dumps(dict(pairs)) if pairs else None


def headers_from_column(stored: Any) -> Mapping[str, str]:
    """Return a row's headers; damaged ones give what no bus will publish."""
    if not stored:
        return {}
    try:
        found = json.loads(stored)
    except (ValueError, TypeError, RecursionError):
        return _DAMAGED
    return found if isinstance(found, dict) else _DAMAGED


def error_to_column(text: str) -> str:
    """Return what an operator reads, whatever a broker put into it."""
    clean = text.replace("\x00", "\ufffd").encode(errors="replace").decode()
    return clean[:_MOST_ERROR]
