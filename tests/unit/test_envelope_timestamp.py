"""Timestamps: every form that callers use, and nanoseconds and zones that survive."""

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from support.envelopes import envelope, refusal


class Odd(tzinfo):
    """A zone that breaks every rule there is."""

    def __init__(self, offset: timedelta | Exception) -> None:
        self.offset = offset

    def utcoffset(self, when: datetime | None) -> timedelta:
        del when
        if isinstance(self.offset, Exception):
            raise self.offset
        return self.offset

    def tzname(self, when: datetime | None) -> None:
        del when

    def dst(self, when: datetime | None) -> None:
        del when


def test_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a timestamp it is now, in UTC, with nanoseconds."""
    monkeypatch.setattr("time.time_ns", lambda: 1_786_194_148_123_456_700)
    built = envelope()
    assert built.timestamp_text == "2026-08-08T13:02:28.1234567Z"
    assert built.unix_nanoseconds == 1_786_194_148_123_456_700
    assert ":1786194148123456700:" in built.event_id


@pytest.mark.parametrize(
    ("given", "text", "nanoseconds"),
    [
        ("2026-08-08T13:02:28Z", "2026-08-08T13:02:28Z", 1_786_194_148 * 10**9),
        ("2026-08-08T13:02:28.500Z", "2026-08-08T13:02:28.5Z", 1_786_194_148_500_000_000),
        ("2026-08-08T13:02:28.000+08:00", "2026-08-08T13:02:28+08:00", 1_786_165_348 * 10**9),
        ("2026-08-08T13:02:28-00:30", "2026-08-08T13:02:28-00:30", 1_786_195_948 * 10**9),
        ("2026-08-08T13:02:28+00:00", "2026-08-08T13:02:28Z", 1_786_194_148 * 10**9),
        ("2026-08-08T13:02:28-00:00", "2026-08-08T13:02:28Z", 1_786_194_148 * 10**9),
        ("2026-08-08T13:02:28.1234567899Z", "2026-08-08T13:02:28.123456789Z", 1_786_194_148_123_456_789),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z", -62_135_596_800 * 10**9),
        ("0001-01-01T00:00:00+08:00", "0001-01-01T00:00:00+08:00", -62_135_625_600 * 10**9),
        (0, "1970-01-01T00:00:00Z", 0),
        (1, "1970-01-01T00:00:00.000000001Z", 1),
        (-1, "1969-12-31T23:59:59.999999999Z", -1),
        (1_500_000_000, "1970-01-01T00:00:01.5Z", 1_500_000_000),
        (datetime(2026, 8, 8, tzinfo=UTC), "2026-08-08T00:00:00Z", 1_786_147_200 * 10**9),
        (datetime(2026, 8, 8, 0, 0, 0, 10, timezone(timedelta(hours=-5))), "2026-08-08T00:00:00.00001-05:00", 1_786_165_200_000_010_000),
        (datetime(2026, 8, 8, tzinfo=timezone(timedelta(seconds=30))), "2026-08-07T23:59:30Z", 1_786_147_170 * 10**9),
    ],
)  # fmt: skip
def test_forms(given: Any, text: str, nanoseconds: int) -> None:
    """Every form gives Go's text and the same nanoseconds, in the event id too."""
    built = envelope(timestamp=given)
    assert built.timestamp_text == text
    assert built.unix_nanoseconds == nanoseconds
    assert f":{nanoseconds}:" in built.event_id
    assert f'"timestamp":"{text}"' in built.to_bytes().decode()


def test_datetime_property() -> None:
    """The datetime has the zone and the whole microseconds of the text."""
    zone = timezone(timedelta(hours=8))
    built = envelope(timestamp="2026-08-08T13:02:28.123456789+08:00")
    assert built.timestamp == datetime(2026, 8, 8, 13, 2, 28, 123_456, zone)
    assert built.timestamp.utcoffset() == timedelta(hours=8)
    assert envelope(timestamp=0).timestamp.tzinfo is UTC


def test_datetime_that_knows_nanoseconds() -> None:
    """A subclass such as pandas' Timestamp keeps its nanoseconds."""

    class Fine(datetime):
        def isoformat(*_: Any, **__: Any) -> str:
            return "2026-08-08T13:02:28.123456789+00:00"

    built = envelope(timestamp=Fine(2026, 8, 8, tzinfo=UTC))
    assert built.timestamp_text == "2026-08-08T13:02:28.123456789Z"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-08-08",
        "2026-08-08 13:02:28Z",
        "2026-08-08t13:02:28Z",
        "2026-08-08T13:02:28",
        "2026-08-08T13:02:28z",
        "2026-08-08T13:02:28+0800",
        "2026-08-08T13:02:28+24:00",
        "2026-08-08T13:02:28+08:60",
        "2026-08-08T13:02:28.Z",
        "2026-08-08T13:02:28,5Z",
        "2026-08-08T13:02Z",
        "2026-08-08T24:00:00Z",
        "2026-08-08T13:02:60Z",
        "2026-02-29T13:02:28Z",
        "0000-01-01T00:00:00Z",
        "2026-08-08T13:02:28Z\n",
        "٢٠٢٦-08-08T13:02:28Z",
    ],
)
def test_text_that_is_no_moment(text: str) -> None:
    """Anything but RFC 3339 with T and a zone is refused."""
    assert refusal(timestamp=text).field == "timestamp"


@pytest.mark.parametrize("value", [1.5, True, b"2026", date(2026, 8, 8), [1]])
def test_other_types(value: object) -> None:
    """A float would lose nanoseconds, and a date has no time."""
    error = refusal(timestamp=value)
    assert error.field == "timestamp"
    assert type(value).__name__ in str(error)


def test_naive() -> None:
    """A naive datetime is refused, with the remedy."""
    error = refusal(timestamp=datetime(2026, 8, 8))  # noqa: DTZ001
    assert "datetime.now(UTC)" in str(error)


@pytest.mark.parametrize(
    "value",
    [
        253_402_300_800 * 10**9,
        -62_135_596_801 * 10**9,
        10**40,
        pytest.param(10**5000, id="huge"),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(seconds=30))),
        datetime(2026, 1, 1, tzinfo=Odd(ValueError("broken"))),
    ],
)
def test_outside_of_the_calendar(value: object) -> None:
    """What RFC 3339 cannot write is refused, not wrapped around."""
    assert refusal(timestamp=value).field == "timestamp"


def test_clock_before_1970(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a clock still gets an envelope."""
    monkeypatch.setattr("time.time_ns", lambda: 5)
    assert envelope().timestamp_text == "1970-01-01T00:00:00.000000005Z"
