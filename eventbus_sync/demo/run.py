"""The demo from end to end: a broker, a run, the books; then the next broker."""

import contextlib
import json
import logging

from collections.abc import Callable
from typing import Any, TextIO

import attrs

from eventbus_sync.config.url import config_from_url
from eventbus_sync.demo.embedded import check_installed, embedded
from eventbus_sync.demo.figures import as_json
from eventbus_sync.demo.measure import measure
from eventbus_sync.demo.own import own
from eventbus_sync.demo.plan import Plan, Target
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.report import Paper, table, verdict
from eventbus_sync.errors import ConfigError


OK, UNBALANCED, INTERRUPTED = 0, 1, 130

_SILENCE = logging.NullHandler()


@attrs.frozen(kw_only=True)
class Show:
    """
    One of the two demos: how a run is made, and how its figures are shown.

    Attributes:
        measure, table, verdict, as_json: see ``measure.py``, ``report.py`` and
            ``figures.py``, here and in ``outbox/``.
    """

    measure: Callable[[Target, Plan, Progress], Any]
    table: Callable[[Any, Paper], str]
    verdict: Callable[..., str]
    as_json: Callable[..., dict[str, Any]]


def run(plan: Plan, out: TextIO, err: TextIO, *, as_data: bool = False) -> int:
    """
    Run the demo and return its exit code.

    Args:
        plan: what to do.
        out: gets the tables and the verdict, or the JSON.
        err: gets the progress.
        as_data: write JSON instead of tables.

    Returns:
        0 if the books balance, 1 if not, 130 after Ctrl-C.

    Raises:
        BrokerNotInstalled, BrokerStartFailed, StartFailed: there is no broker.
        ConfigError: the URL is wrong, or SQLAlchemy is not installed.
    """
    paper, progress = Paper.of(out), Progress(err)
    show = _with_outbox() if plan.outbox else _BUS
    done: list[Any] = []
    if plan.url is None:
        for backend in plan.backends:
            check_installed(backend)
    else:
        config_from_url(plan.url)  # before it is said that we connect
    interrupted = False
    # What the library has to log while a broker is broken is in the figures; without a
    # handler it would be written into the progress line.
    logging.getLogger("eventbus_sync").addHandler(_SILENCE)
    try:
        for backend in plan.backends:
            figures = _one(show, plan, backend, progress)
            done.append(figures)
            if not as_data:
                out.write(f"{show.table(figures, paper)}\n\n")
                out.flush()
            interrupted = figures.interrupted
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        logging.getLogger("eventbus_sync").removeHandler(_SILENCE)
    if as_data:
        data = show.as_json(done, interrupted=interrupted)
        out.write(f"{json.dumps(data, indent=2)}\n")
    else:
        out.write(f"{show.verdict(done, paper, interrupted=interrupted)}\n")
    if interrupted:
        return INTERRUPTED
    return OK if all(figures.balanced for figures in done) else UNBALANCED


def _one(show: Show, plan: Plan, backend: str, progress: Progress) -> Any:
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        if plan.url is None:
            progress.say(f"starting {backend}…")
            broken = plan.broken or plan.outbox
            target = stack.enter_context(embedded(backend, broken=broken))
        else:
            progress.say("connecting…")
            target = stack.enter_context(own(plan.url, progress.warn))
        return show.measure(target, plan, progress)


_BUS = Show(measure=measure, table=table, verdict=verdict, as_json=as_json)


def _with_outbox() -> Show:
    try:
        import sqlalchemy  # noqa: F401, PLC0415 - only this demo needs it
    except ImportError:
        msg = (
            "--outbox needs SQLAlchemy, which is not installed: "
            "pip install 'eventbus-sync[demo]'"
        )
        raise ConfigError(msg) from None
    from eventbus_sync.demo.outbox import figures, report  # noqa: PLC0415
    from eventbus_sync.demo.outbox import measure as outbox  # noqa: PLC0415

    return Show(
        measure=outbox.measure,
        table=report.table,
        verdict=report.verdict,
        as_json=figures.as_json,
    )
