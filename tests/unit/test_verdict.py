"""A broken promise has a name that ``.ci/run`` looks for."""

from pathlib import Path

import pytest

from support.verdict import PromiseBroken, kept, verdict


@verdict
def check(lost: int) -> None:
    assert lost == 0, f"{lost} lost"


def test_books_that_balance() -> None:
    check(0)
    kept(0, "the books balance")


def test_a_broken_promise_is_named() -> None:
    with pytest.raises(PromiseBroken, match="3 lost"):
        check(3)
    with pytest.raises(PromiseBroken, match="1 lost"):
        kept(1, "1 lost")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(TypeError):
        check()  # type: ignore[call-arg]


def test_ci_looks_for_it() -> None:
    script = Path(__file__).parents[2] / ".ci" / "run"
    assert f"grep -q {PromiseBroken.__name__} " in script.read_text()
