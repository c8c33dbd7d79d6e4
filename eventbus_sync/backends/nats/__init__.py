"""
NATS JetStream through nats-py. Begin with ``backend.py``.

::

    backend.py     send: into the hand-over, for the loop thread
    handover.py    the deque between callers and loop: one wake-up for each burst
    record.py      one event in flight; pending.py: all of them, in order
    pump.py        the loop thread: connect, write what there is, again after a loss
    dialer.py      which server next, and when; login.py: how to prove who we are
    resolver.py    the thread that looks host names up
    connection.py  one connection, never used again once lost; client.py: nats-py's part
    stream.py      the stream: made or checked
    sender.py      what is written next, and what never may be
    gates.py       subjects that are held back while nobody answers there
    culprit.py     the event over which a server ends connections
    batches.py     many events as one message to the stream, where that is wanted
    answers.py     answers, sorted on the loop thread, in chunks to the ack workers
    workers.py     the ack workers; ack.py: what an answer says
    watch.py       deadlines and silence; patience.py: how much of it
    readiness.py   what start() waits for
    errors.py      NATS' errors in our words
"""
