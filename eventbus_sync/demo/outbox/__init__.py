"""
``python -m eventbus_sync demo --outbox``: rows, a relay, and a broker that goes away.

::

    measure.py    one run on one broker, from the first transaction to the verdict
    orders.py     threads whose transactions change orders and add events
    journal.py    what these threads noted down
    watch.py      the line that moves, and what it saw
    evidence.py   what the database and the broker have in the end
    audit.py      what was committed, published and stored, side by side
    figures.py    what it came to, and JSON
    report.py     the table and the verdict

Start reading at ``measure.py``; for how to use the outbox, at ``orders.py``.
"""
