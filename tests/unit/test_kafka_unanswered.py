"""What is known of messages that were sent and are not acknowledged."""

import json

from typing import Any

import pytest

from eventbus_sync.backends.kafka.unanswered import Unanswered


#: Two brokers, the second of which cannot be reached; and no leader at all.
UP, DOWN, NONE = 1, 2, -1


def statistics(**partitions: tuple[int, int, int, int]) -> str:
    """Each partition of "t": last acknowledged, in flight, waiting, and its leader."""

    def of(acked: int, in_flight: int, waiting: int, leader: int) -> dict[str, Any]:
        return {
            "acked_msgid": acked,
            "msgs_inflight": in_flight,
            "msgq_cnt": 0,
            "xmit_msgq_cnt": waiting,
            "leader": leader,
        }

    said = {name: of(*figures) for name, figures in partitions.items()}
    brokers = {
        "a": {"nodeid": UP, "state": "UP"},
        "b": {"nodeid": DOWN, "state": "INIT"},
    }
    return json.dumps({"brokers": brokers, "topics": {"t": {"partitions": said}}})


@pytest.fixture
def unanswered() -> Unanswered:
    found = Unanswered()
    found.watching = True
    return found


def test_nothing_is_known_at_first(unanswered: Unanswered) -> None:
    assert not unanswered.may_hold(5.0)


def test_what_is_on_its_way_may_be_stored(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0, UP)), 10.0)
    assert unanswered.may_hold(9.0)


@pytest.mark.parametrize("leader", [DOWN, NONE])
def test_a_request_that_was_given_up_goes_on_counting(
    unanswered: Unanswered, leader: int
) -> None:
    """Its messages wait in the driver again, and may be stored."""
    unanswered.statistics(statistics(p0=(5, 3, 0, UP)), 10.0)
    unanswered.statistics(statistics(p0=(5, 0, 3, leader)), 11.0)
    assert unanswered.may_hold(9.0)


@pytest.mark.parametrize("leader", [DOWN, NONE])
def test_what_cannot_be_sent_does_not_count(
    unanswered: Unanswered, leader: int
) -> None:
    unanswered.statistics(statistics(p0=(5, 0, 1000, leader)), 10.0)
    assert not unanswered.may_hold(9.0)


def test_what_can_be_sent_may_be_before_the_next_look(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 0, 1000, DOWN)), 10.0)
    unanswered.statistics(statistics(p0=(5, 0, 1000, UP)), 11.0)
    assert unanswered.may_hold(9.0)


def test_a_partition_that_acknowledges_what_it_held_has_nothing_older(
    unanswered: Unanswered,
) -> None:
    """Up to the look at which it held what it has acknowledged now."""
    unanswered.statistics(statistics(p0=(5, 3, 10, UP)), 10.0)
    unanswered.statistics(statistics(p0=(17, 3, 10, UP)), 11.0)
    assert unanswered.may_hold(9.0)
    unanswered.statistics(statistics(p0=(18, 3, 10, UP)), 12.0)
    assert not unanswered.may_hold(9.9)
    assert unanswered.may_hold(10.0)


def test_a_partition_that_was_empty_has_nothing_older(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0, UP)), 10.0)
    unanswered.statistics(statistics(p0=(8, 0, 0, UP)), 11.0)
    assert not unanswered.may_hold(10.5)
    unanswered.statistics(statistics(p0=(8, 3, 0, UP)), 12.0)
    assert not unanswered.may_hold(10.5)
    assert unanswered.may_hold(11.5)


def test_each_partition_counts(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0, UP), p1=(5, 3, 0, UP)), 10.0)
    unanswered.statistics(statistics(p0=(8, 3, 0, UP), p1=(5, 3, 0, UP)), 11.0)
    assert unanswered.may_hold(9.0)
    unanswered.statistics(statistics(p0=(11, 3, 0, UP), p1=(8, 0, 0, UP)), 12.0)
    assert not unanswered.may_hold(9.0)


def test_what_is_not_watched_is_forgotten(unanswered: Unanswered) -> None:
    unanswered.statistics(statistics(p0=(5, 3, 0, UP)), 10.0)
    unanswered.watching = False
    unanswered.statistics("not even looked at", 11.0)
    assert not unanswered.may_hold(9.0)
