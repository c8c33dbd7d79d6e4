"""No embedded server outlives the process that started it, whichever way that ends."""

import shutil
import subprocess

from pathlib import Path

import pytest

from support.eventually import eventually
from support.loopback import refuses
from support.processes import run_script


pytest_plugins = ["eventbus_sync.testing.pytest_plugin"]

# The children start what these fixtures show to be there.
pytestmark = pytest.mark.usefixtures("nats_server", "kafka_server")

START = """
import os, signal, sys
from eventbus_sync.testing import KafkaServer, MockKafkaCluster, NatsServer

nats, kafka, mock = NatsServer(), KafkaServer(), MockKafkaCluster()
nats.start()
kafka.start()
print(nats.port, kafka.port, nats._folder(), kafka._tansu._folder(), flush=True)
"""


class Ended:
    """A child that has started servers and ended; and what it left."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code = done.returncode
        self.errors = done.stderr
        nats, kafka, *folders = done.stdout.split()[:4]
        self.more = done.stdout.split()[4:]
        self.ports = (int(nats), int(kafka))
        self.folders = [Path(folder) for folder in folders]

    def servers_are_gone(self) -> bool:
        return all(refuses(port) for port in self.ports)


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("raise ValueError", 1),
        ("nats.freeze(); kafka.freeze(); sys.exit(4)", 4),
        ("del nats, kafka; sys.exit(5)", 5),
    ],
)
def test_an_exit_through_the_interpreter_leaves_nothing(ending: str, code: int) -> None:
    """When the child is gone, its servers are too, and so are their folders."""
    ended = Ended(run_script(START + ending))
    assert ended.code == code, ended.errors
    assert ended.servers_are_gone()
    assert not any(folder.exists() for folder in ended.folders)


@pytest.mark.parametrize(
    "ending",
    [
        "os._exit(6)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "nats.freeze(); kafka.freeze(); os.kill(os.getpid(), signal.SIGKILL)",
    ],
)
def test_a_sudden_death_leaves_no_process(ending: str) -> None:
    """Nothing of ours runs then; the watchdogs do the work, shortly after."""
    ended = Ended(run_script(START + ending))
    eventually(ended.servers_are_gone)
    for folder in ended.folders:  # the price of a sudden death
        shutil.rmtree(folder)


def test_a_fallen_start_leaves_no_process() -> None:
    """Ctrl-C during start(): no ``with`` block was entered, nobody calls close()."""
    ended = Ended(
        run_script(
            START
            + """
import threading
slow = NatsServer()
slow._answers = lambda: False
threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    slow.start()
except KeyboardInterrupt:
    print(slow.pid)
""",
            measured=False,
        )
    )
    assert ended.code == 0, ended.errors
    assert ended.more[0] != "None"
    assert not Path("/proc", ended.more[0]).exists()


FORK = """
if pid := os.fork():
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status))
    assert nats.running and kafka.running and nats._answers()
    mock.set_rtt(None, 0)
    sys.exit()
"""


@pytest.mark.parametrize(
    "end_of_child",
    [
        "sys.exit()",
        "nats.stop(); nats.close(); kafka.stop(); kafka.close(); mock.close(); sys.exit()",
        "del nats, kafka, mock; sys.exit()",
    ],
)
def test_a_forked_child_ends_no_server(end_of_child: str) -> None:
    """The child inherits objects and exit hooks; the servers stay the parent's."""
    ended = Ended(run_script(START + FORK + end_of_child))
    assert ended.code == 0, ended.errors
    assert ended.more == ["0"], ended.errors
    assert ended.servers_are_gone()


def test_a_forked_child_is_told_that_the_servers_are_not_its_own() -> None:
    """Also while another thread of the parent held a server's lock."""
    child = """
for server in nats, kafka:
    for verb in server.start, server.kill, server.freeze, server.resume, server.restart:
        try:
            verb()
        except RuntimeError as error:
            assert "belongs to process" in str(error)
        else:
            sys.exit(f"{verb} worked")
try:
    mock.set_rtt(None, 0)
except RuntimeError as error:
    assert "belongs to process" in str(error)
    sys.exit()
sys.exit("mock")
"""
    hold = """
import threading
locked = threading.Event()
def hold():
    with nats._lock:
        locked.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
locked.wait()
"""
    ended = Ended(run_script(START + hold + FORK + child))
    assert ended.more == ["0"], ended.errors


def test_an_unused_server_starts_nothing() -> None:
    done = run_script(
        "import threading; from eventbus_sync.testing import KafkaServer, NatsServer;"
        "a, b = NatsServer(), KafkaServer(); print(threading.active_count())"
    )
    assert done.stdout == "1\n", done.stderr


def test_import_loads_no_driver_and_no_pytest() -> None:
    """The drivers come with the first cluster or server that needs one, if ever."""
    done = run_script(
        "import sys, eventbus_sync.testing;"
        "print({'confluent_kafka', 'nats', 'pytest'} & sys.modules.keys() or 'none')"
    )
    assert done.stdout == "none\n", done.stderr
