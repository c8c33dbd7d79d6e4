"""
Kafka through confluent-kafka. Begin with ``backend.py``.

::

    backend.py    send: produce() on the caller's thread
    client.py     one producer, and what a delivery report becomes
    poller.py     the poll thread, which serves the reports and replaces the producer
    slot.py       the producer in use, taken by many threads, replaced by one
    link.py       what the producer says of its connections: health, last error
    settings.py   our settings in librdkafka's words
    errors.py     librdkafka's errors in our words
"""
