"""Promise 8: a bus made before fork works in the child, and the parent's stays his."""

import pytest

from support.processes import run_script

from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


# Forks while the parent publishes from threads: in flight, during poll, mid-publish.
FORKS = """
    import collections, os, sys, threading
    from eventbus_sync import Envelope, EventBus, Outcome

    url, topic, children = sys.argv[1], sys.argv[2], int(sys.argv[3])
    bus = EventBus.from_url(url)
    channel = bus.get_publish_result_channel()

    def read(count):
        taken = []
        while len(taken) < count:
            batch = channel.get_many(1000, timeout=40)
            assert batch, "an outcome is missing"
            taken += batch
        return taken

    stop = threading.Event()
    sent = collections.Counter()

    def publish(name):
        while not stop.is_set():
            bus.publish_envelope(topic, Envelope(name, "Parent", 1, 0), timeout=20)
            sent[name] += 1

    threads = [threading.Thread(target=publish, args=(f"p{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    bus.publish_envelope_sync(topic, Envelope("p", "Warm", 1, 0))

    pids = []
    for child in range(children):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                assert bus.get_publish_result_channel() is channel
                assert channel.qsize() == 0, "the parent's results leaked"
                assert bus.stats().accepted == 0, "the parent's books leaked"
                for number in range(20):
                    bus.publish_envelope(
                        topic, Envelope(f"c{child}", "Child", 1, number), timeout=20
                    )
                mine = read(20)
                assert {r.aggregate_id for r in mine} == {f"c{child}"}
                assert all(r.outcome is Outcome.ACKED for r in mine), mine
                assert bus.stats().balanced
                bus.close(20)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    failed = [pid for pid in pids if os.waitpid(pid, 0)[1] != 0]
    stop.set()
    for thread in threads:
        thread.join()
    total = sum(sent.values())
    results = read(total)
    assert bus.stats().balanced
    assert {r.event_type for r in results} == {"Parent"}
    assert all(r.outcome is Outcome.ACKED for r in results)
    bus.close(20)
    assert not failed, f"{len(failed)} children failed"
    print(total)
"""


@pytest.mark.nats
def test_promise_8_nats_forked_children_publish(nats_server: NatsServer) -> None:
    """Children of a busy parent get their outcomes, and the parent all of his."""
    url = f"{nats_server.url}?stream=FORKS&subjects=forks"
    done = run_script(FORKS, url, "forks", "12", timeout=120, measured=False)

    assert done.returncode == 0, done.stderr
    stored = read_nats_stream(nats_server.url, "FORKS")
    assert len(stored) == len({e.event_id for e in stored})
    assert len(stored) == int(done.stdout) + 1 + 12 * 20


@pytest.mark.kafka
def test_promise_8_kafka_forked_children_publish(kafka_server: KafkaServer) -> None:
    """Children of a busy parent get their outcomes, and the parent all of his."""
    url = f"kafka://{kafka_server.bootstrap_servers}"
    done = run_script(FORKS, url, "forks", "12", timeout=120, measured=False)

    assert done.returncode == 0, done.stderr
    stored = read_kafka_topic(kafka_server.bootstrap_servers, "forks")
    assert len(stored) == len({e.event_id for e in stored})
    assert len(stored) == int(done.stdout) + 1 + 12 * 20


def test_promise_8_fork_during_close() -> None:
    """A child forked while the parent closes starts afresh; a closed bus stays so."""
    done = run_script(
        """
        import os, sys, threading
        from eventbus_sync import BusClosed, Envelope
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus()
        bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0))
        bus.broker.freeze()
        bus.publish_envelope("t", Envelope("a", "E", 1, 0))
        closer = threading.Thread(target=bus.close, args=(60,))
        closer.start()
        while bus.health().state != "draining":
            pass
        pid = os.fork()
        if pid == 0:
            bus.broker.resume()
            ok = bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0)).success
            os._exit(0 if ok else 1)
        assert os.waitpid(pid, 0)[1] == 0
        bus.broker.resume()
        closer.join()
        pid = os.fork()
        if pid == 0:
            try:
                bus.publish_envelope("t", Envelope("a", "E", 1, 0))
            except BusClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
        """,
        measured=False,
    )
    assert done.returncode == 0, done.stderr


def test_promise_8_without_the_fork_hook() -> None:
    """Where fork hooks do not run (uWSGI), the pid alone makes the child start anew."""
    done = run_script(
        """
        import os
        real, hooks = os.register_at_fork, []
        os.register_at_fork = lambda **kw: None
        from eventbus_sync import Envelope
        from eventbus_sync.testing import MemoryBus

        bus = MemoryBus()
        first = bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0))
        pid = os.fork()
        if pid == 0:
            assert bus.stats().accepted == 0
            result = bus.publish_envelope_sync("t", Envelope("a", "E", 1, 0))
            assert result.success and result.event_id != first.event_id
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        """
    )
    assert done.returncode == 0, done.stderr
