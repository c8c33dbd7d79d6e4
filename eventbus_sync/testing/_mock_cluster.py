"""librdkafka's mock cluster: Kafka brokers in this process that fail on command."""

import ctypes
import enum
import os
import threading
import types
import weakref

from typing import Self

from eventbus_sync.testing import _librdkafka
from eventbus_sync.testing.broker_errors import BrokerStartFailed


class ApiKey(enum.IntEnum):
    """Kafka requests that are worth an error."""

    PRODUCE = 0
    FETCH = 1
    METADATA = 3
    API_VERSIONS = 18
    INIT_PRODUCER_ID = 22


class MockKafkaCluster:
    """
    ``bootstrap_servers`` answers like a Kafka cluster of ``brokers`` brokers, ids from 1.

    It serves producers (idempotent ones too) and consumers, makes missing topics with
    four partitions, keeps the last 5 MB of each partition and knows no admin requests.
    It lives in threads of this process, so it cannot be killed or frozen; what it can do
    is refuse, disconnect and delay. An error code is Kafka's number, for example
    ``confluent_kafka.KafkaError.NOT_ENOUGH_REPLICAS``; ``KafkaError._TRANSPORT`` (-195)
    disconnects the client instead of answering it.

    Methods may be called from any thread. After ``fork()`` it belongs to the parent: in
    the child ``close()`` does nothing and everything else raises RuntimeError, as it
    does after ``close()``.

    Raises:
        BrokerNotInstalled: there is no confluent-kafka wheel.
        ValueError: fewer than one broker.
    """

    def __init__(self, brokers: int = 1) -> None:
        if brokers < 1:
            message = f"brokers must be at least 1, not {brokers}"
            raise ValueError(message)
        self._library = _librdkafka.load()
        self._lock = threading.Lock()
        self._owner = os.getpid()
        client = self._new_client()
        cluster = self._library.rd_kafka_mock_cluster_new(client, brokers)
        self._cluster: int | None = cluster
        servers: bytes = self._library.rd_kafka_mock_cluster_bootstraps(cluster)
        #: ``host:port`` of every broker, comma-separated.
        self.bootstrap_servers = servers.decode()
        self._destroy = weakref.finalize(
            self, _destroy, self._library, client, cluster, self._owner
        )

    def create_topic(
        self, topic: str, *, partitions: int = 1, replicas: int = 1
    ) -> None:
        """The topic exists with that many partitions; ValueError if it did before."""
        self._checked("mock_topic_create", topic.encode(), partitions, replicas)

    def push_request_errors(self, api_key: int, *error_codes: int) -> None:
        """The next requests of that kind are answered with these errors, one each."""
        codes = (ctypes.c_int * len(error_codes))(*error_codes)
        self._call("mock_push_request_errors_array", api_key, len(error_codes), codes)

    def push_request_error_rtts(
        self, broker_id: int, api_key: int, *errors: tuple[int, float]
    ) -> None:
        """
        That broker answers its next requests of that kind late or with an error.

        Args:
            broker_id: one broker.
            api_key: kind of request.
            errors: pairs of error code (0 for none) and seconds of delay, one a request.
                They go before those of ``push_request_errors``.
        """
        flat = [
            ctypes.c_int(value)
            for code, seconds in errors
            for value in (code, _milliseconds(seconds))
        ]
        self._checked(
            "mock_broker_push_request_error_rtts",
            broker_id,
            api_key,
            ctypes.c_size_t(len(errors)),
            *flat,
        )

    def push_partition_errors(
        self, topic: str, partition: int, api_key: int, *error_codes: int
    ) -> None:
        """The next requests for that partition get these errors; its neighbours none."""
        self._checked(
            "mock_partition_push_request_errors",
            topic.encode(),
            partition,
            api_key,
            ctypes.c_size_t(len(error_codes)),
            *map(ctypes.c_int, error_codes),
        )

    def clear_request_errors(self, api_key: int) -> None:
        """``push_request_errors`` is undone for that kind of request."""
        self._call("mock_clear_request_errors", api_key)

    def set_topic_error(self, topic: str, error_code: int) -> None:
        """Metadata requests report that error for the topic; 0 takes it back."""
        self._call("mock_topic_set_error", topic.encode(), error_code)

    def set_partition_leader(
        self, topic: str, partition: int, broker_id: int | None
    ) -> None:
        """The partition is led by that broker, or by none."""
        leader = -1 if broker_id is None else broker_id
        self._checked("mock_partition_set_leader", topic.encode(), partition, leader)

    def set_broker_down(self, broker_id: int | None = None) -> None:
        """That broker, or every broker, drops its connections and takes no new ones."""
        self._checked("mock_broker_set_down", -1 if broker_id is None else broker_id)

    def set_broker_up(self, broker_id: int | None = None) -> None:
        """That broker, or every broker, takes connections again."""
        self._checked("mock_broker_set_up", -1 if broker_id is None else broker_id)

    def set_rtt(self, broker_id: int | None, seconds: float) -> None:
        """That broker, or every broker, answers ``seconds`` late from now on."""
        self._checked(
            "mock_broker_set_rtt",
            -1 if broker_id is None else broker_id,
            _milliseconds(seconds),
        )

    def close(self) -> None:
        """The brokers are gone and their ports are free. Calling it again is fine."""
        if self._owner != os.getpid():
            return
        with self._lock:
            self._cluster = None
            self._destroy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def _new_client(self) -> int:
        # A cluster must hang on some client; this one never connects anywhere.
        library = self._library
        reason = ctypes.create_string_buffer(256)
        conf = library.rd_kafka_conf_new()
        # Else the mock reports what it was told to do on standard error.
        library.rd_kafka_conf_set(conf, b"log_level", b"0", reason, len(reason))
        client: int | None = library.rd_kafka_new(
            _librdkafka.PRODUCER, conf, reason, len(reason)
        )
        if client is None:  # pragma: no cover - out of threads or memory
            raise BrokerStartFailed(reason.value.decode())
        return client

    def _call(self, function: str, *arguments: object) -> int:
        if self._owner != os.getpid():
            message = f"the mock cluster belongs to process {self._owner}"
            raise RuntimeError(message)
        # The lock keeps close() from pulling the cluster away under a call.
        with self._lock:
            if self._cluster is None:
                message = "the mock cluster is closed"
                raise RuntimeError(message)
            call = getattr(self._library, f"rd_kafka_{function}")
            code: int | None = call(self._cluster, *arguments)
            return code or 0

    def _checked(self, function: str, *arguments: object) -> None:
        if code := self._call(function, *arguments):
            name: bytes = self._library.rd_kafka_err2name(code)
            message = f"{function}{arguments!r} was refused: {name.decode()}"
            raise ValueError(message)


def _destroy(library: ctypes.CDLL, client: int, cluster: int, owner: int) -> None:
    # A forked child has the memory but not the threads: it would wait for them.
    if owner == os.getpid():
        library.rd_kafka_mock_cluster_destroy(cluster)
        library.rd_kafka_destroy(client)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
