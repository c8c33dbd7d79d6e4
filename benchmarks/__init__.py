"""
What things cost, measured side by side: ``python -m benchmarks --help``.

Ratios within one run count; absolute figures drift from machine to machine. Every run
prints its books, and one whose books do not balance fails. ::

    __main__.py       the command line; each benchmark adds a command of its own
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
