"""How much a relay claims at a time: so many rows, and so many bytes."""

from collections.abc import Sequence
from typing import Final

from eventbus_sync.outbox.lines import size_of
from eventbus_sync.outbox.record import OutboxRecord


#: Bytes of payloads and headers that are held at most; and one row more, since one is
#: taken whatever it has.
MOST_BYTES: Final = 64 * 2**20
# By so much the next claim grows after one that succeeded.
_GROWTH: Final = 1.5


class Appetite:
    """
    Limits of the next claim. Used by one thread.

    A claim that failed may have been too much for the database or for this process, and
    would fail in the same way for ever: each failure halves the next one, down to one
    row, and each that finds rows lets it grow again by half.

    Args:
        batch_size: rows of a claim at most.
    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._part = 1.0
        # Bytes in a row, as of the last claim.
        self._row_size = 0.0

    def is_sated(self, held: int, held_bytes: int) -> bool:
        """Return whether no more is claimed while so much is held."""
        return held >= 2 * self._batch_size or held_bytes >= MOST_BYTES

    def rows(self, held_bytes: int) -> int:
        """Return how many rows to claim at most; one at least."""
        most = int(self._batch_size * self._part)
        if self._row_size:
            # The database cuts where it has to. This spares it to lock, and to measure,
            # five hundred rows of which ten fit; twice as many, since sizes change.
            most = min(most, int(2 * self.bytes(held_bytes) / self._row_size))
        return max(1, most)

    def bytes(self, held_bytes: int) -> int:
        """Return how many bytes they may have."""
        return int(max(0, MOST_BYTES - held_bytes) * self._part)

    def took(self, records: Sequence[OutboxRecord]) -> None:
        """Note what a claim took."""
        if records:
            self._part = min(1.0, self._part * _GROWTH)
            self._row_size = sum(map(size_of, records)) / len(records)

    def failed(self) -> None:
        """Note that a claim failed."""
        self._part = max(1 / self._batch_size, self._part / 2)
