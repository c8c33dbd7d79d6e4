"""Fork and exit hooks, and what a bus does where threads are not threads."""

import atexit
import gc
import os
import pickle
import sys
import threading
import types

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from support.eventually import eventually
from support.processes import run_script

from eventbus_sync import (
    BusClosed,
    ConfigError,
    Envelope,
    EventBus,
    EventBusError,
    KafkaConfig,
    MemoryConfig,
    _lifecycle,
)
from eventbus_sync._inflight import InFlight
from eventbus_sync._threads import Deadline, WaitList, join_all, own_workers, spawn
from eventbus_sync.backends.base import OutgoingMessage
from eventbus_sync.config import BusConfig
from eventbus_sync.errors import BrokerFull, StartFailed
from eventbus_sync.testing import MemoryBus


def event() -> Envelope:
    """Return some event."""
    return Envelope("order-1", "OrderCreated", 1, {"n": 1})


@pytest.fixture
def bus() -> Iterator[MemoryBus]:
    """A bus that has been used."""
    bus = MemoryBus(MemoryConfig(exit_timeout=0.2))
    assert bus.publish_envelope_sync("orders", event()).success
    yield bus
    bus.broker.resume()
    bus.close(5)


@pytest.mark.parametrize(
    ("module", "test", "name"),
    [
        # gevent 26 answers to these names, and not to "thread".
        *(
            ("gevent.monkey", "is_module_patched", name)
            for name in ("_thread", "threading", "queue", "select", "selectors")
        ),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
        ("eventlet.patcher", "is_monkey_patched", "select"),
    ],
)
def test_green_threads_are_refused(
    monkeypatch: pytest.MonkeyPatch, module: str, test: str, name: str
) -> None:
    """Where what we stand on was patched the first use says so, instead of a hang."""
    patcher = types.ModuleType(module)
    patched = [True]
    setattr(patcher, test, lambda what: what == name and patched[0])
    bus = MemoryBus()
    monkeypatch.setitem(sys.modules, module, patcher)
    with pytest.raises(ConfigError, match=f"monkey-patched {name},"):
        MemoryBus()
    with pytest.raises(ConfigError, match=f"monkey-patched {name},"):
        bus.publish_envelope("orders", event())
    assert bus.stats().accepted == 0

    patched[0] = False
    assert bus.publish_envelope_sync("orders", event()).success
    bus.close(5)


@pytest.mark.parametrize(
    ("said", "raised", "text"),
    [
        (
            "can't create new thread at interpreter shutdown",
            BusClosed,
            "cannot start, the process is ending",
        ),
        ("can't start new thread", StartFailed, "can't start new thread"),
    ],
    ids=["shutdown", "limit"],
)
def test_no_thread_can_be_had(
    monkeypatch: pytest.MonkeyPatch,
    said: str,
    raised: type[EventBusError],
    text: str,
) -> None:
    """A bus that cannot start its threads says why; the next use tries again."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(threading.Thread, "start", start)
    bus = MemoryBus()
    with pytest.raises(raised, match=text):
        bus.publish_envelope("orders", event())
    monkeypatch.undo()
    assert bus.publish_envelope_sync("orders", event()).success
    bus.close(5)


def test_promise_9_the_exit_hook_closes(bus: MemoryBus) -> None:
    """The hook flushes and closes what runs, within exit_timeout, and once."""
    bus.publish_envelope("orders", event())
    bus._at_exit(0.0)
    assert bus.health().state == "closed"
    bus._at_exit(0.0)
    assert bus.stats().balanced


def test_promise_9_the_exit_hook_of_a_parent_does_nothing(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that inherited the hook does not close what belongs to the parent."""
    monkeypatch.setattr("os.getpid", lambda: -1)
    bus._at_exit(0.0)
    monkeypatch.undo()
    assert bus.health().state == "running"


def test_promise_9_publishers_are_waited_for_and_readers_are_not(
    bus: MemoryBus,
) -> None:
    """At exit the application's threads finish first, unless they wait for us."""
    go, published = threading.Event(), threading.Event()

    def publish() -> None:
        go.wait(10)
        bus.publish_envelope("orders", event())
        published.set()

    channel = bus.get_publish_result_channel()
    reader = threading.Thread(target=lambda: list(channel))
    publisher = threading.Thread(target=publish)
    reader.start()
    publisher.start()
    eventually(lambda: reader.ident in channel._waiting)
    threading.Timer(0.05, go.set).start()
    _lifecycle._wait_for_publishers()
    assert published.is_set()
    publisher.join()
    bus.close(5)
    reader.join(10)
    assert not reader.is_alive()


def test_promise_9_a_thread_that_publishes_nothing_is_not_waited_for(
    bus: MemoryBus,
) -> None:
    """A thread that may depend on our end holds us up for exit_timeout at most."""
    release = threading.Event()
    thread = threading.Thread(target=lambda: release.wait(30))
    thread.start()
    assert bus._config.exit_timeout == 0.2
    _lifecycle._wait_for_publishers()
    assert thread.is_alive()
    release.set()
    thread.join()


def test_the_exit_hook_falls_back_to_atexit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threading refuses the hook (too late, or gone), atexit takes it."""

    def refuse(_: object) -> None:
        msg = "can't register atexit after shutdown"
        raise RuntimeError(msg)

    taken: list[object] = []
    monkeypatch.setattr(atexit, "register", taken.append)
    monkeypatch.setattr(threading, "_register_atexit", refuse)
    monkeypatch.setattr(_lifecycle, "_exit_hook_registered", False)
    _lifecycle.register_exit_hook()
    assert taken == [_lifecycle._at_exit]


def test_promise_9_exit_with_many_buses_shares_the_time() -> None:
    """Ten frozen buses end together within one exit_timeout, not one after another."""
    done = run_script(
        """
        from eventbus_sync import Envelope, MemoryConfig
        from eventbus_sync.testing import MemoryBus
        import time
        buses = [MemoryBus(MemoryConfig(exit_timeout=2, name=f"b{n}")) for n in range(10)]
        for bus in buses:
            bus.start()
            bus.broker.freeze()
            bus.publish_envelope("t", Envelope("a", "E", 1, 0))
        """,
        timeout=15,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("closed with 1 events unanswered") == 10


def test_threads_are_named_daemons_and_joined_within_one_deadline() -> None:
    """Spawned are daemon threads; join_all says who is still alive in the end."""
    release = threading.Event()
    threads = [spawn(f"t-{n}", lambda: release.wait(30)) for n in range(3)]
    assert all(thread.daemon for thread in threads)
    assert join_all(threads, Deadline.after(0.02)) == ["t-0", "t-1", "t-2"]
    release.set()
    assert join_all(threads, Deadline.after(10)) == []


def test_deadlines_never_go_below_zero() -> None:
    """A deadline that has passed leaves nothing, and says so."""
    assert Deadline(0.0).remaining() == 0.0
    assert Deadline(0.0).expired()
    assert not Deadline.after(60).expired()
    assert 0 < Deadline.after(60).remaining() <= 60


def test_a_bus_cannot_be_pickled_and_says_what_to_do() -> None:
    """Its events belong to this process; its configuration may travel."""
    bus = MemoryBus(MemoryConfig(name="x"))
    with pytest.raises(TypeError, match="Give the other process the configuration"):
        pickle.dumps(bus)
    assert pickle.loads(pickle.dumps(bus._config)) == bus._config


def test_promise_9_a_reader_of_an_unused_bus_ends_with_the_process() -> None:
    """A thread that reads a channel on which nothing ever comes holds nobody up."""
    done = run_script(
        """
        import threading
        from eventbus_sync.testing import MemoryBus
        bus = MemoryBus()
        channel = bus.get_publish_result_channel()
        threading.Thread(target=lambda: [None for _ in channel]).start()
        """,
        timeout=20,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError])
def test_a_start_that_fails_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Interrupted or refused half way, the first use leaves nothing behind."""
    before = set(threading.enumerate())
    bus = MemoryBus()

    def fail(_: object) -> None:
        raise error

    monkeypatch.setattr("eventbus_sync.backends.memory.MemoryBackend.start", fail)
    with pytest.raises(error):
        bus.publish_envelope("orders", event())
    monkeypatch.undo()
    eventually(lambda: set(threading.enumerate()) <= before)
    assert bus.publish_envelope_sync("orders", event()).success
    bus.close(5)


def test_a_second_closer_waits_no_longer_than_it_may(bus: MemoryBus) -> None:
    """While another thread closes, close(0) returns; closed it is all the same."""
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    first = threading.Thread(target=bus.close, args=(1.0,))
    first.start()
    eventually(lambda: bus.health().state == "draining")
    bus.close(0)
    assert bus.health().state == "draining"
    first.join(30)
    assert bus.health().state == "closed"


def test_two_threads_start_a_bus_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes second finds the bus that the first one has started."""
    bus = MemoryBus()
    entered, go = threading.Event(), threading.Event()
    real = MemoryBus._new_runtime

    def slow(self: MemoryBus) -> object:
        entered.set()
        assert go.wait(10)
        return real(self)

    monkeypatch.setattr(MemoryBus, "_new_runtime", slow)
    threads = [threading.Thread(target=bus.start) for _ in range(2)]
    threads[0].start()
    assert entered.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert [t.name for t in threading.enumerate()].count("eventbus-memory") == 1
    bus.close(5)


def test_the_fork_hook_does_nothing_in_the_parent(bus: MemoryBus) -> None:
    """Called where the pid has not changed, the bus keeps what it has."""
    bus._after_fork_in_child()
    assert bus.stats().accepted == 1
    assert bus.health().state == "running"


def test_drivers_are_found_by_the_kind_of_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing driver and a foreign configuration are errors that say what to do."""
    monkeypatch.setitem(sys.modules, "eventbus_sync.backends.kafka.backend", None)
    bus = EventBus(KafkaConfig(bootstrap_servers="127.0.0.1:1"))
    with pytest.raises(ConfigError, match="pip install"):
        bus.publish_envelope("orders", event())
    with pytest.raises(ConfigError, match="not BusConfig"):
        EventBus(BusConfig()).publish_envelope("orders", event())


def test_from_env_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus for EVENTBUS_URL and the settings beside it."""
    monkeypatch.setenv("EVENTBUS_URL", "memory://")
    monkeypatch.setenv("EVENTBUS_NAME", "shop")
    with EventBus.from_env() as bus:
        assert bus.publish_envelope_sync("orders", event()).success
        assert "shop-memory" in [thread.name for thread in threading.enumerate()]


def test_memory_brokers_forget_on_command(bus: MemoryBus) -> None:
    """clear() forgets messages and commands, and lets a frozen broker go on."""
    bus.broker.freeze()
    bus.broker.reject(BrokerFull())
    bus.publish_envelope("orders", event())
    bus.broker.clear()
    assert bus.flush(10) == 0
    assert len(bus.broker.messages()) == 1
    assert bus.stats().rejected == 0


def test_a_back_end_that_closes_refuses(bus: MemoryBus) -> None:
    """What comes after its close is raised, never kept."""
    assert bus._runtime is not None
    backend = bus._runtime.backend
    backend.close(Deadline.after(5))
    with pytest.raises(BusClosed):
        backend.send_plain(OutgoingMessage("t", "", b"", [], "", 0), Deadline.after(1))
    bus._runtime.connected()
    bus._runtime.connected()
    assert bus.health().reconnects == 0


def test_promise_9_ctrl_c_ends_the_wait_for_publishers_not_the_flush(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does whatever else goes wrong while others are waited for."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_lifecycle, "_wait_for_publishers", interrupted)
    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    _lifecycle._at_exit()
    assert bus.health().state == "closed"
    assert bus.stats().unknown == 1
    assert "interrupted while threads still publish" in caplog.text
    assert "closed with 1 events unanswered" in caplog.text


def test_promise_9_ctrl_c_ends_the_wait_of_the_flush_not_its_books(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The impatient second one: what is left is settled at once, and said."""
    waits = iter([KeyboardInterrupt])
    wait_settled = InFlight.wait_settled

    def interrupted(table: InFlight, deadline: Deadline) -> int:
        for error in waits:
            raise error
        assert deadline.remaining() == 0
        return wait_settled(table, deadline)

    bus.broker.freeze()
    bus.publish_envelope("orders", event())
    monkeypatch.setattr(InFlight, "wait_settled", interrupted)
    _lifecycle._at_exit()
    assert bus.health().state == "closed"
    assert bus.stats().unknown == 1
    assert "closed with 1 events unanswered" in caplog.text


def test_promise_9_idle_executors_are_not_waited_for() -> None:
    """Whether of threads or processes; their hook ends them, and comes after ours."""
    with (
        ThreadPoolExecutor(1, thread_name_prefix="eventbus-tasks") as threads,
        ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes,
    ):
        assert threads.submit(abs, -1).result() == processes.submit(abs, -1).result()
        manager: Any = processes._executor_manager_thread
        known = set(threads._threads) | {manager}
        eventually(lambda: known <= _lifecycle._idle_executor_threads())
        busy, go_on = threading.Event(), threading.Event()

        def work() -> None:
            busy.set()
            go_on.wait()

        threads.submit(work)
        busy.wait()
        assert not set(threads._threads) & _lifecycle._idle_executor_threads()
        go_on.set()
        slow = processes.submit(sorted, range(3_000_000))
        assert manager not in _lifecycle._idle_executor_threads()
        assert len(slow.result()) == 3_000_000


def test_promise_9_without_executors_none_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Looking for their threads does not load them."""
    for module in ("thread", "process"):
        monkeypatch.delitem(sys.modules, f"concurrent.futures.{module}", raising=False)
    assert _lifecycle._idle_executor_threads() == set(own_workers)
    assert "concurrent.futures.thread" not in sys.modules


def test_waiting_threads_are_woken_once_and_forgotten() -> None:
    """A wake-up that was interrupted is done again; tickets are released once only."""
    waiting = WaitList()
    woken, asleep = waiting.enlist_locked(), waiting.enlist_locked()
    woken.release()
    waiting.wake_all_locked()
    assert not woken.locked()
    assert not asleep.locked()
    assert len(waiting) == 0


def test_promise_8_a_channel_whose_bus_was_dropped_is_emptied_too() -> None:
    """The bus runs, so it lives; nothing but us holds it, and somebody its channel."""
    bus = MemoryBus()
    channel = bus.get_publish_result_channel()
    bus.publish_envelope("orders", event())
    bus.flush(10)
    del bus
    gc.collect()
    pid = os.fork()
    if pid == 0:
        os._exit(channel.qsize())
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert channel.get(timeout=10).success
    for running in list(_lifecycle._running):
        running.close(5)  # type: ignore[attr-defined]
