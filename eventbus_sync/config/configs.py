"""
Settings of a bus: where its broker is, and how long and how much it waits for.

Times are seconds. Everything is checked when a configuration is built, and again by
nobody: a ``ConfigError`` names the setting. Configurations are values: frozen, equal by
their settings, picklable, and their ``repr`` shows no secret.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import attrs

from eventbus_sync.config import extra as _extra
from eventbus_sync.config import fields as _fields
from eventbus_sync.config import kafka as _kafka
from eventbus_sync.config import nats as _nats
from eventbus_sync.config import servers as _servers
from eventbus_sync.config.fields import as_path, hidden


@_fields.by_name
@attrs.frozen(kw_only=True)
class BusConfig:
    """
    What the configurations of all back ends have in common.

    Args:
        name: begins the names of the bus's threads and its lines in the log.
        delivery_timeout: how long an accepted event is tried before its outcome is
            "unknown" (or "rejected", if it was never written).
        publish_timeout: how long a publish may wait for room; 0 is not at all.
        max_in_flight: how many events may be accepted and unsettled.
        max_in_flight_bytes: how many bytes of them.
        max_message_bytes: the largest event, headers included.
        result_capacity: how many results the channel holds for its reader.
        overflow: what a full result channel means. ``"drop"``: further results are
            dropped, counted and reported. ``"reserve"``: publishing waits for room.
        close_timeout: how long ``close()`` flushes.
        exit_timeout: how long a process that ends without ``close()`` flushes.

    Raises:
        ConfigError: a setting is unknown, missing or wrong; it says which and why.
    """

    name: str = attrs.field(default="eventbus", validator=_fields.text)
    delivery_timeout: float = attrs.field(
        default=30.0, validator=_fields.seconds(zero=False)
    )
    publish_timeout: float = attrs.field(
        default=1.0, validator=_fields.seconds(zero=True)
    )
    max_in_flight: int = attrs.field(default=100_000, validator=_fields.whole(1))
    max_in_flight_bytes: int = attrs.field(
        default=256 * 1024 * 1024, validator=_fields.whole(1, 2**40)
    )
    max_message_bytes: int = attrs.field(
        default=1_000_000, validator=_fields.whole(1, 1_000_000_000)
    )
    result_capacity: int = attrs.field(default=100_000, validator=_fields.whole(1))
    overflow: Literal["drop", "reserve"] = attrs.field(
        default="drop", validator=_fields.choice("drop", "reserve")
    )
    close_timeout: float = attrs.field(
        default=10.0, validator=_fields.seconds(zero=True)
    )
    exit_timeout: float = attrs.field(default=5.0, validator=_fields.seconds(zero=True))


@_fields.by_name
@attrs.frozen(kw_only=True)
class MemoryConfig(BusConfig):
    """
    A broker inside of this process, for tests.

    Args:
        latency: how long the broker takes to acknowledge an event.
    """

    latency: float = attrs.field(default=0.0, validator=_fields.seconds(zero=True))


@_fields.by_name
@attrs.frozen(kw_only=True)
class KafkaConfig(BusConfig):
    """
    Kafka, or what speaks its protocol.

    Args:
        bootstrap_servers: ``host:port``, several of them separated by commas or in a
            list; without a port it is 9092. Kept as one text.
        client_id: what brokers call this client in logs and quotas.
        linger: how long to wait for more events that make up a batch.
        compression: of batches.
        idempotence: without it an event may be stored twice or out of order; for
            clusters that refuse it.
        tls: whether to encrypt; the other ``tls`` settings need it.
        tls_ca: file with the certificates to trust; None is the system's.
        tls_cert, tls_key: files with the client's own certificate and its key.
        tls_key_password: what opens the key.
        tls_verify_hostname: whether the broker's certificate must be for its host.
        sasl_mechanism: how to log in. For others than these set ``sasl.mechanism`` and
            what belongs to it in *extra*.
        username, password: what to log in with.
        extra: any other setting of librdkafka by its own name, except those that would
            break a promise of the bus.

    Raises:
        ConfigError: a setting is unknown, missing or wrong; it says which and why.
    """

    bootstrap_servers: str = attrs.field(converter=_servers.kafka)
    client_id: str | None = attrs.field(default=None, validator=_fields.text)
    linger: float = attrs.field(
        default=0.005,
        validator=_fields.seconds(zero=True, most=_kafka.MAX_LINGER),
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = attrs.field(
        default="none",
        validator=_fields.choice("none", "gzip", "snappy", "lz4", "zstd"),
    )
    idempotence: bool = attrs.field(default=True, validator=_fields.flag)
    tls: bool = attrs.field(default=False, validator=_fields.flag)
    tls_ca: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_cert: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_key: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_key_password: str | None = attrs.field(
        default=None, validator=_fields.secret, repr=hidden
    )
    tls_verify_hostname: bool = attrs.field(default=True, validator=_fields.flag)
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = (
        attrs.field(
            default=None,
            validator=_fields.choice(None, "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
        )
    )
    username: str | None = attrs.field(default=None, validator=_fields.text)
    password: str | None = attrs.field(
        default=None, validator=_fields.secret, repr=hidden
    )
    extra: Mapping[str, object] = attrs.field(
        factory=dict,
        converter=_extra.as_read_only,
        validator=_extra.driver_settings(_extra.kafka),
        hash=False,
    )

    def __attrs_post_init__(self) -> None:
        _kafka.check(self)

    @property
    def security_protocol(self) -> str:
        """What librdkafka calls the combination of TLS and login asked for."""
        return _kafka.security_protocol(self)


@_fields.by_name
@attrs.frozen(kw_only=True)
class NatsConfig(BusConfig):
    """
    NATS with JetStream.

    Args:
        servers: ``nats://host:port``, several of them separated by commas or in a list;
            without a port it is 4222. ``tls://`` turns *tls* on; credentials before an
            ``@`` become *user* and *password*, or *token*. Kept as a tuple.
        stream: the JetStream stream to look after; None is to leave that to others.
        subjects: what the stream must take, as a list or separated by commas. None is,
            for a stream that may have to be created, its name in lower case and
            everything below that: ``orders`` and ``orders.>``.
        ensure_stream: ``"create"`` the stream if it is absent, only ``"validate"`` it,
            or ``"skip"`` that. An existing stream is never changed.
        publish_mode: ``"single"``: each event is acknowledged by itself. ``"batch"``:
            those that wait go as one batch, which takes less CPU; the results then name
            no sequence. Needs nats-server 2.14 or newer, and a *stream* that is looked
            at and allows it (``allow_batched``); one that is created does.
        storage, replicas: of a stream that is created.
        duplicate_window: for how long a stream that is created recognises repeats.
            Default: 120, or *delivery_timeout* and 5 more if that is longer.
        jetstream: without it only plain messages can be published.
        js_domain: JetStream's domain, where it is not that of the server.
        ack_wait: how long events may stay without any acknowledgement until they are
            sent again on a new connection. Twice as long after each connection that was
            given up like this, up to nine tenths of *delivery_timeout*, until one comes in
            time again: a message may need longer than that on a slow line. Default: 5,
            or half of a *delivery_timeout* that is shorter than 10.
        ack_workers: threads that work on acknowledgements; None is two for each CPU
            that this process may use.
        connect_timeout: for one attempt to connect to one server.
        ping_interval: how often to ask the server whether it is there.
        reconnect_wait, max_reconnect_wait: between attempts, doubling from one to the
            other. Default of the latter: 2, or *reconnect_wait* if that is longer.
        user, password: what to log in with; each may be a function that returns it
            anew for every connection and does not block.
        token: the same, instead of a user.
        nkey_seed, nkey_seed_file: an NKey's seed, or the file that has it.
        creds_file: the file with a JWT and its seed.
        tls: whether to encrypt; the other ``tls`` settings need it.
        tls_ca: file with the certificates to trust; None is the system's.
        tls_cert, tls_key: files with the client's own certificate and its key.
        tls_hostname: the name in the servers' certificate, if it is not their host.
        inbox_prefix: of the subjects on which acknowledgements arrive.
        extra: any other argument of nats-py's ``connect``, except those that would
            break a promise of the bus.

    A default that follows from other settings follows them through ``attrs.evolve``
    too; what was given stays as it is.

    Raises:
        ConfigError: a setting is unknown, missing or wrong; it says which and why.
    """

    servers: tuple[str, ...] = attrs.field(
        default="nats://localhost:4222", converter=_servers.listed
    )
    stream: str | None = attrs.field(default=None, validator=_nats.name)
    subjects: tuple[str, ...] | None = attrs.field(
        default=None,
        converter=_nats.as_subjects,
        validator=_nats.subjects,
    )
    ensure_stream: Literal["create", "validate", "skip"] = attrs.field(
        default="create", validator=_fields.choice("create", "validate", "skip")
    )
    publish_mode: Literal["single", "batch"] = attrs.field(
        default="single", validator=_fields.choice("single", "batch")
    )
    storage: Literal["file", "memory"] = attrs.field(
        default="file", validator=_fields.choice("file", "memory")
    )
    replicas: int = attrs.field(default=1, validator=_fields.whole(1, 5))
    duplicate_window: float = attrs.field(
        default=_nats.FollowingSeconds(120),
        validator=_fields.seconds(zero=False),
    )
    jetstream: bool = attrs.field(default=True, validator=_fields.flag)
    js_domain: str | None = attrs.field(default=None, validator=_nats.name)
    ack_wait: float = attrs.field(
        default=_nats.FollowingSeconds(5),
        validator=_fields.seconds(zero=False),
    )
    ack_workers: int | None = attrs.field(
        default=None, validator=_fields.whole(1, 1000)
    )
    connect_timeout: float = attrs.field(
        default=2.0, validator=_fields.seconds(zero=False)
    )
    ping_interval: float = attrs.field(
        default=10.0, validator=_fields.seconds(zero=False)
    )
    reconnect_wait: float = attrs.field(
        default=0.1, validator=_fields.seconds(zero=False)
    )
    max_reconnect_wait: float = attrs.field(
        default=_nats.FollowingSeconds(2),
        validator=_fields.seconds(zero=False),
    )
    user: str | Callable[[], str] | None = attrs.field(
        default=None, validator=_nats.credential
    )
    password: str | Callable[[], str] | None = attrs.field(
        default=None, validator=_nats.credential, repr=hidden
    )
    token: str | Callable[[], str] | None = attrs.field(
        default=None, validator=_nats.credential, repr=hidden
    )
    nkey_seed: str | None = attrs.field(
        default=None, validator=_fields.secret, repr=hidden
    )
    nkey_seed_file: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    creds_file: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls: bool = attrs.field(default=False, validator=_fields.flag)
    tls_ca: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_cert: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_key: str | None = attrs.field(
        default=None, converter=as_path, validator=_fields.file
    )
    tls_hostname: str | None = attrs.field(default=None, validator=_fields.text)
    inbox_prefix: str = attrs.field(default="_INBOX", validator=_nats.prefix)
    extra: Mapping[str, object] = attrs.field(
        factory=dict,
        converter=_extra.as_read_only,
        validator=_extra.driver_settings(_extra.nats),
        hash=False,
    )

    def __attrs_post_init__(self) -> None:
        _nats.settle(self)
