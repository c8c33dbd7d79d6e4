"""gevent: what it patches makes a bus refuse at once and clearly, or is no matter."""

import sys

from pathlib import Path

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.readme_servers import running
from support.stored import BROKERS, on_nats, place_on
from support.web import environment, write_application

from eventbus_sync.testing import NatsServer
from eventbus_sync.testing._ports import free_port


PUBLISH = (
    "from gevent import monkey\nmonkey.patch_all({patches})\n"
    + FIND_SUPPORT
    + """
from eventbus_sync import ConfigError, EventBus
try:
    keeper = Keeper(EventBus.from_url(sys.argv[1]), *sys.argv[2:4])
except ConfigError as error:
    sys.exit(str(error))
for number in range(500):
    keeper.publish(str(number % 3))
keeper.read(500)
keeper.end()
"""
)


def patched(patches: str, *args: str) -> tuple[int, str]:
    """Publish in a process that gevent has patched; return how it ended."""
    script = PUBLISH.replace("{patches}", patches)
    # Coverage's own locks are patched, too.
    done = run_script(script, *args, measured=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("scheme", ["nats", "kafka", "memory"])
@pytest.mark.parametrize(
    ("patches", "named"),
    [
        ("", "_thread, threading, queue, select, selectors"),
        ("thread=False", "queue, select, selectors"),
        ("thread=False, queue=False", "select, selectors"),
    ],
)
def test_patched_processes_are_refused(patches: str, named: str, scheme: str) -> None:
    """No hang, and no thread that never runs: an error with what to do."""
    address = "" if scheme == "memory" else "127.0.0.1:1"
    code, said = patched(patches, f"{scheme}://{address}", "orders", ".")
    assert code == 1
    assert f"gevent has monkey-patched {named}, and eventbus_sync needs" in said
    assert "patch with thread=False, queue=False, select=False" in said


@pytest.mark.parametrize("broker", BROKERS)
def test_what_the_error_advises_works(
    broker: str, request: pytest.FixtureRequest
) -> None:
    """With all else patched, sockets among it, events are stored and told."""
    place = place_on(broker, request, fresh=False)
    advice = "thread=False, queue=False, select=False"
    code, said = patched(advice, place.url, place.topic, str(place.folder))
    assert code == 0, said
    books = place.balance()
    assert len(books.ids("acked")) == 500


@pytest.mark.nats
def test_gunicorn_with_gevent_says_it_in_its_log(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    """The worker cannot import the application, ends, and the log says why."""
    place = on_nats(nats_server, tmp_path)
    write_application(tmp_path, place, prefork=False)
    command = [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers"),
        *("1", "--bind", f"127.0.0.1:{free_port()}", "web:app"),
    ]
    with running(command, tmp_path, environment(tmp_path)) as process:
        assert process.ended() == 3
        assert "gevent has monkey-patched _thread, threading" in process.log
