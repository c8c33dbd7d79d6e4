"""Acknowledgements: every byte string ends in a verdict."""

import json

import pytest

from hypothesis import example, given
from hypothesis import strategies as st

from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.nats.ack import read_ack
from eventbus_sync.errors import (
    BrokerFull,
    PublishError,
    PublishRejected,
    PublishUnknown,
)


def test_ack() -> None:
    """Stream and sequence of what is stored."""
    ack = read_ack(b'{"stream":"ORDERS","domain":"hub","seq":7}')
    assert isinstance(ack, Ack)
    assert (ack.stream, ack.sequence, ack.duplicate) == ("ORDERS", 7, False)
    assert (ack.partition, ack.offset) == (None, None)


def test_duplicate_is_an_ack() -> None:
    """A repeat that the stream dropped is stored all the same."""
    ack = read_ack(b'{"stream":"ORDERS","seq":7,"duplicate":true}')
    assert isinstance(ack, Ack)
    assert ack.duplicate


@pytest.mark.parametrize("duplicate", [b"1", b'"true"', b"null", b"false"])
def test_only_true_is_a_duplicate(duplicate: bytes) -> None:
    """What is not JSON's true is no duplicate."""
    ack = read_ack(b'{"stream":"ORDERS","seq":7,"duplicate":' + duplicate + b"}")
    assert isinstance(ack, Ack)
    assert ack.duplicate is False


def test_error_ack() -> None:
    """An error beside stream and sequence is a refusal; "stream full" has code 503."""
    refusal = read_ack(
        b'{"error":{"code":503,"err_code":10077,"description":"maximum messages '
        b'exceeded"},"stream":"ORDERS","seq":0}'
    )
    assert isinstance(refusal, BrokerFull)
    assert "maximum messages exceeded" in str(refusal)


@pytest.mark.parametrize("error", [b"{}", b'{"description":7}', b'{"code":"503"}'])
def test_error_ack_without_much(error: bytes) -> None:
    """An error that says little is a refusal."""
    assert type(read_ack(b'{"error":' + error + b"}")) is PublishRejected


MALFORMED = [
    b"",
    b"+OK",
    b"null",
    b"7",
    b'"text"',
    b"[]",
    b"[1]",
    b"{",
    b"{}",
    b"\xff",
    b'{"stream":"S"}',
    b'{"seq":1}',
    b'{"stream":7,"seq":1}',
    b'{"stream":"S","seq":"1"}',
    b'{"stream":"S","seq":true}',
    b'{"stream":"S","seq":1.0}',
    b'{"stream":"S","seq":0}',
    b'{"stream":"S","seq":-1}',
    b'{"stream":null,"seq":null}',
    b'{"error":null}',
    b'{"error":"no"}',
    b'{"error":[]}',
    b'{"error":{"code":null}}',
    b'{"error":{"code":"x"}}',
    b'{"error":{"code":Infinity}}',
    b'{"error":{"err_code":NaN}}',
    b'{"error":{"err_code":1e999}}',
    b'{"stream":"S","seq":' + b"1" * 5000 + b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
]


@pytest.mark.parametrize("data", MALFORMED, ids=map(str, range(len(MALFORMED))))
def test_what_cannot_be_understood_is_unknown(data: bytes) -> None:
    """Malformed answers leave the fate of the event open, and show what came."""
    verdict = read_ack(data)
    assert type(verdict) is PublishUnknown
    assert repr(data[:80]) in str(verdict)
    assert len(str(verdict)) < 500


@given(st.binary())
@example(b'{"error":{"code":Infinity}}')
def test_any_bytes_end_in_a_verdict(data: bytes) -> None:
    """No bytes raise."""
    assert isinstance(read_ack(data), (Ack, PublishError))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.sampled_from(["stream", "seq", "error", "duplicate", "domain"]),
        _json
        | st.dictionaries(st.sampled_from(["code", "err_code", "description"]), _json),
    )
)
def test_any_json_ends_in_a_verdict(said: object) -> None:
    """No JSON raises, whatever its members are."""
    assert isinstance(read_ack(json.dumps(said).encode()), (Ack, PublishError))


def verdict(text: bytes) -> tuple[object, ...]:
    """Return what was read, to be compared."""
    said = read_ack(text)
    if isinstance(said, Ack):
        return (said.stream, said.sequence, said.duplicate)
    return (type(said),)


@given(st.from_regex(r"[A-Za-z0-9_-]{1,40}", fullmatch=True), st.integers(0, 10**20))
@example("ORDERS", 2**63 - 1)
@example("ORDERS", 0)
def test_the_usual_ack_is_read_as_any_other(stream: str, sequence: int) -> None:
    """To the byte as the server writes it, and with a blank: the same verdict."""
    usual = b'{"stream":"%b","seq":%d}' % (stream.encode(), sequence)
    other = usual.replace(b":", b": ")
    assert verdict(usual) == verdict(other)


def test_the_usual_ack_needs_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(json, "loads")
    ack = read_ack(b'{"stream":"ORDERS","seq":7}')
    assert isinstance(ack, Ack)
    assert (ack.stream, ack.sequence) == ("ORDERS", 7)
