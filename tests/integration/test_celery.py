"""Celery's prefork workers: SIGTERM under load, children recycled, soft time limits."""

import sys

from collections import Counter
from pathlib import Path

import attrs
import pytest

from support.books import FIND_SUPPORT, Books
from support.eventually import eventually
from support.readme_servers import Process, running
from support.stored import BROKERS, Place, place_on
from support.web import environment


#: Of each task.
EVENTS = 10

# Tasks wait as files in a folder. The hooks are the README's.
TASKS = (
    FIND_SUPPORT
    + f"EVENTS = {EVENTS}\n"
    + """
import os, pathlib
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import task_postrun, worker_process_init, worker_process_shutdown
from eventbus_sync import EventBus

queue = pathlib.Path(os.environ["QUEUE"])
app = Celery("orders", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": queue, "data_folder_out": queue,
    "control_folder": queue.parent / "control",
}
keeper = Keeper(EventBus.from_url(os.environ["URL"]), os.environ["TOPIC"], os.environ["FOLDER"])
readers = []


@worker_process_init.connect
def begin(**_):
    readers.append(keeper.start_reader())


@worker_process_shutdown.connect
def end(**_):
    keeper.end(reader=readers[0])


# Celery may kill a child that has not ended with the worker: nothing waits for its end.
task_postrun.connect(lambda **_: keeper.bus.flush(20), weak=False)


@app.task
def publish(count):
    for _ in range(count):
        keeper.publish("task")


@app.task(soft_time_limit=1)
def publish_for_ever(caught):
    try:
        while True:
            keeper.publish("task")
    except SoftTimeLimitExceeded:
        pathlib.Path(caught).touch()
        raise


if __name__ == "__main__":
    what, count = sys.argv[1], int(sys.argv[2])
    for number in range(count):
        if what == "publish":
            publish.delay(EVENTS)
        else:
            publish_for_ever.delay(f"{os.environ['FOLDER']}/{number}.caught")
    app.worker_main(["worker", "-P", "prefork", "-c", "2", "-l", "INFO", *sys.argv[3:]])
"""
)


def worker(
    folder: Path, place: Place, what: str, count: int, *options: str
) -> tuple[list[str], dict[str, str]]:
    """Return command and environment of a worker that has so many tasks before it."""
    (folder / "tasks.py").write_text(TASKS)
    for name in ("queue", "control"):
        (folder / name).mkdir()
    given = environment(
        folder,
        QUEUE=str(folder / "queue"),
        URL=place.url,
        TOPIC=place.topic,
        FOLDER=str(place.folder),
    )
    command = [sys.executable, "tasks.py", what, str(count), *options]
    return command, given


def end(process: Process) -> None:
    """Send SIGTERM: the worker ends its tasks, and its children their buses."""
    process.terminate()
    assert process.ended(60) == 0


def without_killed_tasks(books: Books, place: Place) -> Books:
    """
    Return the books without events that were in memory when their process was killed.

    Celery may kill a child that is still there when the worker ends. Such a child has not
    closed, and only its last task, which was not over, may have events in flight.
    """
    stored = {event.event_id for event in place.stored()}
    killed = books.processes - {process for process, _ in books.closed}
    tried: Counter[str] = Counter(aggregate for aggregate, _ in books.tried)
    lost = {
        event_id
        for aggregate, event_id in books.accepted
        if event_id not in stored
        and aggregate.partition("-")[0] in killed
        and int(event_id.rpartition("-")[2]) >= tried[aggregate] - EVENTS
    }
    accepted = [pair for pair in books.accepted if pair[1] not in lost]
    return attrs.evolve(books, accepted=accepted)


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_promise_8_and_9_celery_sigterm_under_load(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Children that are recycled every twenty tasks, and told to end among them."""
    place = place_on(broker, request, fresh=False)
    command, given = worker(
        tmp_path, place, "publish", 3000, "--max-tasks-per-child", "20"
    )
    with running(command, tmp_path, given) as process:
        eventually(lambda: process.log.count(" succeeded in ") > 100, 60)
        end(process)
    succeeded = process.log.count(" succeeded in ")
    assert succeeded < 3000, "there was no load any more"
    books = without_killed_tasks(place.books(), place)
    books.balance(place.stored(), told=False, tidy=False)
    assert len(books.accepted) >= EVENTS * succeeded
    assert books.ids("unknown") == books.ids("rejected") == set()
    assert len(books.processes) >= 4
    assert len(books.closed) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("broker", BROKERS)
def test_promise_1_and_2_celery_soft_time_limit(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The limit lands in the middle of publishing; what was accepted is told."""
    # What was interrupted before the send is unknown then.
    place = place_on(broker, request, fresh=False)
    place = attrs.evolve(place, url=f"{place.url}&delivery_timeout=5")
    command, given = worker(tmp_path, place, "limit", 4)
    with running(command, tmp_path, given) as process:
        eventually(lambda: len(list(place.folder.glob("*.caught"))) == 4, 60)
        end(process)
    assert " succeeded in " not in process.log
    books = place.balance(tidy=False)
    assert len(books.processes) == 2
    assert len(books.accepted) > 100
