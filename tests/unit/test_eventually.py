"""Waiting for something: what comes back, and what is said when it does not come."""

import pytest

from eventbus_sync.testing.conformance import order_kept
from eventbus_sync.testing.eventually import eventually


def test_the_first_truthy_value() -> None:
    answers = iter([None, 0, "", "yes"])
    assert eventually(lambda: next(answers), interval=0.001) == "yes"


def test_an_exception_is_not_yet() -> None:
    answers = iter(["1", "x", "0"])
    assert eventually(lambda: 1 / int(next(answers)), interval=0.001) == 1
    answers = iter(["x", "5"])
    assert eventually(lambda: int(next(answers)), interval=0.001) == 5


def test_nothing_in_time() -> None:
    with pytest.raises(
        AssertionError, match=r"not within 0.01 s; the last .* was None"
    ):
        eventually(lambda: None, timeout=0.01, interval=0.001)
    with pytest.raises(AssertionError, match="ZeroDivisionError") as caught:
        eventually(lambda: 1 / 0, timeout=0.01, interval=0.001)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_order_is_looked_at_per_aggregate() -> None:
    """The suite's own judge: what is in order, and what is not."""
    stored = [("", "a", b'{"n":1}'), ("", "b", b'{"n":0}'), ("", "a", b'{"n":2}')]
    assert order_kept(stored)
    assert not order_kept([*stored, ("", "b", b'{"n":0}')])
