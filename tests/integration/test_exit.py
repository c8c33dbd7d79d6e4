"""Promise 9: a process that ends without close flushes, and says what it left."""

import textwrap

import pytest

from support.processes import run_script

from eventbus_sync.testing import KafkaServer, NatsServer
from eventbus_sync.testing.readback import read_kafka_topic, read_nats_stream


EVENTS = 500

PUBLISH = """
    import sys
    from eventbus_sync import Envelope, EventBus

    bus = EventBus.from_url(sys.argv[1])
    topic, count = sys.argv[2], int(sys.argv[3])

    def publish():
        for number in range(count):
            bus.publish_envelope(topic, Envelope(f"o-{number % 7}", "Made", 1, number))

    def settled():
        stats = bus.stats()
        return stats.acked, stats.balanced
"""

ENDINGS = {
    "return": ("publish()", 0),
    "exception": ("publish()\nraise ValueError('the application failed')", 1),
    "sys.exit": ("publish()\nsys.exit(3)", 3),
    "thread": (
        # The main thread ends first; the publisher is a non-daemon thread.
        (
            "import threading\n"
            "bus.publish_envelope_sync(topic + '-parent', Envelope('p', 'Made', 1, 0))\n"
            "ended = threading.Event()\n"
            "threading._register_atexit(ended.set)\n"  # the last one is called first
            "def later():\n    ended.wait()\n    publish()\n"
            "threading.Thread(target=later).start()"
        ),
        0,
    ),
    "a reader that waits for the end": (
        # A non-daemon thread which only the end of the channel can end.
        (
            "import threading\n"
            "channel = bus.get_publish_result_channel()\n"
            "threading.Thread(target=lambda: [None for _ in channel]).start()\n"
            "publish()"
        ),
        0,
    ),
    "an executor": (
        (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "executor = ThreadPoolExecutor(2)\n"
            "executor.submit(publish).result()"
        ),
        0,
    ),
    "tasks of an executor": (
        # They still publish, and wait to be run, when the main thread has ended.
        (
            "import threading\n"
            "from concurrent.futures import ThreadPoolExecutor\n"
            "bus.publish_envelope_sync(topic + '-parent', Envelope('p', 'Made', 1, 0))\n"
            "executor = ThreadPoolExecutor(1)\n"
            "ended = threading.Event()\n"
            "threading._register_atexit(ended.set)\n"  # the last one is called first
            "executor.submit(ended.wait)\n"
            "executor.submit(publish)"
        ),
        0,
    ),
    "multiprocessing fork": (
        (
            "import multiprocessing\n"
            "child = multiprocessing.get_context('fork').Process(target=publish)\n"
            "child.start()\nchild.join()\nsys.exit(child.exitcode)"
        ),
        0,
    ),
    "multiprocessing fork, used in the parent": (
        (
            "import multiprocessing\n"
            "from eventbus_sync import EventBus\n"
            "bus.publish_envelope_sync(topic + '-parent', Envelope('p', 'Made', 1, 0))\n"
            "child = multiprocessing.get_context('fork').Process(target=publish)\n"
            "child.start()\nchild.join()\nsys.exit(child.exitcode)"
        ),
        0,
    ),
    "os.fork and sys.exit": (
        (
            "import os\n"
            "bus.publish_envelope_sync(topic + '-parent', Envelope('p', 'Made', 1, 0))\n"
            "child = os.fork()\n"
            "if child == 0:\n    publish()\n    sys.exit(0)\n"
            "_, status = os.waitpid(child, 0)\nsys.exit(os.waitstatus_to_exitcode(status))"
        ),
        0,
    ),
}


def measured(ending: str) -> bool:
    """Whether coverage may watch a script that ends like that."""
    return "fork" not in ending


def script_for(ending: str) -> str:
    """Return a whole script that publishes and ends like that."""
    return textwrap.dedent(PUBLISH) + "\n" + ENDINGS[ending][0] + "\n"


@pytest.mark.nats
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("ending", list(ENDINGS))
def test_promise_9_nats_flushes_at_exit(
    nats_server: NatsServer, ending: str, host: str
) -> None:
    """However the process ends, everything accepted is stored; also by host name."""
    stream = f"EXIT_{abs(hash((ending, host)))}"
    url = (
        f"nats://{host}:{nats_server.port}?stream={stream}"
        f"&subjects={stream.lower()}.%3E"
    )
    done = run_script(
        script_for(ending),
        url,
        f"{stream.lower()}.a",
        str(EVENTS),
        measured=measured(ending),
    )

    assert done.returncode == ENDINGS[ending][1], done.stderr
    stored = read_nats_stream(nats_server.url, stream)
    mine = [event for event in stored if not event.topic.endswith("-parent")]
    assert len(mine) == len({event.event_id for event in mine}) == EVENTS, done.stderr


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("ending", "host"),
    # The driver resolves names on threads of its own, whatever has ended in Python.
    [*((ending, "127.0.0.1") for ending in ENDINGS), ("return", "localhost")],
)
def test_promise_9_kafka_flushes_at_exit(
    kafka_server: KafkaServer, ending: str, host: str
) -> None:
    """However the process ends, everything accepted is stored; also by host name."""
    topic = f"exit-{abs(hash((ending, host)))}"
    port = kafka_server.bootstrap_servers.rpartition(":")[2]
    done = run_script(
        script_for(ending),
        f"kafka://{host}:{port}",
        topic,
        str(EVENTS),
        measured=measured(ending),
    )

    assert done.returncode == ENDINGS[ending][1], done.stderr
    stored = read_kafka_topic(kafka_server.bootstrap_servers, topic)
    assert len(stored) == len({event.event_id for event in stored}) == EVENTS


@pytest.mark.parametrize("scheme", ["nats", "kafka"])
def test_promise_9_says_what_it_left(scheme: str, unused_tcp_port: int) -> None:
    """With no broker the process ends within exit_timeout and names what is left."""
    url = f"{scheme}://127.0.0.1:{unused_tcp_port}?exit_timeout=0.5"
    done = run_script(script_for("return"), url, "orders", "5", timeout=20)

    assert done.returncode == 0
    assert "closed with 5 events unanswered" in done.stderr
