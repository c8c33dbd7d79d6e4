"""Exceptions injected into publishing threads, with real brokers behind them."""

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.stored import BROKERS, place_on


# Every few milliseconds one of three publishers gets an exception, as Celery's soft time
# limit does it in threads; where it lands, chance decides.
SCRIPT = (
    FIND_SUPPORT
    + """
import ctypes, random, threading, time
from eventbus_sync import EventBus

url, topic, folder, times = sys.argv[1:5]
keeper = Keeper(EventBus.from_url(url), topic, folder)
reader = keeper.start_reader()
stop, happened = threading.Event(), [0, 0, 0]


class Interrupted(Exception):  # as Celery's is
    pass


def publish(index):
    # Interrupts that land between two calls, or in the except block, are lost too.
    while not stop.is_set():
        try:
            while not stop.is_set():
                keeper.publish(str(index))
        except Interrupted:
            happened[index] += 1


def persist(index):
    while not stop.is_set():
        try:
            publish(index)
        except Interrupted:
            happened[index] += 1


# One that lands where nothing catches it any more ends its thread.
threading.excepthook = lambda _: None


def start(index):
    thread = threading.Thread(target=persist, args=(index,))
    thread.start()
    return thread


def interrupt(thread):
    # The number of a thread that has ended is soon another one's, who must not be hit
    # before it can catch anything: nobody else runs between the look and the exception.
    sys.setswitchinterval(60)
    try:
        if thread.is_alive():
            inject(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))
    finally:
        sys.setswitchinterval(0.005)


threads = [start(index) for index in range(3)]
source = random.Random(5)
inject = ctypes.pythonapi.PyThreadState_SetAsyncExc
while keeper.bus.stats().taken < 3000:  # until all threads of the bus are there
    time.sleep(0.01)
while sum(happened) < int(times):
    index = source.randrange(3)
    if not threads[index].is_alive():
        happened[index] += 1
        threads[index] = start(index)
    interrupt(threads[index])
    time.sleep(source.uniform(0.0005, 0.004))
stop.set()
for thread in threads:
    thread.join(30)
    assert not thread.is_alive(), "a publisher hangs"
keeper.end(reader=reader)
"""
)


# The first use imports the driver, which takes a hundred times as long as the timer.
FIRST_USE = (
    FIND_SUPPORT
    + """
import signal
from eventbus_sync import EventBus

class Interrupted(BaseException):
    pass

def interrupt(*_):
    raise Interrupted

signal.signal(signal.SIGALRM, interrupt)
keeper = Keeper(EventBus.from_url(sys.argv[1]), *sys.argv[2:4])
happened = 0
for seconds in (0.002, 0.005, 0.01, 0.02, 30):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        keeper.publish()
    except Interrupted:
        happened += 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert happened, "it was too late"
reader = keeper.start_reader()
keeper.end(reader=reader)
"""
)


@pytest.mark.parametrize("broker", BROKERS)
def test_promise_1_the_first_use_is_interrupted(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """A driver that is only half imported would be no good for ever."""
    place = place_on(broker, request, fresh=False)
    done = run_script(
        FIRST_USE, *(place.url, place.topic, str(place.folder)), measured=False
    )
    assert done.returncode == 0, done.stderr
    assert place.balance().ids("acked")


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize(
    "times", [200, pytest.param(600, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_promise_1_2_and_6_exceptions_in_publishing_threads(
    broker: str, times: int, request: pytest.FixtureRequest
) -> None:
    """What was accepted has its outcome; what was not is not stored; nothing hangs."""
    place = place_on(broker, request, fresh=False)
    # What was interrupted before the send is unknown then.
    url = f"{place.url}&delivery_timeout=5"
    done = run_script(
        SCRIPT,
        *(url, place.topic, str(place.folder), str(times)),
        timeout=120,
        measured=False,
    )
    assert done.returncode == 0, done.stderr
    books = place.balance()
    [(_, stats)] = books.closed
    # Some were accepted although the call was interrupted: they have outcomes, too.
    assert stats["accepted"] == len(books.outcomes) >= len(books.accepted) > times
    assert len(books.tried) > len(books.accepted)
