"""
The promises where they need a real broker, a real fork or the end of a process.

Each was seen to fail with the code broken on purpose; ``tests/breakages`` repeats that.
"""

import contextlib
import time

from collections.abc import Iterator

import pytest

from confluent_kafka import KafkaError
from conformance.suite import envelope, order_kept, read
from support.eventually import eventually
from support.patience import SLACK
from support.processes import run_script
from support.rigs import KafkaRig

from eventbus_sync import Outcome
from eventbus_sync.backends.kafka.backend import KafkaBackend
from eventbus_sync.errors import DestinationNotFound
from eventbus_sync.testing import KafkaServer, MockKafkaCluster


@pytest.fixture
def buses() -> Iterator[contextlib.ExitStack]:
    """Buses that are entered here are closed with the test."""
    with contextlib.ExitStack() as stack:
        yield stack


# -- promise 1: two roads --------------------------------------------------------------


@pytest.mark.kafka
def test_promise_1_kafka_a_refusal_is_an_outcome(buses: contextlib.ExitStack) -> None:
    """What the broker does not take is settled, also when the driver knew it before."""
    with MockKafkaCluster() as cluster:
        rig = KafkaRig(cluster.bootstrap_servers)
        bus = buses.enter_context(rig.bus(delivery_timeout=6))
        absent = rig.new_topic()
        cluster.set_topic_error(absent, KafkaError.UNKNOWN_TOPIC_OR_PART)
        for number in range(3):
            result = bus.publish_envelope_sync(absent, envelope(number))
            assert result.outcome is Outcome.REJECTED
            assert isinstance(result.error, DestinationNotFound)
        assert bus.stats().rejected == 3
        bus.close(5)


# -- promises 5 and 6: stored once, in order -------------------------------------------


@pytest.mark.kafka
def test_promise_5_and_6_kafka_what_is_sent_again_is_stored_once_and_in_order(
    fresh_kafka_server: KafkaServer, buses: contextlib.ExitStack
) -> None:
    """A broker frozen for longer than an attempt gets every event twice or more."""
    rig = KafkaRig(fresh_kafka_server.bootstrap_servers)
    bus = buses.enter_context(rig.bus(delivery_timeout=6))
    topic = rig.new_topic()
    assert bus.publish_envelope_sync(topic, envelope(0, "warm")).success
    assert bus._runtime is not None
    fresh_kafka_server.freeze()
    for number in range(100):
        bus.publish_envelope(topic, envelope(number))
    backend = bus._runtime.backend
    assert isinstance(backend, KafkaBackend)
    eventually(lambda: "Timed out" in backend._link.trouble, timeout=20)
    fresh_kafka_server.resume()

    assert all(result.success for result in read(bus, 100, timeout=15))
    stored = [entry for entry in rig.stored(topic) if entry[1] != "warm"]
    assert len(stored) == len({event_id for event_id, _, _ in stored}) == 100
    assert order_kept(stored)


# -- promise 8: fork-safe --------------------------------------------------------------


def test_promise_8_a_channel_from_before_the_fork_is_emptied_in_place() -> None:
    """Whoever only reads in the child sees nothing of the parent's, and then his own."""
    done = run_script(
        """
        import os, queue, signal, sys
        from eventbus_sync import Envelope
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus()
        channel = bus.get_publish_result_channel()
        bus.publish_envelope("t", Envelope("parent", "E", 1, 0))
        assert bus.flush(10) == 0
        bus.broker.freeze()
        bus.publish_envelope("t", Envelope("parent", "E", 1, 0))
        pid = os.fork()
        if pid == 0:
            status = 1
            signal.alarm(5)
            try:
                assert channel.qsize() == 0, "the parent's results leaked"
                try:
                    channel.get(timeout=0.01)
                except queue.Empty:
                    pass
                assert bus.get_publish_result_channel() is channel
                bus.broker.resume()
                bus.publish_envelope("t", Envelope("child", "E", 1, 0))
                assert channel.get(timeout=4).aggregate_id == "child"
                stats = bus.stats()
                assert (stats.accepted, stats.taken) == (1, 1), stats
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        bus.broker.resume()
        assert {r.aggregate_id for r in (channel.get(), channel.get())} == {"parent"}
        assert bus.stats().accepted == 2 and bus.stats().balanced
        assert status == 0, status
        """
    )
    assert done.returncode == 0, done.stderr


def test_promise_8_locks_that_are_held_at_the_fork_hold_up_nobody() -> None:
    """The threads that hold them do not exist in the child."""
    done = run_script(
        """
        import os, signal, sys, threading
        from eventbus_sync import Envelope
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus()
        channel = bus.get_publish_result_channel()
        bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0))
        runtime = bus._runtime
        locks = [
            bus._lock, bus._closing, channel.mutex, bus.broker.lock,
            runtime.in_flight._lock, runtime.observer._lock,
        ]
        held, release = threading.Event(), threading.Event()

        def hold():
            for lock in locks:
                lock.acquire()
            held.set()
            release.wait()
            for lock in locks:
                lock.release()

        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(5)
            assert bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0)).success
            bus.publish_envelope("t", Envelope("a", "E", 1, 0))
            assert channel.get(timeout=4).success
            bus.close(5)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        release.set()
        holder.join()
        assert bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0)).success
        assert status == 0, status
        """
    )
    assert done.returncode == 0, done.stderr


def test_promise_8_what_is_inherited_is_kept() -> None:
    """Freeing it would run the driver's destructors, in a child without its threads."""
    done = run_script(
        """
        import os, sys
        from eventbus_sync import Envelope, _lifecycle
        from eventbus_sync.testing import MemoryBus

        running, closed = MemoryBus(), MemoryBus()
        kept = []
        for bus in (running, closed):
            bus.start()
            kept.append(bus._runtime)
        closed.close()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert running._runtime is closed._final_runtime is None
                assert set(kept) == set(_lifecycle._abandoned)
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0
        assert _lifecycle._abandoned == []
        """
    )
    assert done.returncode == 0, done.stderr


# -- promise 9: clean exit -------------------------------------------------------------


def test_promise_9_a_process_ends_within_exit_timeout() -> None:
    """A broker that answers nothing costs exit_timeout, and what is left is named."""
    started = time.monotonic()
    done = run_script(
        """
        from eventbus_sync import Envelope, MemoryConfig
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus(MemoryConfig(exit_timeout=0.2))
        bus.broker.freeze()
        bus.publish_envelope("t", Envelope("a", "E", 1, 0))
        """
    )
    assert time.monotonic() - started < 0.2 + SLACK
    assert done.returncode == 0, done.stderr
    assert "closed with 1 events unanswered" in done.stderr


def test_promise_9_a_process_flushes_before_it_ends() -> None:
    """What is on its way when the main thread ends gets its outcome, and is told."""
    done = run_script(
        """
        from eventbus_sync import Envelope, MemoryConfig
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus(MemoryConfig(latency=0.3))
        bus.register_publish_callback(lambda r: print(r.event_id, r.outcome.value))
        for number in range(3):
            bus.publish_envelope("t", Envelope("a", "E", 1, 0, event_id=str(number)))
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["0 acked", "1 acked", "2 acked", ""]
    assert done.stderr == ""


def test_promise_9_a_reader_of_an_unused_bus_is_told_the_end() -> None:
    """Though nothing was ever published: the process ends, and the channel does."""
    done = run_script(
        """
        import threading
        from eventbus_sync import ResultChannelClosed
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus()
        channel = bus.get_publish_result_channel()

        def read():
            try:
                channel.get()
            except ResultChannelClosed:
                print("the end")

        threading.Thread(target=read).start()
        """,
        timeout=5 + SLACK,
    )
    assert (done.returncode, done.stdout) == (0, "the end\n"), done.stderr
