"""uWSGI as the README starts it: under load, with workers recycled, ended by SIGTERM."""

import shlex
import sys

from pathlib import Path

import pytest

from support import readme
from support.eventually import eventually
from support.readme_servers import running
from support.stored import BROKERS, place_on
from support.web import environment, load_on, write_application

from eventbus_sync.testing._ports import free_port


WAYS = {
    "lazy": ("--lazy-apps", False),
    "forked": ("--py-call-osafterfork", False),
    "forked, used by the master": ("--py-call-osafterfork", True),
}


def documented(port: int, *options: str) -> list[str]:
    """Return the README's command for ``web:app``, with options in place of its last."""
    [command] = readme.commands("uWSGI")
    program, *arguments = shlex.split(command)
    assert program == "uwsgi"
    assert "--lazy-apps" in arguments
    arguments.remove("--lazy-apps")
    replaced = {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "orders_flask:app": "web:app",
    }
    given = [replaced.get(argument, argument) for argument in arguments]
    assert given != arguments
    return [str(Path(sys.executable).with_name("uwsgi")), *given, *options]


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("way", list(WAYS))
def test_promise_8_and_9_uwsgi(
    way: str, broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whenever a worker ends, what it has accepted is stored."""
    option, prefork = WAYS[way]
    place = place_on(broker, request, fresh=False)
    write_application(tmp_path, place, prefork=prefork)
    port = free_port()
    command = documented(
        port, option, "--max-requests", "200", "--min-worker-lifetime", "1"
    )
    with (
        running(command, tmp_path, environment(tmp_path)) as process,
        load_on(port) as load,
    ):
        eventually(lambda: len(load.answered) >= 500, 60)
        eventually(lambda: process.log.count("Respawned uWSGI worker") >= 2, 60)
        process.terminate()
        assert process.ended(60) == 0
    assert "Traceback" not in process.log
    assert "unanswered" not in process.log, process.log
    books = place.balance(told=False, tidy=False)
    assert set(load.answered) <= {event_id for _, event_id in books.accepted}
    assert len(books.processes) >= 4
