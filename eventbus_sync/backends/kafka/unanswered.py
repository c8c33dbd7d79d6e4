"""What a broker may have stored without saying so, as far as statistics tell."""

import json

from typing import Any


#: A partition: its topic and its number.
Partition = tuple[str, str]


class Unanswered:
    """
    Since when partitions hold messages that were sent and are not acknowledged.

    Belongs to the poll thread. Statistics come once a second or more often, and are
    looked at only while ``watching``: parsing them costs 20 µs a partition.

    A message that waits in the driver, for a leader or because there are too many, was
    not sent. One that was sent, and whose request was then given up, may wait there as
    well: so a partition counts until something of it is acknowledged or nothing is left.
    """

    def __init__(self) -> None:
        self.watching = False
        self._partitions: dict[Partition, tuple[int, float]] = {}

    @property
    def since(self) -> float:
        """The moment since which that is so somewhere; infinite if it is nowhere."""
        return min((at for _, at in self._partitions.values()), default=float("inf"))

    def statistics(self, text: str, now: float) -> None:
        """Look at the driver's statistics of this moment."""
        if not self.watching:
            self._partitions = {}
            return
        found: dict[Partition, tuple[int, float]] = {}
        for topic, its in json.loads(text)["topics"].items():
            for number, partition in its["partitions"].items():
                acked = partition["acked_msgid"]
                before = self._partitions.get((topic, number))
                if before is not None and before[0] == acked and _holds(partition):
                    found[topic, number] = before
                elif partition["msgs_inflight"]:
                    found[topic, number] = (acked, now)
        self._partitions = found


def _holds(partition: dict[str, Any]) -> bool:
    waiting = partition["msgq_cnt"] + partition["xmit_msgq_cnt"]
    return bool(waiting + partition["msgs_inflight"])
