"""Promise 8 at bad moments: in flight, during poll, during close; and many children."""

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.stored import BROKERS, place_on


# Children that get their outcomes; the parent's are nobody's but the parent's.
CHILDREN = (
    FIND_SUPPORT
    + """
import os, signal, threading, time
from eventbus_sync import BusClosed, EventBus

url, topic, folder, server, children = sys.argv[1:6]
keeper = Keeper(EventBus.from_url(url), topic, folder)
bus, server, children = keeper.bus, int(server), int(children)


def as_child(events):
    status = 1
    try:
        signal.alarm(60)  # a hang is a failure, and not for ever
        assert bus.get_publish_result_channel().qsize() == 0, "the parent's results"
        assert bus.stats().accepted == 0, "the parent's books"
        for number in range(events):
            keeper.publish("child")
        assert keeper.read(events) == events, bus.stats()
        keeper.end()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def fork(events=5):
    return os.fork() or as_child(events)


def failed(pids):
    return [pid for pid in pids if os.waitpid(pid, 0)[1] != 0]
"""
)

MOMENTS = {
    # The server stands still: everything is in flight, nothing can be acknowledged.
    "in flight": """
keeper.publish("warm")
os.kill(server, signal.SIGSTOP)
for number in range(1000):
    keeper.publish("parent")
assert bus.stats().in_flight >= 1000
pids = [fork() for _ in range(children)]
os.kill(server, signal.SIGCONT)
failures = failed(pids)
keeper.read(1001)
keeper.end()
""",
    # Reports come in all the time, while three threads publish.
    "during poll": """
stop, reader = threading.Event(), keeper.start_reader()
def publish(line):
    while not stop.is_set():
        keeper.publish(line)
threads = [threading.Thread(target=publish, args=(f"p{n}",)) for n in range(3)]
for thread in threads:
    thread.start()
while bus.stats().taken < 10:
    time.sleep(0.001)
failures = []
for _ in range(0, children, 10):
    failures += failed([fork() for _ in range(10)])
stop.set()
for thread in threads:
    thread.join()
keeper.end(reader=reader)
""",
    # Some of them fork before the bus is closed, some after; closed is final for those.
    "during close": """
keeper.publish("warm")
os.kill(server, signal.SIGSTOP)
for number in range(1000):
    keeper.publish("parent")
reader = keeper.start_reader()
closer = threading.Thread(target=keeper.end, args=(20, reader))
closer.start()
while bus.health().state != "draining":
    time.sleep(0.001)
pids = [fork() for _ in range(children)]
os.kill(server, signal.SIGCONT)
closer.join()
failures = failed(pids)
if os.fork() == 0:
    try:
        keeper.publish("late")
    except BusClosed:
        os._exit(0)
    os._exit(1)
assert os.wait()[1] == 0
""",
}


def fork_at(
    moment: str, broker: str, children: int, request: pytest.FixtureRequest
) -> None:
    """Run the moment and balance the books of all processes."""
    place = place_on(broker, request, fresh=True)
    server = request.getfixturevalue(f"fresh_{broker}_server")
    pid = server.pid if broker == "nats" else server._real("its pid").pid
    done = run_script(
        CHILDREN + MOMENTS[moment] + "assert not failures, failures\n",
        *(place.url, place.topic, str(place.folder), str(pid), str(children)),
        timeout=240,
        measured=False,
    )
    assert done.returncode == 0, done.stderr
    books = place.balance()
    assert len(books.processes) == children + 1
    assert len(books.accepted) > 5 * children + 10
    assert books.ids("acked") == {event_id for _, event_id in books.accepted}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("moment", sorted(MOMENTS))
def test_promise_8_fork_at_a_bad_moment(
    moment: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """Each child publishes and is told; the parent loses nothing, and gains nothing."""
    fork_at(moment, broker, 10, request)


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_promise_8_two_hundred_children(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """One after another from a busy parent: none hangs, none loses or doubles events."""
    fork_at("during poll", broker, 200, request)
