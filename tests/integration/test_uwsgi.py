"""uWSGI as the README starts it: under load, with workers recycled, ended by SIGTERM."""

import contextlib
import shlex
import sys

from collections import Counter
from pathlib import Path

import pytest

from support import readme
from support.eventually import eventually
from support.readme_servers import Process, running
from support.stored import BROKERS, Place, place_on
from support.web import Load, environment, load_on, write_application

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
def test_promise_8_and_9_uwsgi_recycles_its_workers(
    way: str, broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Whenever a worker has served enough requests, what it has accepted is stored."""
    option, prefork = WAYS[way]
    place = place_on(broker, request, fresh=False)
    write_application(tmp_path, place, prefork=prefork)
    port = free_port()
    command = documented(
        port, option, "--max-requests", "200", "--min-worker-lifetime", "1"
    )
    with running(command, tmp_path, environment(tmp_path)) as process:
        with load_on(port) as load:
            eventually(lambda: len(served(load)) >= 4, 60)
        # Not ended in good order: uWSGI forgets a worker that has just taken another's
        # place, and one that ends, and is told so once more, ends at once.
        accepted = {event_id for _, event_id in place.books().accepted}
        with contextlib.suppress(AssertionError):  # ``balance`` says what is missing
            eventually(lambda: accepted <= {e.event_id for e in place.stored()}, 30)
        process.kill()
    balance(place, process, load)


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("way", list(WAYS))
def test_promise_8_and_9_uwsgi_is_ended_under_load(
    way: str, broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """SIGTERM: requests end first, and what was accepted is stored."""
    option, prefork = WAYS[way]
    place = place_on(broker, request, fresh=False)
    write_application(tmp_path, place, prefork=prefork)
    port = free_port()
    with (
        running(documented(port, option), tmp_path, environment(tmp_path)) as process,
        load_on(port) as load,
    ):
        # One that still loads the application does not hear of the end.
        eventually(lambda: len(served(load)) == 2 and len(load.answered) >= 300, 60)
        process.terminate()
        assert process.ended(60) == 0
    balance(place, process, load)


def served(load: Load) -> Counter[str]:
    """Return how many requests each process has answered."""
    return Counter(event_id.partition("-")[0] for event_id in load.answered)


def balance(place: Place, process: Process, load: Load) -> None:
    """Assert that all that was answered is stored, and that nobody complained."""
    print(process.log)  # noqa: T201 - pytest shows it with the failure
    assert "Traceback" not in process.log
    assert "unanswered" not in process.log
    books = place.balance(told=False, tidy=False)
    assert set(load.answered) <= {event_id for _, event_id in books.accepted}
