"""What a broker may have stored without saying so, as far as statistics tell."""

import json

from typing import Any

import attrs


#: A partition: its topic and its number.
Partition = tuple[str, str]


class Unanswered:
    """
    Which partitions hold messages that were sent, and how old these may be.

    Belongs to the poll thread. Statistics are looked at only while ``watching``, since
    parsing them costs 20 µs a partition.

    What waits in the driver for a leader, or for its turn, was not sent: it times out
    alone. Unless something of the partition was seen on its way: a request that was given
    up waits there again, and may be stored.
    """

    def __init__(self) -> None:
        self.watching = False
        self._partitions: dict[Partition, _Seen] = {}
        self._looked_at = float("-inf")

    def may_hold(self, moment: float) -> bool:
        """Return whether that may be so for a message accepted at this *moment*."""
        return any(
            seen.sent and seen.clean_at <= moment for seen in self._partitions.values()
        )

    def statistics(self, text: str, now: float) -> None:
        """Look at the driver's statistics of this moment."""
        before, self._partitions = self._partitions, {}
        looked_at, self._looked_at = self._looked_at, float("-inf")
        if not self.watching:
            return
        self._looked_at = now
        for topic, its in json.loads(text)["topics"].items():
            for number, partition in its["partitions"].items():
                held = _held(partition)
                if held:
                    acked = partition["acked_msgid"]
                    seen = before.get((topic, number))
                    if seen is None:
                        # At the last look, if there was one, it held nothing.
                        seen = _Seen(now, acked + held, looked_at)
                    elif acked >= seen.last:
                        seen = _Seen(now, acked + held, seen.at)
                    seen.sent |= partition["msgs_inflight"] > 0
                    self._partitions[topic, number] = seen


@attrs.define
class _Seen:
    """
    What was seen of a partition.

    Attributes:
        at: when.
        last: the number of the last message that it held then. The driver counts them,
            and the broker acknowledges them, in order.
        clean_at: all that was accepted before this has been acknowledged.
        sent: whether something that it holds may have been sent.
    """

    at: float
    last: int
    clean_at: float
    sent: bool = False


def _held(partition: dict[str, Any]) -> int:
    waiting = partition["msgq_cnt"] + partition["xmit_msgq_cnt"]
    return int(waiting + partition["msgs_inflight"])
