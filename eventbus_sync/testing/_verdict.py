"""Verdicts on the promises themselves, told from whatever else makes a test fail."""

import functools

from collections.abc import Callable
from typing import ParamSpec, TypeVar


P = ParamSpec("P")
T = TypeVar("T")


class PromiseBroken(AssertionError):
    """
    An event was lost, doubled, invented, unaccounted or out of order.

    A test may fail because the machine was busy, and pass when it is tried again. This
    is no such failure: one event lost in a hundred runs passes a second try, too.
    """


def verdict(check: Callable[P, T]) -> Callable[P, T]:
    """Turn the failure of *check*, which compares books, into PromiseBroken."""

    @functools.wraps(check)
    def judged(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return check(*args, **kwargs)
        except AssertionError as error:
            raise PromiseBroken(str(error) or "the books do not balance") from error

    return judged
