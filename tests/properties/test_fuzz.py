"""What comes from outside, wrong in every way."""

import random

import pytest

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.fuzz import ACKS, ENVELOPES, TARGETS, fuzz, read_answer, read_envelope
from support.mutations import mutated


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_thousand_mutations(target: str) -> None:
    """Neither crash nor hang, and every kind of verdict occurs."""
    found = fuzz(target, 4000, 7)
    assert len(found) == {"envelope": 2, "ack": 3}[target]
    assert min(found.values()) > 20


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("seed", range(4))
def test_many_mutations(target: str, seed: int) -> None:
    """A million in all."""
    assert fuzz(target, 125_000, seed).total() == 125_000


@given(st.randoms(use_true_random=False))
def test_mutated_envelopes(source: random.Random) -> None:
    """Hypothesis chooses the changes, so that it can make a failure small."""
    read_envelope(mutated(source, ENVELOPES))


@given(st.randoms(use_true_random=False))
def test_mutated_acks(source: random.Random) -> None:
    """The same for acknowledgements."""
    read_answer(mutated(source, ACKS))


@given(st.binary(max_size=2000))
@example(b"")
def test_any_bytes(data: bytes) -> None:
    """What was never right."""
    assert read_envelope(data) in {"read", "refused"}
    assert read_answer(data) in {"acked", "rejected", "unknown"}


@pytest.mark.slow
@settings(max_examples=5000)
@given(st.binary(max_size=5000))
def test_any_bytes_for_longer(data: bytes) -> None:
    """The same with more."""
    read_envelope(data)
    read_answer(data)


def test_a_failure_names_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a hang is one."""

    def hang(data: bytes) -> str:
        while True:
            pass

    monkeypatch.setattr("support.fuzz.PATIENCE", 0.05)
    monkeypatch.setitem(TARGETS, "ack", (hang, [b"{}"]))
    with pytest.raises(AssertionError, match=r"ack, seed 1: b'.*no verdict within"):
        fuzz("ack", 1, 1)
