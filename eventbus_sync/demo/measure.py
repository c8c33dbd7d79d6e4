"""One run on one broker: publish, break, wait for outcomes, read back, hold it together."""

import time

from eventbus_sync._threads import Deadline
from eventbus_sync.demo.audit import audit
from eventbus_sync.demo.faults import Schedule
from eventbus_sync.demo.figures import Figures, figures_of
from eventbus_sync.demo.plan import Plan, Target
from eventbus_sync.demo.progress import Progress
from eventbus_sync.demo.workload import Workload
from eventbus_sync.testing.readback import ReadBackFailed


#: Seconds until a broker must have answered.
CONNECT_TIMEOUT = 10.0
#: Seconds that a run which ends early waits for the outcomes of what is in flight.
EARLY_CLOSE = 5.0
#: Promise 1 allows an outcome to be later than delivery_timeout by this, in seconds.
GRACE = 2.0

# Seconds between two looks at a run.
_LOOK = 0.1
# Seconds that the threads of the demo get to end when the bus is closed.
_JOIN = 10.0
# Seconds to read back, and the events for which each further second is added.
_READ_BACK, _READ_RATE = 30.0, 5000


def measure(target: Target, plan: Plan, progress: Progress) -> Figures:
    """
    Return what became of one run; its bus is closed and its threads have ended.

    Ctrl-C ends the publishing, not the bookkeeping; a second one ends that too.

    Raises:
        StartFailed: the broker cannot be published to.
        KeyboardInterrupt: Ctrl-C before or after the publishing.
    """
    bus, failures = target.bus, []
    schedule = Schedule(target.faults, plan.events)
    workload = Workload(
        bus,
        target.topic,
        events=plan.events,
        threads=plan.threads,
        holds=schedule.holds,
    )
    interrupted = False
    reconnects: list[float] = []
    bus.register_reconnect_callback(lambda: reconnects.append(time.monotonic()))
    with bus:
        bus.start(CONNECT_TIMEOUT)
        try:
            workload.start()
            schedule.start(bus.stats)
            _watch(workload, schedule, target, progress)
        except KeyboardInterrupt:
            interrupted = True
            progress.say("interrupted; waiting for what is in flight…")
        finally:
            workload.stop()
            schedule.stop()
        overdue = 0 if interrupted else bus.stats().in_flight
        if overdue:
            failures.append(
                f"{overdue:,} events had no outcome {GRACE:g} s after delivery_timeout"
            )
        bus.close(EARLY_CLOSE)
    workload.join(_JOIN)
    progress.say("reading back what is stored…")
    stored = None
    try:
        # A run that was ended early has accepted less than was planned.
        stored = target.read_back(_READ_BACK + workload.journal.accepted / _READ_RATE)
    except ReadBackFailed as error:
        failures.append(str(error))
    journal, stats = workload.journal, bus.stats()
    return figures_of(
        backend=target.backend,
        title=target.title,
        events=plan.events,
        journal=journal,
        stats=stats,
        reconnects=len(reconnects),
        stored=None if stored is None else len(stored),
        struck=schedule.struck,
        violations=[] if stored is None else audit(journal, stats, stored),
        failures=[*journal.failures, *schedule.failures, *failures],
        interrupted=interrupted,
    )


def _watch(
    workload: Workload, schedule: Schedule, target: Target, progress: Progress
) -> None:
    """Show progress until everything is settled, or should have been."""
    journal, events = workload.journal, workload.events
    patience = target.delivery_timeout + GRACE + _LOOK
    due = Deadline.after(patience)
    while True:
        # Asked in this order: what the last publisher did is in the stats.
        publishing = workload.publishing
        in_flight = target.bus.stats().in_flight
        progress.show(target.backend, journal.settled, events, in_flight, schedule.now)
        if publishing:
            due = Deadline.after(patience)
        elif in_flight == 0 or due.expired():
            return
        time.sleep(_LOOK)
