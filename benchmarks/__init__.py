"""
What things cost, measured side by side: ``python -m benchmarks --help``.

Ratios within one run count; absolute figures drift from machine to machine. Every run
prints its books, and one whose books do not balance fails. ::

    __main__.py       the command line; without a command everything runs
    everything.py     all parts, and a relay, one after the other
    parts.py          what parts have in common: settings and arguments
    report.py         runs a part; prints tables and histograms, writes JSON and plot
    targets.py        what is to be reached, beside what was measured
    plot.py           bars of what was measured, SVG or PNG

    throughput.py     events/s and CPU per event, ours and its peers in turns
    ours.py           the bus, as users use it
    kafka_by_hand.py  the peers on Kafka
    nats_by_hand.py   the peers on NATS
    events.py         what is published, with us and by hand
    tally.py          the books and the clock of one run
    stored.py         how many messages a broker holds
    latency.py        of the call and of the result, flat out and paced
    minimum.py        the bare minimum that a call can do
    pacing.py         calls at a steady pace, percentiles, histograms
    slow_reader.py    publishing while the result channel is full
    memory.py         of events in flight
    growth.py         cost and memory of an event as a run grows
    idle.py           CPU of a bus with nothing to do
    importing.py      time of the import
    flask_load.py     a view that publishes, under gunicorn
    flask_app.py      that view
    load.py           the requests, from a process of their own

    counters.py          counted steps against baseline.json; gates in CI
    counting_process.py  counts them, in a process of its own
    counted_locks.py     locks that count

    outbox.py         the outbox: relays, the naive relay, writing, idling
    relaying.py       rows until all are published, by one relay or several processes
    relay_process.py  one of these processes
    naive_relay.py    the peer: select, publish and wait, commit per row
    writing.py        what add and add_many cost; fills tables
    counting.py       an outbox that counts its statements and times its calls
    books.py          is everything stored once, and in order?
    databases.py      SQLite, PostgreSQL, MariaDB: embedded, or behind a URL
    postgresql_programs.py  where the wheel's PostgreSQL can be run from
    brokers.py        NATS and Kafka: embedded, or behind a URL
    figures.py        measurements, medians, and all of it as JSON
    machine.py        what all of that ran on
    table.py          figures as a table of text
"""
