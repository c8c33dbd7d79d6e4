"""Exceptions from outside, such as Ctrl-C, at a chosen point of our code."""

import linecache
import sys

from types import FrameType, TracebackType
from typing import Any, Self

from eventbus_sync._event import Waiter


class Interrupted(BaseException):
    """What is injected; no ``except Exception`` may catch it."""


class InterruptAt:
    """
    Raises ``Interrupted`` in the block at the n-th place where a real one can land.

    A real exception lands after a call, and never on the way out of a ``with`` block
    (which a tracer sees all the same): that would leave a lock taken.

    Args:
        folder: only code below it is interrupted.
        place: counted from 1.
    """

    def __init__(self, folder: str, place: int) -> None:
        self._folder = folder
        self._left = place
        self._before = ""

    def __enter__(self) -> Self:
        self._previous = sys.gettrace()  # coverage, most likely
        sys.settrace(self._trace)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        sys.settrace(self._previous)
        return exc_type is Interrupted

    @property
    def happened(self) -> bool:
        """Whether the block came so far."""
        return self._left <= 0

    def _trace(self, frame: FrameType, what: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(self._folder):
            return None
        text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        lands = "(" in self._before and not text.strip().startswith("with ")
        self._before = text
        if what == "line" and lands:
            self._left -= 1
            if self._left == 0:
                raise Interrupted
        return self._trace


class InterruptedWaiter(Waiter):
    """A waiter of ``publish_envelope_sync`` whose thread gets Ctrl-C as it waits."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self.done = _CtrlC()  # type: ignore[assignment]


class _CtrlC:
    def acquire(self, **_: float) -> bool:
        raise KeyboardInterrupt

    def release(self) -> None:
        """Nobody waits."""
