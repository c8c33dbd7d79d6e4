"""gunicorn and uWSGI under load, whose workers are recycled and then told to end."""

import sys

from pathlib import Path

import pytest

from support.eventually import eventually
from support.readme_servers import running
from support.stored import BROKERS, Place, on_nats, place_on
from support.web import environment, load_on, write_application

from eventbus_sync.testing import NatsServer
from eventbus_sync.testing._ports import free_port


# How a worker reads its results, and closes: the README's hooks, in short.
HOOKS = """
def post_worker_init(worker):
    import web
    web.begin()

def worker_exit(server, worker):
    import web
    web.end()
"""


def gunicorn(folder: Path, *options: str) -> tuple[list[str], int]:
    """Return the command of a gunicorn with two workers, and its port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "hooks.py", "--workers"]
    command += ["2", "--bind", f"127.0.0.1:{port}", "--graceful-timeout", "30"]
    return [*command, *options, "web:app"], port


def serve(
    command: list[str], port: int, place: Place, folder: Path, requests: int
) -> tuple[list[str], str]:
    """Serve so many requests, send SIGTERM under load; return answers and log."""
    with (
        running(command, folder, environment(folder)) as process,
        load_on(port) as load,
    ):
        eventually(lambda: len(load.answered) >= requests, 90)
        process.terminate()
        assert process.ended(60) == 0
    assert "Traceback" not in process.log, process.log
    assert "unanswered" not in process.log
    return load.answered, process.log


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("hooks", [True, False], ids=["hooks", "no hooks"])
def test_promise_8_and_9_gunicorn_preloads_and_recycles(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path, *, hooks: bool
) -> None:
    """A bus that the master has used; workers that come and go under load; SIGTERM."""
    place = place_on(broker, request, fresh=False)
    write_application(tmp_path, place, prefork=True)
    (tmp_path / "hooks.py").write_text(HOOKS if hooks else "")
    command, port = gunicorn(
        tmp_path,
        *("--preload", "--worker-class", "gthread", "--threads", "4"),
        *("--max-requests", "150", "--max-requests-jitter", "50"),
    )
    answered, log = serve(command, port, place, tmp_path, 1500)
    # With hooks the books of each worker are whole; without, the exit hook flushes.
    books = place.balance(told=False, tidy=False)
    assert set(answered) <= {event_id for _, event_id in books.accepted}
    assert len(books.accepted) >= 1500
    assert len(books.processes) >= 6, log
    if hooks:
        # All but the master's, whose one event nobody reads.
        [master] = books.processes - {process for process, _ in books.closed}
        assert len(books.ids("acked")) == len(books.accepted) - 1
        assert sum(a.startswith(f"{master}-") for a, _ in books.accepted) == 1
    else:
        assert books.outcomes == []


@pytest.mark.nats
@pytest.mark.slow
@pytest.mark.parametrize("preload", [True, False], ids=["preload", "lazy"])
def test_promise_9_gunicorn_sync_workers(
    nats_server: NatsServer, tmp_path: Path, *, preload: bool
) -> None:
    """The worker class without threads is recycled and ended in the same way."""
    folder = tmp_path / "books"
    folder.mkdir()
    place = on_nats(nats_server, folder)
    write_application(tmp_path, place, prefork=preload)
    (tmp_path / "hooks.py").write_text(HOOKS)
    options = ["--worker-class", "sync", "--max-requests", "100"]
    command, port = gunicorn(tmp_path, *options, *["--preload"] * preload)
    answered, _ = serve(command, port, place, tmp_path, 500)
    books = place.balance(told=False, tidy=False)
    assert set(answered) <= {event_id for _, event_id in books.accepted}
    assert len(books.ids("acked")) == len(books.accepted) - preload
    assert len(books.processes) >= 4
