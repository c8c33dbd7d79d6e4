"""The conformance suite as others use it: its docstring's ten lines, a rig of one's own."""

import textwrap

from pathlib import Path

import pytest

import eventbus_sync

from eventbus_sync.testing import conformance
from eventbus_sync.testing.conformance import BackendConformance


pytest_plugins = ["pytester"]

PLUGIN = 'pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]\n'
TESTS = len([name for name in dir(BackendConformance) if name.startswith("test_")])

OWN_RIG = """
import pytest

from eventbus_sync import EventBus
from eventbus_sync.testing import MemoryBus
from eventbus_sync.testing.conformance import BackendConformance, MemoryRig

class NoFreeze(MemoryRig):
    def __init__(self):
        super().__init__()
        self._freeze = self._resume = None

class Forgetful(NoFreeze):
    def stored(self, topic):
        return super().stored(topic)[1:]

class TestOurs(BackendConformance):
    @pytest.fixture
    def rig(self):
        return NoFreeze()

class TestBroken(BackendConformance):
    @pytest.fixture
    def rig(self):
        return Forgetful()
"""

# A fourth back end from nothing: one thread, and a list for a broker.
OWN_BACK_END = """
import itertools, queue, threading
import attrs, pytest
from eventbus_sync import BusClosed, EnvelopeError, EventBus
from eventbus_sync.backends.base import Ack
from eventbus_sync.config import BusConfig
from eventbus_sync.errors import Abandoned
from eventbus_sync.testing.conformance import BackendConformance, Rig


@attrs.frozen(kw_only=True)
class ListConfig(BusConfig):
    broker: list

    def make_backend(self, sink):
        return ListBackend(self, sink)


class ListBackend:
    def __init__(self, config, sink):
        self.config, self.sink, self.thread = config, sink, None
        self.lock, self.queue, self.closing = threading.Lock(), queue.SimpleQueue(), False

    def start(self):
        self.thread = threading.Thread(
            target=self.run, name=f"{self.config.name}-list", daemon=True
        )
        self.thread.start()

    def check(self, deadline):
        pass

    def check_topic(self, topic):
        if not topic.isprintable() or " " in topic:
            raise EnvelopeError(f"topic {topic!r} is no name", field="topic")

    def check_headers(self, headers):
        pass

    def send(self, message, delivery, deadline):
        with self.lock:
            if self.closing:
                raise BusClosed
            self.queue.put((message, delivery))

    def send_plain(self, message, deadline):
        self.send(message, None, deadline)

    def close(self, deadline):
        with self.lock:
            self.closing = True
            self.queue.put(None)
        if self.thread:
            self.thread.join(deadline.remaining())

    def run(self):
        self.sink.connected()
        while True:
            try:
                item = self.queue.get(timeout=0.2)
            except queue.Empty:
                self.sink.expire()
                continue
            if item is None:
                return
            message, delivery = item
            place = len(self.config.broker)
            self.config.broker.append(message)
            if delivery is not None:
                self.sink.settle([(delivery, Ack(0, place))])
"""

OWN_SUITE = """

class ListRig(Rig):
    def __init__(self):
        super().__init__()
        self.broker = []

    def bus(self, **settings):
        return EventBus(ListConfig(broker=self.broker, **settings))

    def stored(self, topic):
        return [(m.event_id, m.key, m.value) for m in self.broker if m.topic == topic]


class TestOurs(BackendConformance):
    @pytest.fixture
    def rig(self):
        return ListRig()
"""


@pytest.fixture
def suite(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A user's suite, run in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", str(Path(eventbus_sync.__file__).parents[1]))
    pytester.makeconftest(PLUGIN)
    return pytester


@pytest.mark.nats
def test_the_ten_lines_of_the_docstring(suite: pytest.Pytester) -> None:
    """They run every test of the suite on a real server, and all pass."""
    documented = conformance.__doc__ or ""
    example = documented.partition("::\n\n")[2].partition("\n\n``KafkaRig``")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    suite.makepyfile(textwrap.dedent(example))
    result = suite.runpytest_subprocess("-Werror", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=TESTS)


def test_a_rig_without_outages(suite: pytest.Pytester) -> None:
    """What needs a frozen broker is skipped, with advice; what is lost is found."""
    suite.makepyfile(OWN_RIG)
    result = suite.runpytest_subprocess("-Werror", "-rs", "-k", "TestOurs")
    outcomes = result.parseoutcomes()
    assert outcomes["passed"] + outcomes["skipped"] == TESTS
    assert outcomes["skipped"] == 4
    result.stdout.fnmatch_lines("*give its rig freeze and resume*")


def test_a_back_end_that_loses_events_fails(suite: pytest.Pytester) -> None:
    """A failed assert shows its values, as in a test module."""
    suite.makepyfile(OWN_RIG)
    result = suite.runpytest_subprocess("-k", "TestBroken and 6_order_per")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines("*assert 1999 == *2000*")


def test_a_fourth_back_end(suite: pytest.Pytester) -> None:
    """One that keeps the contract passes, plugged in by a configuration of its own."""
    suite.makepyfile(OWN_BACK_END + OWN_SUITE)
    outcomes = suite.runpytest_subprocess("-Werror", "-rs").parseoutcomes()
    assert outcomes.keys() == {"passed", "skipped"}
    assert outcomes["passed"] + outcomes["skipped"] == TESTS
    assert outcomes["skipped"] == 4


def test_a_fourth_back_end_without_order_fails(suite: pytest.Pytester) -> None:
    suite.makepyfile(OWN_BACK_END.replace(".append(", ".insert(0, ") + OWN_SUITE)
    suite.runpytest_subprocess("-k", "6_order_per").assert_outcomes(failed=1)
