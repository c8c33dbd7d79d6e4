"""Callbacks that raise, block for seconds, or call back into the bus, on real brokers."""

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.stored import BROKERS, place_on


SCRIPT = (
    FIND_SUPPORT
    + """
import logging, threading, time
from eventbus_sync import Envelope, EventBus
from eventbus_sync.errors import CalledFromCallback

url, topic, folder, kind = sys.argv[1:5]
logging.disable(logging.CRITICAL)
keeper = Keeper(EventBus.from_url(url), topic, folder)
bus, calls = keeper.bus, {"publish": 0, "other": 0, "refused": 0}
blocked, release = threading.Event(), threading.Event()


def callback(result):
    calls["publish"] += 1
    if kind == "raises":
        raise ValueError("the application failed")
    if kind == "exits":
        sys.exit(1)
    if kind == "blocks":
        blocked.set()
        release.wait(60)
    if kind == "publishes" and not result.event_id.partition("-")[2].startswith("more"):
        keeper.publish("more")
    if kind == "waits":
        for call in (
            bus.flush,
            bus.close,
            lambda: bus.publish_envelope_sync(topic, Envelope("a", "E", 1, 0)),
        ):
            try:
                call()
            except CalledFromCallback:
                calls["refused"] += 1


def another(result):
    calls["other"] += 1


bus.register_publish_callback(callback)
bus.register_publish_callback(another)
reader = keeper.start_reader()


def publish(line):
    for _ in range(250):
        keeper.publish(line)


threads = [threading.Thread(target=publish, args=(f"line{n}",)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if kind == "blocks":
    blocked.wait(30)
    began = time.monotonic()
    # It blocks for seconds; every event has its outcome all the same.
    assert bus.flush(30) == 0
    while bus.stats().taken < 1000:
        time.sleep(0.01)
    assert calls == {"publish": 1, "other": 0, "refused": 0}, calls
    time.sleep(max(0.0, began + 3 - time.monotonic()))
    release.set()
expected = 2000 if kind == "publishes" else 1000
limit = time.monotonic() + 40
while calls["other"] < expected and time.monotonic() < limit:
    time.sleep(0.01)
assert calls["other"] == calls["publish"] == expected, calls
assert calls["refused"] == (3000 if kind == "waits" else 0), calls
keeper.end(reader=reader)
assert bus.stats().callback_errors == (1000 if kind in ("raises", "exits") else 0)
"""
)


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("kind", ["raises", "exits", "blocks", "publishes", "waits"])
def test_promise_1_and_2_callbacks(
    kind: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """Whatever a callback does, outcomes come, the books balance, the next one runs."""
    place = place_on(broker, request, fresh=False)
    done = run_script(SCRIPT, place.url, place.topic, str(place.folder), kind)
    assert done.returncode == 0, done.stderr
    books = place.balance()
    assert len(books.ids("acked")) == (2000 if kind == "publishes" else 1000)
