"""multiprocessing by fork, spawn and forkserver: children that never close their bus."""

import pytest

from support.books import FIND_SUPPORT
from support.processes import run_script
from support.stored import BROKERS, place_on


# A spawned child imports the file anew, and so makes a bus of its own by the same lines.
SCRIPT = (
    FIND_SUPPORT
    + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from eventbus_sync import EventBus

url, topic, folder, method, way = sys.argv[1:6]
keeper = Keeper(EventBus.from_url(url), topic, folder)


def work(number):
    for _ in range(50):
        keeper.publish("work")


if __name__ == "__main__":
    context = multiprocessing.get_context(method)
    keeper.publish("main")
    if way == "processes":
        children = [context.Process(target=work, args=(n,)) for n in range(8)]
        for child in children:
            child.start()
        for child in children:
            child.join()
        assert [child.exitcode for child in children] == [0] * 8
    else:
        with ProcessPoolExecutor(4, mp_context=context) as executor:
            assert list(executor.map(work, range(8))) == [None] * 8
"""
)


@pytest.mark.parametrize("broker", BROKERS)
@pytest.mark.parametrize("way", ["processes", "executor"])
@pytest.mark.parametrize(
    "method",
    [
        "fork",
        pytest.param("spawn", marks=pytest.mark.slow),
        pytest.param("forkserver", marks=pytest.mark.slow),
    ],
)
def test_promise_8_and_9_multiprocessing(
    method: str, way: str, broker: str, request: pytest.FixtureRequest
) -> None:
    """Each child flushes at its end; all that was accepted is stored, once, in order."""
    place = place_on(broker, request, fresh=False)
    file = place.folder / "main.py"
    file.write_text(SCRIPT)
    done = run_script(
        "import runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], None, '__main__')",
        *(str(file), place.url, place.topic, str(place.folder), method, way),
        timeout=120,
        measured=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unanswered" not in done.stderr
    books = place.balance(told=False, tidy=False)
    assert len(books.accepted) == 8 * 50 + 1
    assert len(books.processes) >= 2
