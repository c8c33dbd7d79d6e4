"""
What Kafka says, in our words: which error is a refusal, which leaves a doubt.

A *rejected* event was certainly not stored by the attempt that the error answers; for
every other error the outcome is *unknown*. A code that is not in the table is unknown.
"""

# ruff: noqa: SLF001 - the driver's own codes begin with an underscore, and are public

from typing import TypeVar

from confluent_kafka import KafkaError, KafkaException

from eventbus_sync.errors import (
    Abandoned,
    BrokerFull,
    BrokerUnavailable,
    ConnectionLost,
    DeliveryTimedOut,
    DestinationNotFound,
    IllegalTopic,
    MessageRefused,
    NotAuthorized,
    ProducerLost,
    PublishError,
    PublishRejected,
    PublishUnknown,
)


E = TypeVar("E", bound=PublishError)

_CODES: dict[type[PublishError], tuple[int, ...]] = {
    # -- refused: this attempt stored nothing ------------------------------------------
    IllegalTopic: (KafkaError.TOPIC_EXCEPTION,),
    # Not retriable only if the event was alone in its batch: see publish_error.
    MessageRefused: (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE),
    NotAuthorized: (
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
        KafkaError.SECURITY_DISABLED,
        KafkaError.PRINCIPAL_DESERIALIZATION_FAILURE,
    ),
    DestinationNotFound: (
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError.INCONSISTENT_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
    ),
    BrokerFull: (
        KafkaError.THROTTLING_QUOTA_EXCEEDED,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LOG_DIR_NOT_FOUND,
        KafkaError._QUEUE_FULL,
    ),
    BrokerUnavailable: (
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
    ),
    PublishRejected: (
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_MSG,
        KafkaError.INVALID_MSG_SIZE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_PARTITIONS,
        KafkaError.INVALID_REQUEST,
        KafkaError.INVALID_REQUIRED_ACKS,
        KafkaError.INVALID_CONFIG,
        KafkaError.POLICY_VIOLATION,
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
        KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
        KafkaError._BAD_COMPRESSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError._INVALID_ARG,
        KafkaError._INVALID_TYPE,
        KafkaError._KEY_SERIALIZATION,
        KafkaError._VALUE_SERIALIZATION,
    ),
    # -- in doubt: it may be stored ----------------------------------------------------
    DeliveryTimedOut: (
        KafkaError._MSG_TIMED_OUT,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError.REQUEST_TIMED_OUT,
    ),
    ConnectionLost: (
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._SSL,
        KafkaError._AUTHENTICATION,
        KafkaError._NODE_UPDATE,
        KafkaError._UNKNOWN_BROKER,
        KafkaError._DESTROY_BROKER,
        KafkaError._BAD_MSG,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.REBOOTSTRAP_REQUIRED,
    ),
    ProducerLost: (
        KafkaError._FATAL,
        KafkaError._FENCED,
        KafkaError._INCONSISTENT,
        KafkaError._GAPLESS_GUARANTEE,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER,
        KafkaError.DUPLICATE_SEQUENCE_NUMBER,
        KafkaError.UNKNOWN_PRODUCER_ID,
    ),
    Abandoned: (
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._DESTROY,
    ),
    PublishUnknown: (
        KafkaError.UNKNOWN,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError._FAIL,
        KafkaError._CRIT_SYS_RESOURCE,
        KafkaError._FS,
        KafkaError._RETRY,
        KafkaError._STATE,
        KafkaError._INTR,
    ),
}

#: Kafka error code → our class.
KINDS: dict[int, type[PublishError]] = {
    code: kind for kind, codes in _CODES.items() for code in codes
}

#: Reports after which a producer reports the same for ever, fatal or not.
LASTING = frozenset(
    {
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
        KafkaError._FENCED,
        KafkaError._FATAL,
    }
)

#: Answers to a whole batch, whichever of its events is to blame.
TOO_LARGE = frozenset(_CODES[MessageRefused])

#: What an event gets that was thrown out of the driver's queue.
PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})

#: Answers to the request for a producer id that a new producer would get as well.
PRODUCER_ID_REFUSED = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError._UNSUPPORTED_FEATURE,
    }
)

#: Connection errors that another attempt with the same settings would meet as well.
LOGIN_REFUSED = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)

_TEXTS: dict[type[PublishError], str] = {
    IllegalTopic: "the broker does not accept this topic name",
    MessageRefused: "the event alone is larger than the broker takes: publish less, or "
    "raise max.message.bytes of the topic",
    NotAuthorized: "these credentials may not publish there: grant Write on the topic",
    DestinationNotFound: "there is no such topic: create it",
    BrokerFull: "a quota or the broker's disk is full",
    BrokerUnavailable: "no broker could take the event",
    PublishRejected: "the broker refused the event",
    DeliveryTimedOut: "no answer came within delivery_timeout",
    ConnectionLost: "the connection ended before the answer came",
    ProducerLost: "the producer was fenced or failed, and is being replaced",
    Abandoned: "the bus was closed before the broker answered",
    PublishUnknown: "the broker's answer does not say whether the event is stored",
}


def publish_error(
    error: KafkaError, *, trouble: str = "", doubted: bool = False, alone: bool = True
) -> PublishError:
    """
    Return the outcome that *error* in a delivery report means.

    Args:
        error: what the driver reported.
        trouble: the last connection error, named where the outcome is unknown.
        doubted: an earlier attempt may have gone unanswered, so that no refusal
            proves that nothing is stored.
        alone: whether no other event shared the batch.
    """
    kind = KINDS.get(error.code(), PublishUnknown)
    if kind is MessageRefused and not alone:
        return _chained(
            PublishRejected(
                "the batch with this event is larger than the broker takes: raise "
                "max.message.bytes of the topic, or lower batch.size by "
                f"extra= ({_said(error)})",
                code="batch_too_large",
            ),
            error,
        )
    text = f"{_TEXTS[kind]} ({_said(error)})"
    if doubted and issubclass(kind, PublishRejected):
        kind = ConnectionLost
        text += "; an attempt before that went unanswered, so it may be stored"
    if trouble and issubclass(kind, PublishUnknown):
        text += f"; last connection error: {trouble}"
    return _chained(kind(text), error)


def refusal(error: KafkaError) -> PublishRejected:
    """Return what *error* raised by ``produce()`` means: nothing was even queued."""
    kind = KINDS.get(error.code(), PublishRejected)
    if not issubclass(kind, PublishRejected):
        kind = PublishRejected
    return _chained(kind(f"{_TEXTS[kind]} ({_said(error)})"), error)


def producer_lost(error: KafkaError) -> ProducerLost:
    """Return what becomes of events that were with a producer when it was lost."""
    return _chained(ProducerLost(f"{_TEXTS[ProducerLost]} ({_said(error)})"), error)


def producer_id_refused(error: KafkaError) -> PublishRejected:
    """Return what becomes of events while the broker grants no producer id."""
    if error.code() == KafkaError._UNSUPPORTED_FEATURE:
        rejected: PublishRejected = PublishRejected(
            "the broker knows no idempotent producers: use one from 0.11 on, or set "
            "idempotence=False (events may then be stored twice and out of order) "
            f"({_said(error)})"
        )
    else:
        rejected = NotAuthorized(
            "the broker refused a producer id to these credentials: grant Write on a "
            "topic, or, before Kafka 2.8, IdempotentWrite on the cluster; or set "
            "idempotence=False (events may then be stored twice and out of order) "
            f"({_said(error)})"
        )
    return _chained(rejected, error)


def _said(error: KafkaError) -> str:
    return f"{error.name()}: {error.str()}"


def _chained(ours: E, error: KafkaError) -> E:
    ours.__cause__ = KafkaException(error)
    return ours
