"""The nonce that makes an event id unique, whatever clocks and forks do."""

import contextlib
import itertools
import os

from collections.abc import Callable


class _NonceSource:
    """
    Gives texts of which no two are equal, in this process or in any other.

    A nonce is 64 random bits drawn once per process, and a counter. No lock: the
    state is one tuple, replaced as a whole, and counting is atomic.
    """

    __slots__ = ("_state",)

    _state: tuple[int, str, Callable[[], int]]

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Draw new random bits, so that a forked child cannot repeat its parent."""
        self._state = os.getpid(), os.urandom(8).hex(), itertools.count(1).__next__

    def draw(self) -> str:
        """Return a text that was not there before."""
        pid, prefix, count = self._state
        # The hook below does not run everywhere: uWSGI forks from C.
        if pid != os.getpid():
            self.renew()
            _, prefix, count = self._state
        return f"{prefix}-{count()}"


_source = _NonceSource()
nonce = _source.draw

with contextlib.suppress(AttributeError):  # there is no fork on Windows
    os.register_at_fork(after_in_child=_source.renew)
