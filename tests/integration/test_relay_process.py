"""A relay in a process: Ctrl-C in ``run``, fork, and the end of the interpreter."""

from pathlib import Path

from support.processes import run_script


# A script has no pytest to put this folder on its path.
FIND_SUPPORT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
"""

PREPARE = """
import os, signal, sys, threading, time
from support.relay_store import MemoryStore
from eventbus_sync import Envelope, MemoryConfig
from eventbus_sync.outbox import OutboxRelay
from eventbus_sync.outbox.record import RowState
from eventbus_sync.testing import MemoryBus

DELIVERY_TIMEOUT = int(sys.argv[1]) if len(sys.argv) > 1 else 5
store = MemoryStore()
bus = MemoryBus(
    MemoryConfig(
        delivery_timeout=DELIVERY_TIMEOUT, close_timeout=0, exit_timeout=0.2
    )
)
relay = OutboxRelay(store, bus, lease=DELIVERY_TIMEOUT + 25)
store.add("t", *[Envelope(f"a{n % 5}", "E", 1, n) for n in range(100)])

def published():
    return store.count(RowState.PUBLISHED)

def until(check):
    for _ in range(1000):
        if check():
            return
        time.sleep(0.01)
    sys.exit("never: " + repr(relay.stats()))
"""


def test_ctrl_c_stops_run_in_good_order_and_is_raised() -> None:
    done = run_script(
        FIND_SUPPORT
        + PREPARE
        + """
def interrupt():
    until(lambda: relay.stats().in_flight == 5)
    os.kill(os.getpid(), signal.SIGINT)

bus.broker.delay(0.3)
threading.Thread(target=interrupt).start()
try:
    relay.run()
except KeyboardInterrupt:
    print(relay.stats().state, store.leased(), published() % 5, published() > 0)
""",
        measured=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "stopped 0 0 True\n"


def test_a_second_ctrl_c_ends_run_at_once() -> None:
    """Without it, ``run`` would wait for the outcome longer than the script may take."""
    done = run_script(
        FIND_SUPPORT
        + PREPARE
        + """
def interrupt():
    until(lambda: relay.stats().in_flight == 5)
    os.kill(os.getpid(), signal.SIGINT)
    until(lambda: relay.stats().state == "stopping")
    until(lambda: store.leased() == 5)  # the rest was given back: it waits
    os.kill(os.getpid(), signal.SIGINT)

bus.broker.freeze()
threading.Thread(target=interrupt).start()
try:
    relay.run()
except KeyboardInterrupt:
    print("ended")
""",
        "600",
        measured=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ended\n"


def test_after_a_fork_the_rows_are_the_parents_and_the_child_can_start_anew() -> None:
    done = run_script(
        FIND_SUPPORT
        + PREPARE
        + """
bus.broker.freeze()
relay.start()
until(lambda: relay.stats().in_flight == 5)
store.lock.acquire()  # the test's own store: nobody else holds it at the fork
pid = os.fork()
store.lock.release()
if pid == 0:
    status = 1
    try:
        signal.alarm(20)
        stats = relay.stats()
        assert (stats.state, stats.held, stats.claimed) == ("new", 0, 0), stats
        bus.broker.resume()
        store.add("t", *[Envelope("child", "E", 1, n) for n in range(10)])
        assert relay.drain(10)
        assert relay.stats().published == 10, relay.stats()
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)
assert os.waitpid(pid, 0)[1] == 0
bus.broker.resume()
assert relay.drain(10)
assert published() == 100
relay.stop()
""",
        measured=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_interpreter_that_ends_is_not_held_up() -> None:
    done = run_script(
        FIND_SUPPORT + PREPARE + "relay.start(); until(lambda: published() == 100)\n"
    )
    assert done.returncode == 0, done.stderr
