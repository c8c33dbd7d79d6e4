"""Hypothesis strategies for what events are made of."""

import json

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from eventbus_sync.envelope import Envelope


_INT64 = 2**63

#: Any text that UTF-8 can hold, the special cases of the wire format often among it.
texts = st.text(
    st.characters(codec="utf-8")
    | st.sampled_from('"\\/<>&\n\r\t\b\f\x00\x1f\x7f\u2028\u2029é')
)
names = texts.filter(lambda text: bool(text.strip()))
aggregate_ids = st.from_regex(r"[A-Za-z0-9:_.\-/]{1,256}", fullmatch=True)
versions = st.integers(1, _INT64 - 1)
tenant_ids = st.just(0) | st.integers(-_INT64, _INT64 - 1)

offsets = st.integers(-1439, 1439).map(
    lambda minutes: timezone(timedelta(minutes=minutes))
)
moments = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001
    timezones=offsets,
)
#: From the first to the last second that has a four-digit year.
nanoseconds = st.integers(-62_135_596_800 * 10**9, 253_402_300_800 * 10**9 - 1)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
    ),
    max_leaves=20,
)
payloads = json_values.filter(lambda value: value is not None)


@st.composite
def raw_payloads(draw: st.DrawFn) -> bytes:
    """JSON in UTF-8 as other programs may write it: spaced, escaped or neither."""
    text = json.dumps(
        draw(payloads),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 1, "\t"])),
        separators=draw(st.sampled_from([None, (" ,  ", " :\n"), (",", ":")])),
    )
    blanks = st.text(" \t\r\n", max_size=2)
    return (draw(blanks) + text + draw(blanks)).encode()


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    """
    Any valid envelope with an id and a moment of its own.

    Made ids and the present differ from run to run, and hypothesis wants to replay.
    """
    return Envelope(
        draw(aggregate_ids),
        draw(names),
        draw(versions),
        # Reading leaves the blanks around a payload out.
        draw(
            payloads
            | raw_payloads().map(bytes.strip).filter(lambda raw: raw != b"null")
        ),
        event_id=draw(names),
        timestamp=draw(moments | nanoseconds),
        trace_id=draw(texts),
        correlation_id=draw(texts),
        tenant_id=draw(tenant_ids),
    )
