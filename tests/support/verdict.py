"""Verdicts on the promises themselves: what ``.ci/run`` forgives no second try."""

import functools

from collections.abc import Callable
from typing import ParamSpec


P = ParamSpec("P")


class PromiseBroken(AssertionError):
    """An event was lost, doubled, invented, unaccounted or out of order."""


def verdict(check: Callable[P, None]) -> Callable[P, None]:
    """
    Turn the failure of *check* into PromiseBroken.

    A test that failed may fail because the machine was busy, and is tried again. One
    event lost in a hundred runs would pass such a second try, too; so whoever compares
    books uses this.
    """

    @functools.wraps(check)
    def judged(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            check(*args, **kwargs)
        except AssertionError as error:
            raise PromiseBroken(str(error) or "the books do not balance") from error

    return judged


@verdict
def kept(code: int, said: object) -> None:
    """Assert by its exit code that a soak or a run of faults found nothing wrong."""
    assert code == 0, said
