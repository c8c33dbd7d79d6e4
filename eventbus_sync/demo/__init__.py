"""
``python -m eventbus_sync demo``: see for yourself that the books balance.

::

    plan.py          what was asked for, and what there is to publish to
    embedded.py      brokers that the demo starts itself
    own.py           --url: a broker of yours, left as it was found
    destinations.py  the streams and topics made there, and cleared away
    workload.py      threads that publish, and one that reads results
    faults.py        --break: freeze and kill, in the middle of the run
    journal.py       what the threads noted down
    audit.py         what was published, answered and stored, side by side
    figures.py       what it came to, and JSON
    report.py        the table and the verdict
    progress.py      the line that moves
    measure.py       one run on one broker
    run.py           one broker after the other
    outbox/          --outbox: rows, a relay, and a broker that goes away

Start reading at ``run.py``; for how to use the library, at ``workload.py``.
"""
