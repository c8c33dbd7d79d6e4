"""What is known of messages that were sent and are not acknowledged."""

import json
import math

import pytest

from eventbus_sync.backends.kafka.unanswered import Unanswered


def statistics(**partitions: tuple[int, int, int]) -> str:
    """Each partition of topic "t": its last acknowledged, in flight, and waiting."""
    return json.dumps(
        {
            "topics": {
                "t": {
                    "partitions": {
                        name: {
                            "acked_msgid": acked,
                            "msgs_inflight": in_flight,
                            "msgq_cnt": 0,
                            "xmit_msgq_cnt": waiting,
                        }
                        for name, (acked, in_flight, waiting) in partitions.items()
                    }
                }
            }
        }
    )


@pytest.fixture
def unanswered() -> Unanswered:
    found = Unanswered()
    found.watching = True
    return found


def test_nothing_is_known_at_first(unanswered: Unanswered) -> None:
    assert unanswered.since == math.inf


def test_what_was_sent_counts_from_the_first_look(unanswered: Unanswered) -> None:
    for now in (10.0, 11.0, 12.0):
        unanswered.statistics(statistics(p0=(5, 3, 0)), now)
    assert unanswered.since == 10.0


def test_a_request_that_was_given_up_goes_on_counting(unanswered: Unanswered) -> None:
    """Its messages wait in the driver again, and may be stored."""
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.statistics(statistics(p0=(5, 0, 3)), 11.0)
    assert unanswered.since == 10.0


def test_what_was_never_sent_does_not_count(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 0, 1000)), 10.0)
    assert unanswered.since == math.inf


def test_an_acknowledgement_begins_anew(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 9)), 10.0)
    unanswered.statistics(statistics(p0=(6, 3, 9)), 11.0)
    assert unanswered.since == 11.0
    unanswered.statistics(statistics(p0=(7, 0, 9)), 12.0)
    assert unanswered.since == math.inf


def test_nothing_is_left(unanswered: Unanswered) -> None:
    """What timed out, or was purged."""
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.statistics(statistics(p0=(5, 0, 0)), 11.0)
    assert unanswered.since == math.inf


def test_the_worst_partition_counts(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0), p1=(8, 1, 0)), 10.0)
    unanswered.statistics(statistics(p0=(6, 3, 0), p1=(8, 1, 0)), 11.0)
    assert unanswered.since == 10.0


def test_nobody_looks_while_nothing_is_old(unanswered: Unanswered) -> None:
    """To parse them costs time; and what was seen is forgotten."""
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.watching = False
    unanswered.statistics("no JSON", 11.0)
    assert unanswered.since == math.inf
