"""What is known of messages that were sent and are not acknowledged."""

import json

from typing import Any

import pytest

from eventbus_sync.backends.kafka.unanswered import Unanswered


def statistics(**partitions: tuple[int, int, int]) -> str:
    """Each partition of topic "t": its last acknowledged, in flight, and waiting."""

    def of(acked: int, in_flight: int, waiting: int) -> dict[str, Any]:
        return {
            "acked_msgid": acked,
            "msgs_inflight": in_flight,
            "msgq_cnt": 0,
            "xmit_msgq_cnt": waiting,
        }

    said = {name: of(*figures) for name, figures in partitions.items()}
    return json.dumps({"topics": {"t": {"partitions": said}}})


@pytest.fixture
def unanswered() -> Unanswered:
    found = Unanswered()
    found.watching = True
    return found


def test_nothing_is_known_at_first(unanswered: Unanswered) -> None:
    assert not unanswered.may_hold(5.0)


def test_what_is_on_its_way_may_be_stored(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    assert unanswered.may_hold(9.0)


def test_a_request_that_was_given_up_goes_on_counting(unanswered: Unanswered) -> None:
    """Its messages wait in the driver again, and may be stored."""
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.statistics(statistics(p0=(5, 0, 3)), 11.0)
    assert unanswered.may_hold(9.0)


def test_what_was_never_sent_does_not_count(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 0, 1000)), 10.0)
    assert not unanswered.may_hold(9.0)


def test_a_partition_that_acknowledges_what_it_held_has_nothing_older(
    unanswered: Unanswered,
) -> None:
    """Up to the look at which it held what it has acknowledged now."""
    unanswered.statistics(statistics(p0=(5, 3, 10)), 10.0)
    unanswered.statistics(statistics(p0=(17, 3, 10)), 11.0)
    assert unanswered.may_hold(9.0)
    unanswered.statistics(statistics(p0=(18, 3, 10)), 12.0)
    assert not unanswered.may_hold(9.9)
    assert unanswered.may_hold(10.0)


def test_a_partition_that_was_empty_has_nothing_older(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.statistics(statistics(p0=(8, 0, 0)), 11.0)
    assert not unanswered.may_hold(10.5)
    unanswered.statistics(statistics(p0=(8, 3, 0)), 12.0)
    assert not unanswered.may_hold(10.5)
    assert unanswered.may_hold(11.5)


def test_each_partition_counts(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0), p1=(5, 3, 0)), 10.0)
    unanswered.statistics(statistics(p0=(8, 3, 0), p1=(5, 3, 0)), 11.0)
    assert unanswered.may_hold(9.0)
    unanswered.statistics(statistics(p0=(11, 3, 0), p1=(8, 0, 0)), 12.0)
    assert not unanswered.may_hold(9.0)


def test_what_is_not_watched_is_forgotten(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0)), 10.0)
    unanswered.watching = False
    unanswered.statistics("not even looked at", 11.0)
    assert not unanswered.may_hold(9.0)
