"""Relays as processes, to be killed, frozen and told to end."""

import contextlib
import os
import signal
import subprocess
import sys

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from support.eventually import eventually


class RelayProcess:
    """``python -m eventbus_sync relay …``; gone at the end of the ``with`` block."""

    def __init__(self, db: str, bus: str, log: Path, *options: str) -> None:
        self.log = log
        with log.open("ab") as stream:
            self._start = stream.tell()
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "eventbus_sync", "relay"),
                    *("--db", db, "--bus", bus, *options),
                ],
                stdout=stream,
                stderr=stream,
                stdin=subprocess.DEVNULL,
                env=dict(os.environ),
            )

    def said(self) -> str:
        return self.log.read_bytes()[self._start :].decode()

    def wait_until_it_runs(self) -> None:
        eventually(lambda: "relaying" in self.said() or self.ended, 30)
        assert not self.ended, self.said()

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """As ``kill -9``."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(30)

    def wait(self, timeout: float = 30) -> int:
        return self.process.wait(timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


def first_occurrences(
    stored: Iterator[tuple[str, str]],
) -> dict[str, list[str]]:
    """Return aggregate → event ids in the order in which each came first."""
    seen: dict[str, dict[str, None]] = {}
    for aggregate, event_id in stored:
        seen.setdefault(aggregate, {}).setdefault(event_id)
    return {aggregate: list(ids) for aggregate, ids in seen.items()}
