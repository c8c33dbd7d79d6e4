"""What the fields of an envelope may hold, and what is said when they do not."""

import functools
import re

from typing import Final

from eventbus_sync.envelope import wire as _wire
from eventbus_sync.errors import EnvelopeError


MAX_INT64: Final = 2**63 - 1

_SHORT: Final = 80
_HINTS: Final = {
    "event_id": ", or None to have one made",
    "aggregate_id": ", the id of what the event belongs to",
    "event_type": " such as OrderCreated",
    "trace_id": ', or "" for none',
    "correlation_id": ', or "" for none',
}

#: Matches a legal aggregate id, which is never blank.
is_legal: Final = re.compile(r"[A-Za-z0-9:_.\-/]{1,256}").fullmatch
_illegal_character: Final = re.compile(r"[^A-Za-z0-9:_.\-/]").search
_surrogate: Final = re.compile("[\ud800-\udfff]").search


def text(field: str, value: object) -> str:
    """Return a ``str`` itself, whatever subclass *value* is of."""
    if type(value) is str:
        return value
    if isinstance(value, str):
        # Such as a StrEnum, whose own str() may say something else.
        return str.__str__(value)
    msg = f"{field} is a {type(value).__name__}: pass a str" + _HINTS.get(field, "")
    raise EnvelopeError(msg, field=field)


def not_blank(field: str, value: object) -> str:
    """Return a ``str`` in which there is more than blanks."""
    found = text(field, value)
    if not found.strip():
        msg = f"{field} is blank: pass a text" + _HINTS[field]
        raise EnvelopeError(msg, field=field)
    return found


def event_type(value: object) -> tuple[str, str]:
    """Return the event type, and how it stands between quotes on the wire."""
    if type(value) is str and len(value) <= _SHORT:
        return _short_event_type(value)
    found = not_blank("event_type", value)
    return found, _wire.escaped(found)


# A program has few event types. Only short ones are kept, and not many: they may come
# from outside.
@functools.lru_cache(maxsize=256)
def _short_event_type(value: str) -> tuple[str, str]:
    return not_blank("event_type", value), _wire.escaped(value)


def version(value: object) -> int:
    """Return an event version, which is a whole number from 1 up."""
    number = int64("event_version", value)
    if number <= 0:
        msg = f"event_version is {number}: pass a whole number from 1 up"
        raise EnvelopeError(msg, field="event_version")
    return number


def int64(field: str, value: object) -> int:
    """Return an ``int`` which Go can hold; bool is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        msg = f"{field} is a {type(value).__name__}: pass an int"
        raise EnvelopeError(msg, field=field)
    if not -MAX_INT64 - 1 <= value <= MAX_INT64:
        msg = f"{field} does not fit into 64 bits: pass a smaller number"
        raise EnvelopeError(msg, field=field)
    return int(value)


def illegal(aggregate_id: str) -> EnvelopeError:
    """Return the error for an aggregate id that is not legal."""
    found = _illegal_character(aggregate_id)
    if found is None:
        msg = f"aggregate_id has {len(aggregate_id)} bytes: pass at most 256"
    else:
        msg = (
            f"aggregate_id holds {found[0]!r} at position {found.start()}: use only "
            "A-Z a-z 0-9 : _ - . /"
        )
    return EnvelopeError(msg, field="aggregate_id")


def not_unicode(error: UnicodeEncodeError, **texts: str) -> EnvelopeError:
    """Return the error for the first of *texts* with half of a surrogate pair."""
    field = next(field for field, text in texts.items() if _surrogate(text))
    msg = f"{field} cannot be encoded as UTF-8: {error.reason}; correct the text"
    return EnvelopeError(msg, field=field)
