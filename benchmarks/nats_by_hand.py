"""The peers on NATS: nats-py alone, in the ways in which it is used."""

import asyncio
import concurrent.futures
import os
import queue
import threading

from collections.abc import Coroutine
from typing import Any, Final

from benchmarks.brokers import Destination
from benchmarks.events import Work, by_hand, note
from benchmarks.stored import connect
from benchmarks.tally import PATIENCE, Stopwatch, Tally, in_threads
from eventbus_sync.config import NatsConfig
from eventbus_sync.config.url import config_from_url


#: Messages that may be unanswered at a time; nats-py's own default.
_WINDOW: Final = 4000
#: The loop that pays out bytes lets answers in so often.
_YIELD_EVERY: Final = 256
_CAPACITY: Final = 100_000


def config_of(to: Destination) -> NatsConfig:
    """Return how to connect."""
    config = config_from_url(to.url)
    assert isinstance(config, NatsConfig)  # noqa: S101 - from a nats:// URL
    return config


def _event(
    to: Destination, number: int, text: str
) -> tuple[str, bytes, dict[str, str]]:
    _, event_id, body, headers = by_hand(number, text)
    headers["Nats-Msg-Id"] = event_id
    return to.topics[number % len(to.topics)], body, headers


def publish(to: Destination, work: Work) -> Tally:
    """``js.publish_async``, pipelined in its own loop, which also takes the outcomes."""
    return asyncio.run(_pipelined(to, work))


async def _warm_up(js: Any, to: Destination) -> None:
    """Send one message to each topic, before the clock runs."""
    for topic in to.topics:
        await js.publish(topic, b"warm-up")


async def _pipelined(to: Destination, work: Work) -> Tally:
    # No reader thread: to wake one for each ack would cost this peer more than half of
    # its speed. It is what asyncio programs do.
    tally, text = Tally(), note(work.payload)
    client = await connect(config_of(to))
    js = client.jetstream(publish_async_max_pending=_WINDOW)
    await _warm_up(js, to)

    def answered(future: "asyncio.Future[Any]") -> None:
        _count(tally, future)

    with Stopwatch(tally):
        for number in range(work.events):
            topic, body, headers = _event(to, number, text)
            # Without wait_stall, which would cost it a task per message.
            future = await js.publish_async(topic, body, headers=headers)
            future.add_done_callback(answered)
            tally.accepted += 1
        await asyncio.wait_for(js.publish_async_completed(), PATIENCE)
        await asyncio.sleep(0)  # the last callbacks
    await client.close()
    return tally


def _count(tally: Tally, future: "asyncio.Future[Any]") -> None:
    if future.cancelled() or future.exception() is not None:
        tally.failed += 1
    else:
        tally.acked += 1


def bare_loop(to: Destination, work: Work) -> Tally:
    """
    ``nc.publish`` with an inbox of one's own, in the loop: no threads, no JSON.

    No program is like that; it shows what the driver itself costs.
    """
    return asyncio.run(_bare_loop(to, work))


async def _bare_loop(to: Destination, work: Work) -> Tally:
    tally, text = Tally(), note(work.payload)
    ready = [_event(to, number, text) for number in range(min(work.events, 10_000))]
    client = await connect(config_of(to))
    await _warm_up(client.jetstream(), to)
    inbox = client.new_inbox()
    done = asyncio.Event()
    # The bytes may repeat, the id of a message may not, or it would not be stored.
    unanswered: set[str] = set()

    async def answered(message: Any) -> None:
        unanswered.discard(message.subject)
        if b'"seq"' in message.data:
            tally.acked += 1
        else:
            tally.failed += 1
        if tally.acked + tally.failed == work.events:
            done.set()

    await client.subscribe(f"{inbox}.*", cb=answered, pending_msgs_limit=0)
    with Stopwatch(tally):
        for number in range(work.events):
            topic, body, headers = ready[number % len(ready)]
            headers["Nats-Msg-Id"] = f"bare-{number}"
            reply = f"{inbox}.{number}"
            unanswered.add(reply)
            await client.publish(topic, body, reply=reply, headers=headers)
            tally.accepted += 1
            if not number % _YIELD_EVERY:
                await asyncio.sleep(0)
                while len(unanswered) > _WINDOW:  # noqa: ASYNC110 - the cheap way
                    await asyncio.sleep(0.0005)
        await asyncio.wait_for(done.wait(), PATIENCE)
    await client.close()
    return tally


def publish_and_wait(to: Destination, work: Work) -> Tally:
    """``await js.publish``, one event after the other."""
    return asyncio.run(_waiting(to, work))


async def _waiting(to: Destination, work: Work) -> Tally:
    tally, text = Tally(), note(work.payload)
    client = await connect(config_of(to))
    js = client.jetstream(timeout=PATIENCE)
    await _warm_up(js, to)
    with Stopwatch(tally):
        for number in range(work.events):
            topic, body, headers = _event(to, number, text)
            tally.accepted += 1
            await js.publish(topic, body, headers=headers)
            tally.acked += 1
    await client.close()
    return tally


class LoopThread:
    """An event loop on a thread, with a connection."""

    def __init__(self, to: Destination) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.client = self.run(connect(config_of(to)))
        self.js = self.run(self._jetstream())

    async def _jetstream(self) -> Any:
        return self.client.jetstream(publish_async_max_pending=_WINDOW)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run *work* in the loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def close(self) -> None:
        """End connection, loop and thread."""
        self.run(self.client.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


def literal(to: Destination, work: Work) -> Tally:
    """The design word for word: a coroutine handed over per event, a job per ack."""
    tally, text = Tally(), note(work.payload)
    results: queue.Queue[asyncio.Future[Any]] = queue.Queue(_CAPACITY)
    accepted = [0] * work.threads
    thread = LoopThread(to)
    thread.run(_warm_up(thread.js, to))
    workers = concurrent.futures.ThreadPoolExecutor(2 * (os.cpu_count() or 1))

    async def send(topic: str, body: bytes, headers: dict[str, str]) -> None:
        future = await thread.js.publish_async(topic, body, headers=headers)
        future.add_done_callback(lambda done: workers.submit(results.put_nowait, done))

    def run(number_of_thread: int) -> None:
        for number in work.share(number_of_thread):
            event = _event(to, number, text)
            asyncio.run_coroutine_threadsafe(send(*event), thread.loop)
            accepted[number_of_thread] += 1

    def read() -> None:
        try:
            for _ in range(work.events):
                _count(tally, results.get(timeout=PATIENCE))
        except queue.Empty:
            return

    with Stopwatch(tally):
        in_threads(run, work.threads, read)
    workers.shutdown()
    thread.close()
    tally.accepted = sum(accepted)
    return tally
