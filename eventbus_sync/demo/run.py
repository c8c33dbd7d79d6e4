"""The demo from end to end: a broker, a run, the books; then the next broker."""

import contextlib
import json
import logging

from typing import TextIO

from eventbus_sync.demo.embedded import check_installed, embedded
from eventbus_sync.demo.figures import Figures, as_json
from eventbus_sync.demo.measure import measure
from eventbus_sync.demo.own import own
from eventbus_sync.demo.plan import Plan
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.report import Paper, table, verdict


OK, UNBALANCED, INTERRUPTED = 0, 1, 130

_SILENCE = logging.NullHandler()


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
        ConfigError: the URL is wrong.
    """
    paper, progress = Paper.of(out), Progress(err)
    done: list[Figures] = []
    if plan.url is None:
        for backend in plan.backends:
            check_installed(backend)
    interrupted = False
    # What the library has to log while a broker is broken is in the figures; without a
    # handler it would be written into the progress line.
    logging.getLogger("eventbus_sync").addHandler(_SILENCE)
    try:
        for backend in plan.backends:
            figures = _one(plan, backend, progress)
            done.append(figures)
            if not as_data:
                out.write(f"{table(figures, paper)}\n\n")
                out.flush()
            interrupted = figures.interrupted
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        logging.getLogger("eventbus_sync").removeHandler(_SILENCE)
    if as_data:
        out.write(f"{json.dumps(as_json(done, interrupted=interrupted), indent=2)}\n")
    else:
        out.write(f"{verdict(done, paper, interrupted=interrupted)}\n")
    if interrupted:
        return INTERRUPTED
    return OK if all(figures.balanced for figures in done) else UNBALANCED


def _one(plan: Plan, backend: str, progress: Progress) -> Figures:
    with contextlib.ExitStack() as stack:
        stack.callback(progress.clear)
        if plan.url is None:
            progress.say(f"starting {backend}…")
            target = stack.enter_context(embedded(backend, broken=plan.broken))
        else:
            progress.say("connecting…")
            target = stack.enter_context(own(plan.url, progress.warn))
        return measure(target, plan, progress)
