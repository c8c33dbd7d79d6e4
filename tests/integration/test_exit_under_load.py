"""Promise 9 with hundreds of events in flight: programs that end without closing their bus."""

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.stored import BROKERS, place_on


# The server stands still from the middle on, and goes on when the program is ending.
PROGRAM = (
    FIND_SUPPORT
    + """
import multiprocessing, os, signal, subprocess, threading
from eventbus_sync import EventBus

url, topic, folder, server, way = sys.argv[1:6]


def publish_from_four_threads(keeper, count):
    def run(line):
        for number in range(count):
            keeper.publish(line)

    threads = [threading.Thread(target=run, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def work():
    keeper = Keeper(EventBus.from_url(url), topic, folder)
    publish_from_four_threads(keeper, 500)
    os.kill(int(server), signal.SIGSTOP)
    publish_from_four_threads(keeper, 250)
    assert keeper.bus.stats().in_flight >= 500  # answers on their way still count
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {server}"])


if way == "multiprocessing":
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    child.join()
    assert child.exitcode == 0
else:
    work()
if way == "sys.exit":
    sys.exit(3)
if way == "exception":
    raise LookupError("a bug")
"""
)

WAYS = {"return": 0, "sys.exit": 3, "exception": 1, "multiprocessing": 0}


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("way", WAYS)
def test_promise_9_what_is_in_flight_at_exit_is_stored(
    way: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """Each event, once, and in the order in which its thread published it."""
    server = request.getfixturevalue(f"fresh_{broker}_server")
    place = place_on(broker, request, fresh=True)
    pid = server.pid if broker == "nats" else server._real("its pid").pid
    url = f"{place.url}&exit_timeout=30"
    done = run_script(
        PROGRAM,
        url,
        place.topic,
        str(place.folder),
        str(pid),
        way,
        measured=way != "multiprocessing",
    )
    assert done.returncode == WAYS[way], done.stderr
    assert ("LookupError: a bug" in done.stderr) == (way == "exception")
    books = place.balance(told=False, tidy=False)
    assert len(books.accepted) == 3000
