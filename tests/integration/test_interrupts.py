"""Exceptions from outside at random moments: no lock stays taken, the books balance."""

import pytest

from support.processes import run_script


SCRIPT = """
import logging, random, signal, sys, threading
from eventbus_sync import Envelope, MemoryConfig, _inflight
from eventbus_sync.testing import MemoryBus

ROUNDS, EVENTS = {rounds}, 40
logging.disable(logging.CRITICAL)
event = Envelope("a", "Made", 1, 0)
# An event whose publisher was interrupted before the send is settled when it expires.
_inflight.EXPIRY_GRACE = 0.0


class Interrupted(BaseException):
    pass


def interrupt(*_):
    global armed
    if armed:
        # Python swallows what lands in a destructor: the loops below end all the same.
        armed = False
        raise Interrupted


def publish(bus):
    while armed:
        bus.publish_envelope("t", event)


def publish_sync(bus):
    while armed:
        bus.publish_envelope_sync("t", event)


def flush(bus):
    while armed:
        bus.publish_envelope("t", event)
        bus.flush()


def get(bus):
    while armed:
        bus.publish_envelope("t", event)
        bus.get_publish_result_channel().get()


def get_many(bus):
    for _ in range(EVENTS):
        bus.publish_envelope("t", event)
    bus.flush()
    while armed:
        bus.get_publish_result_channel().get_many(3, timeout=0)


def close(bus):
    bus.broker.freeze()
    for _ in range(EVENTS):
        bus.publish_envelope("t", event)
    bus.close(0.001)


armed = False
signal.signal(signal.SIGALRM, interrupt)
happened = 0
for seed in range(ROUNDS):
    bus = MemoryBus(MemoryConfig(max_in_flight=50, publish_timeout=20, delivery_timeout=0.1))
    bus.start(5)
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.Random(seed).uniform(1e-5, 4e-3))
        {what}(bus)
    except Interrupted:
        happened += 1
    armed = False

    # Whoever was interrupted, everything still works: a reader, a flush, a close.
    bus.broker.resume()
    rest = []
    reader = threading.Thread(
        target=lambda: rest.extend(bus.get_publish_result_channel()), daemon=True
    )
    reader.start()
    bus.close(20)
    reader.join(20)
    stats = bus.stats()
    assert not reader.is_alive(), (seed, "a reader hangs")
    assert bus.health().state == "closed", seed
    assert stats.in_flight == stats.queued == stats.dropped == 0, (seed, stats)
    assert stats.balanced, (seed, stats)
    if {what} is close:
        assert len(rest) == stats.accepted, (seed, len(rest))
assert happened > ROUNDS / 4, happened
"""


@pytest.mark.parametrize(
    "what", ["publish", "publish_sync", "flush", "get", "get_many", "close"]
)
@pytest.mark.parametrize(
    "rounds", [50, pytest.param(500, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_promise_1_and_2_exceptions_from_outside(what: str, rounds: int) -> None:
    """Ctrl-C, or Celery's soft time limit, at any moment of any call."""
    script = SCRIPT.format(what=what, rounds=rounds)
    # Coverage's tracer has a lock of its own, which is not proof against this.
    done = run_script(script, measured=False, timeout=240)
    assert done.returncode == 0, done.stderr
