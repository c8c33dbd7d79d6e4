"""
The Flask application that gunicorn serves: ``benchmarks.flask_app:app``.

The environment says what a request does: ``BENCHMARK_MODE`` is ``none``, ``bus`` or
``wait``; ``BENCHMARK_URL`` and ``BENCHMARK_TOPIC`` say where events go.
"""

import os
import threading

from typing import Any

from flask import Flask, request

from eventbus_sync import Envelope, EventBus, ResultChannelClosed


app = Flask(__name__)
bus = EventBus.from_url(os.environ["BENCHMARK_URL"])
_topic = os.environ["BENCHMARK_TOPIC"]
_mode = os.environ["BENCHMARK_MODE"]


def _read() -> None:
    channel = bus.get_publish_result_channel()
    while True:
        try:
            channel.get_many(1000)
        except ResultChannelClosed:
            return


if _mode != "none":
    # gunicorn imports this in the worker, since nothing is preloaded.
    threading.Thread(target=_read, name="results", daemon=True).start()


@app.post("/orders")
def create_order() -> tuple[dict[str, str], int]:
    """Answer a request, which publishes in two of the three modes."""
    order: dict[str, Any] = request.get_json()
    event = Envelope(f"order-{order['number'] % 1000}", "OrderCreated", 1, order)
    if _mode == "bus":
        bus.publish_envelope(_topic, event)
    elif _mode == "wait":
        result = bus.publish_envelope_sync(_topic, event)
        if not result.success:
            return {"error": str(result.error)}, 503
    return {"event_id": event.event_id}, 202


@app.get("/books")
def books() -> dict[str, Any]:
    """Wait for all outcomes, and tell the books."""
    left = bus.flush(20)
    stats = bus.stats()
    return {
        "accepted": stats.accepted,
        "acked": stats.acked,
        "in_flight": left,
        "dropped": stats.dropped,
        "balanced": stats.balanced,
    }
