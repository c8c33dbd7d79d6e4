"""Wait for something to become true, instead of sleeping and hoping."""

import time

from collections.abc import Callable
from typing import TypeVar


T = TypeVar("T")


def eventually(
    check: Callable[[], T], timeout: float = 10.0, *, interval: float = 0.02
) -> T:
    """
    Returns the first truthy value of ``check()``, which is asked at least once.

    An exception in ``check`` counts as "not yet", BaseExceptions aside.

    Args:
        check: called on this thread, again and again.
        timeout: seconds to keep asking.
        interval: seconds between two calls.

    Raises:
        AssertionError: nothing truthy in time; says what came last, and an exception of
            the last call is its cause.
    """
    deadline = time.monotonic() + timeout
    while True:
        error: Exception | None = None
        value: T | None = None
        try:
            value = check()
        except Exception as caught:  # noqa: BLE001 - whatever it is, not yet
            error = caught
        if value:
            return value
        if time.monotonic() >= deadline:
            last = repr(value) if error is None else repr(error)
            message = f"not within {timeout:g} s; the last answer was {last}"
            raise AssertionError(message) from error
        time.sleep(interval)
