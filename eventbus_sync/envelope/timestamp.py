"""
Moments as they stand on the wire: RFC 3339 text with nanoseconds and a zone.

``datetime`` has microseconds only, so the text is what an envelope keeps; it is always
normalised like Go's: up to nine fractional digits without trailing zeros, ``Z`` for UTC.
"""

import functools
import re
import time

from datetime import UTC, datetime, timedelta, timezone
from typing import Final

from eventbus_sync.errors import EnvelopeError


#: Go's zero time, which an envelope without a timestamp is read as.
ZERO: Final = "0001-01-01T00:00:00Z"

_SECOND: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = -62_135_596_800 * _SECOND  # the year 1
_LAST: Final = 253_402_300_800 * _SECOND - 1  # the end of 9999
_RFC_3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2}T(?:[01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2})"
    r"(?:\.([0-9]+))?"
    r"(?:Z|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
).fullmatch


def now() -> tuple[str, int]:
    """Return the present moment as wire text in UTC and as Unix nanoseconds."""
    nanoseconds = time.time_ns()
    return from_nanoseconds(nanoseconds), nanoseconds


def normalised(value: object) -> tuple[str, int]:
    """
    Return a caller's timestamp as wire text and as Unix nanoseconds.

    Args:
        value: an aware ``datetime``, RFC 3339 text, or whole Unix nanoseconds.

    Raises:
        EnvelopeError: it is none of these, or lies outside the years 1 to 9999.
    """
    if isinstance(value, str):
        text, moment, nanoseconds = _parse(value)
    elif isinstance(value, datetime):
        text, moment, nanoseconds = _parse(_from_datetime(value))
    elif isinstance(value, int) and not isinstance(value, bool):
        if not _FIRST <= value <= _LAST:
            msg = "timestamp lies outside the years 1 to 9999: pass Unix nanoseconds"
            raise EnvelopeError(msg, field="timestamp")
        number = int(value)  # an enum member's str() may be no number
        return from_nanoseconds(number), number
    else:
        msg = (
            f"timestamp is a {type(value).__name__}: pass an aware datetime, RFC 3339 "
            "text, whole Unix nanoseconds as an int, or None for now"
        )
        raise EnvelopeError(msg, field="timestamp")
    return text, _unix_nanoseconds(moment, nanoseconds)


def to_nanoseconds(text: str) -> int:
    """Return the Unix nanoseconds of wire text."""
    _, moment, nanoseconds = _parse(text)
    return _unix_nanoseconds(moment, nanoseconds)


def to_datetime(text: str) -> datetime:
    """Return wire text as an aware ``datetime``, cut to whole microseconds."""
    _, moment, nanoseconds = _parse(text)
    return moment.replace(microsecond=nanoseconds // 1000)


def from_nanoseconds(nanoseconds: int) -> str:
    """Return Unix nanoseconds within the years 1 to 9999 as wire text in UTC."""
    if nanoseconds >= _SECOND:
        # Cutting the decimal text is the quick way, and this is the hot path.
        digits = str(nanoseconds)
        second, fraction = _to_the_second(digits[:-9]), digits[-9:]
    else:
        seconds, rest = divmod(nanoseconds, _SECOND)
        second, fraction = _to_the_second(str(seconds)), f"{rest:09d}"
    if fraction[-1] != "0":
        return f"{second}.{fraction}Z"
    fraction = fraction.rstrip("0")
    return f"{second}.{fraction}Z" if fraction else f"{second}Z"


@functools.lru_cache(maxsize=8)
def _to_the_second(unix_seconds: str) -> str:
    """Return ``YYYY-MM-DDTHH:MM:SS``; most events share their second with others."""
    return (_EPOCH + timedelta(seconds=int(unix_seconds))).isoformat()[:19]


def _from_datetime(value: datetime) -> str:
    """Return RFC 3339 text of an aware datetime (a subclass may know nanoseconds)."""
    try:
        offset = value.utcoffset()
        if offset is not None and offset % timedelta(minutes=1):
            # A local mean time such as +00:53:28, which RFC 3339 cannot say.
            value = value.astimezone(UTC)
        text = value.isoformat()
    except (OverflowError, ValueError) as error:
        msg = f"timestamp has no RFC 3339 form ({error}): pass a moment in UTC"
        raise EnvelopeError(msg, field="timestamp") from error
    if offset is None:
        msg = (
            "timestamp is a naive datetime, whose zone nobody knows: pass an aware one "
            "such as datetime.now(UTC)"
        )
        raise EnvelopeError(msg, field="timestamp")
    return text


def _parse(text: str) -> tuple[str, datetime, int]:
    """Return normalised text, its whole second as an aware datetime, nanoseconds."""
    matched = _RFC_3339(text)
    if matched is None:
        msg = (
            f"timestamp {text[:40]!r} is not RFC 3339: write it with T and a zone, such "
            "as 2026-08-08T13:02:28.5Z or 2026-08-08T13:02:28+08:00"
        )
        raise EnvelopeError(msg, field="timestamp")
    second, fraction, sign, hours, minutes = matched.groups()
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
    if sign == "-":
        offset = -offset
    try:
        zone = timezone(offset) if offset else UTC
        moment = datetime.fromisoformat(second).replace(tzinfo=zone)
    except ValueError as error:
        msg = f"timestamp {text[:40]!r} is no moment: {error}; correct it"
        raise EnvelopeError(msg, field="timestamp") from error
    # Digits past the ninth are cut, as Go cuts them.
    fraction = (fraction or "")[:9].rstrip("0")
    tail = f"{sign}{hours}:{minutes}" if offset else "Z"
    normal = f"{second}.{fraction}{tail}" if fraction else f"{second}{tail}"
    return normal, moment, int(fraction.ljust(9, "0"))


def _unix_nanoseconds(moment: datetime, nanoseconds: int) -> int:
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * _SECOND + nanoseconds
