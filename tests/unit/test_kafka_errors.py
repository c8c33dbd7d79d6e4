"""Every error of Kafka's has an outcome, and the outcome says what an outbox needs."""

import pytest

from confluent_kafka import KafkaError, KafkaException

from eventbus_sync.backends.kafka.errors import (
    KINDS,
    LASTING,
    PURGED,
    producer_id_refused,
    producer_lost,
    publish_error,
    refusal,
)
from eventbus_sync.errors import (
    Abandoned,
    BrokerFull,
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


CODES = {
    name: code
    for name in dir(KafkaError)
    if isinstance(code := getattr(KafkaError, name), int) and name.strip("_").isupper()
}

# Consumers, groups, transactions, administration and the driver's own housekeeping: no
# producer ever reports them of an event. If one does so all the same, it is in doubt.
_NAMES = """
    _APPLICATION _ASSIGNMENT_LOST _ASSIGN_PARTITIONS _AUTO_OFFSET_RESET _CONFLICT
    _EXISTING_SUBSCRIPTION _INVALID_DIFFERENT_RECORD _IN_PROGRESS _ISR_INSUFF
    _KEY_DESERIALIZATION _LOG_TRUNCATION _MAX_POLL_EXCEEDED _NOENT _NOOP
    _NOT_CONFIGURED _NOT_IMPLEMENTED _NO_OFFSET _OUTDATED _PARTIAL _PARTITION_EOF
    _PREV_IN_PROGRESS _READ_ONLY _REVOKE_PARTITIONS _UNDERFLOW _UNKNOWN_GROUP
    _UNKNOWN_PROTOCOL _VALUE_DESERIALIZATION _WAIT_CACHE _WAIT_COORD
    CONCURRENT_TRANSACTIONS COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE
    DELEGATION_TOKEN_AUTHORIZATION_FAILED DELEGATION_TOKEN_AUTH_DISABLED
    DELEGATION_TOKEN_EXPIRED DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED DUPLICATE_RESOURCE DUPLICATE_VOTER
    ELECTION_NOT_NEEDED ELIGIBLE_LEADERS_NOT_AVAILABLE FEATURE_UPDATE_FAILED
    FENCED_INSTANCE_ID FENCED_MEMBER_EPOCH FENCED_STATE_EPOCH
    FETCH_SESSION_ID_NOT_FOUND GROUP_AUTHORIZATION_FAILED GROUP_ID_NOT_FOUND
    GROUP_MAX_SIZE_REACHED GROUP_SUBSCRIBED_TO_TOPIC ILLEGAL_GENERATION
    INCONSISTENT_GROUP_PROTOCOL INCONSISTENT_VOTER_SET INVALID_COMMIT_OFFSET_SIZE
    INVALID_FETCH_SESSION_EPOCH INVALID_GROUP_ID INVALID_PRINCIPAL_TYPE
    INVALID_RECORD_STATE INVALID_REGISTRATION INVALID_REGULAR_EXPRESSION
    INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT INVALID_SESSION_TIMEOUT
    INVALID_SHARE_SESSION_EPOCH INVALID_TRANSACTION_TIMEOUT INVALID_TXN_STATE
    INVALID_UPDATE_VERSION INVALID_VOTER_KEY LISTENER_NOT_FOUND MEMBER_ID_REQUIRED
    MISMATCHED_ENDPOINT_TYPE NON_EMPTY_GROUP NOT_CONTROLLER NOT_COORDINATOR NO_ERROR
    NO_REASSIGNMENT_IN_PROGRESS OFFSET_METADATA_TOO_LARGE OFFSET_NOT_AVAILABLE
    OFFSET_OUT_OF_RANGE OPERATION_NOT_ATTEMPTED PREFERRED_LEADER_NOT_AVAILABLE
    REASSIGNMENT_IN_PROGRESS REBALANCE_IN_PROGRESS RESOURCE_NOT_FOUND
    SHARE_SESSION_LIMIT_REACHED SHARE_SESSION_NOT_FOUND STALE_BROKER_EPOCH
    STALE_CTRL_EPOCH STALE_MEMBER_EPOCH STREAMS_INVALID_TOPOLOGY
    STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED TELEMETRY_TOO_LARGE
    TOPIC_ALREADY_EXISTS TOPIC_DELETION_DISABLED TRANSACTION_ABORTABLE
    TRANSACTION_COORDINATOR_FENCED UNACCEPTABLE_CREDENTIAL UNKNOWN_CONTROLLER_ID
    UNKNOWN_MEMBER_ID UNKNOWN_SUBSCRIPTION_ID UNRELEASED_INSTANCE_ID
    UNSTABLE_OFFSET_COMMIT UNSUPPORTED_ASSIGNOR UNSUPPORTED_ENDPOINT_TYPE
    VOTER_NOT_FOUND
"""
NOT_OF_EVENTS = set(_NAMES.split())


def test_no_code_of_the_driver_is_forgotten() -> None:
    """A code that a new driver brings fails here until somebody has thought of it."""
    listed = {name for name, code in CODES.items() if code in KINDS}
    assert not listed & NOT_OF_EVENTS
    assert listed | NOT_OF_EVENTS == set(CODES)


@pytest.mark.parametrize("name", sorted(CODES))
def test_every_code_becomes_an_outcome(name: str) -> None:
    """Any report becomes a PublishError that names and chains the driver's error."""
    error = KafkaError(CODES[name])
    outcome = publish_error(error)
    assert isinstance(outcome, PublishRejected | PublishUnknown)
    assert outcome.maybe_delivered is isinstance(outcome, PublishUnknown)
    assert name in str(outcome)
    assert isinstance(outcome.__cause__, KafkaException)
    assert outcome.__cause__.args[0].code() == CODES[name]


@pytest.mark.parametrize("name", sorted(NOT_OF_EVENTS))
def test_what_is_not_of_events_leaves_a_doubt(name: str) -> None:
    """An unexpected error never claims that nothing is stored."""
    assert type(publish_error(KafkaError(CODES[name]))) is PublishUnknown


def test_a_code_of_the_future_leaves_a_doubt() -> None:
    """An error that this driver does not know is unknown and retriable."""
    outcome = publish_error(KafkaError(9999))
    assert type(outcome) is PublishUnknown
    assert outcome.retriable


@pytest.mark.parametrize("name", sorted(CODES))
def test_only_the_events_own_faults_are_final(name: str) -> None:
    """Only an illegal topic and a too large event are not retriable."""
    final = {"TOPIC_EXCEPTION", "MSG_SIZE_TOO_LARGE", "RECORD_LIST_TOO_LARGE"}
    assert publish_error(KafkaError(CODES[name])).retriable is (name not in final)
    assert publish_error(KafkaError(CODES[name]), alone=False).retriable is (
        name != "TOPIC_EXCEPTION"
    )


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._MSG_TIMED_OUT, DeliveryTimedOut),
        (KafkaError.REQUEST_TIMED_OUT, DeliveryTimedOut),
        (KafkaError._PURGE_QUEUE, Abandoned),
        (KafkaError._PURGE_INFLIGHT, Abandoned),
        (KafkaError._FATAL, ProducerLost),
        (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, ProducerLost),
        (KafkaError.PRODUCER_FENCED, ProducerLost),
        (KafkaError.INVALID_PRODUCER_EPOCH, ProducerLost),
        (KafkaError.INVALID_PRODUCER_ID_MAPPING, ProducerLost),
        (KafkaError.NETWORK_EXCEPTION, ConnectionLost),
        (KafkaError._TRANSPORT, ConnectionLost),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, PublishUnknown),
        (KafkaError.NOT_ENOUGH_REPLICAS, PublishRejected),
        (KafkaError.INVALID_RECORD, PublishRejected),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, NotAuthorized),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, NotAuthorized),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, DestinationNotFound),
        (KafkaError._UNKNOWN_TOPIC, DestinationNotFound),
        (KafkaError.THROTTLING_QUOTA_EXCEEDED, BrokerFull),
        (KafkaError.KAFKA_STORAGE_ERROR, BrokerFull),
        (KafkaError.TOPIC_EXCEPTION, IllegalTopic),
        (KafkaError.MSG_SIZE_TOO_LARGE, MessageRefused),
    ],
)
def test_the_outcomes_that_are_promised(code: int, kind: type[PublishError]) -> None:
    """What the documentation names comes out as it says."""
    assert type(publish_error(KafkaError(code))) is kind


@pytest.mark.parametrize(
    "code", [KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE]
)
def test_a_batch_that_is_too_large_is_retried(code: int) -> None:
    """A refusal which a whole batch shares does not kill its events one by one."""
    outcome = publish_error(KafkaError(code), alone=False)
    assert type(outcome) is PublishRejected
    assert outcome.retriable
    assert outcome.code == "batch_too_large"
    assert "batch.size" in str(outcome)


def test_a_refusal_after_an_unanswered_attempt_proves_nothing() -> None:
    """Rejected means that every attempt was refused; otherwise it is unknown."""
    outcome = publish_error(KafkaError(KafkaError.INVALID_RECORD), doubted=True)
    assert type(outcome) is ConnectionLost
    assert "unanswered" in str(outcome)
    timed_out = publish_error(KafkaError(KafkaError._MSG_TIMED_OUT), doubted=True)
    assert type(timed_out) is DeliveryTimedOut


def test_unknown_outcomes_name_the_last_connection_error() -> None:
    """A timeout says why nobody answered; a refusal needs no such guess."""
    trouble = "127.0.0.1:1: connection refused"
    timed_out = publish_error(KafkaError(KafkaError._MSG_TIMED_OUT), trouble=trouble)
    refused = publish_error(KafkaError(KafkaError.INVALID_RECORD), trouble=trouble)
    assert trouble in str(timed_out)
    assert trouble not in str(refused)


@pytest.mark.parametrize("name", sorted(CODES))
def test_what_produce_refuses_was_never_sent(name: str) -> None:
    """An error raised by produce() is a rejection: nothing was even queued."""
    assert isinstance(refusal(KafkaError(CODES[name])), PublishRejected)


def test_a_lost_producer_leaves_its_events_in_doubt() -> None:
    """What was with a fenced or failed producer may be stored."""
    outcome = producer_lost(KafkaError(KafkaError.PRODUCER_FENCED))
    assert outcome.maybe_delivered
    assert outcome.retriable
    assert KafkaError.PRODUCER_FENCED in LASTING
    assert not LASTING & PURGED


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError._UNSUPPORTED_FEATURE,
    ],
)
def test_a_refused_producer_id_says_what_to_do(code: int) -> None:
    """The text names the way out, and the event can be retried after it was gone."""
    outcome = producer_id_refused(KafkaError(code))
    assert "idempotence=False" in str(outcome)
    assert outcome.retriable
    assert not outcome.maybe_delivered
    assert isinstance(outcome, NotAuthorized) is (code > 0)
    assert ("IdempotentWrite" in str(outcome)) is (code > 0)
