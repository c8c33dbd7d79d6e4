"""
``python -m eventbus_sync soak``: minutes or hours of publishing while everything breaks.

::

    plan.py      what was asked for, and what there is to break
    schedule.py  what breaks when: drawn from the seed, the same for the same seed
    ground.py    a broker behind a network, and a bus that publishes to it
    workload.py  threads that publish, and one that reads results
    chaos.py     carries the schedule out
    ledger.py    two bytes for each event: what became of it
    audit.py     whether the books balance
    report.py    the plan, the table, the verdict, and JSON
    run.py       all of it, from beginning to end
    lines.py     for ``faults``: each fault alone, when and for how long
    survival.py  runs those, one after another, and makes the table of them

Start reading at ``run.py``. It is the demo, for long: events are counted and not kept,
so that a run of millions needs no more memory than a short one.
"""
