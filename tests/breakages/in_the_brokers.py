"""What can be broken on the way to NATS and Kafka: promises 5 to 7, 9 and 10."""

from breakages.broken import Breakage


_NATS_ACK = "eventbus_sync/backends/nats/ack.py"
_NATS_BATCHES = "eventbus_sync/backends/nats/batches.py"
_NATS_CULPRIT = "eventbus_sync/backends/nats/culprit.py"
_NATS_PENDING = "eventbus_sync/backends/nats/pending.py"
_NATS_REFUSALS = "eventbus_sync/backends/nats/refusals.py"
_NATS_SENDER = "eventbus_sync/backends/nats/sender.py"
_NATS_RECORD = "eventbus_sync/backends/nats/record.py"
_NATS_WORKERS = "eventbus_sync/backends/nats/workers.py"
_KAFKA = "eventbus_sync/backends/kafka/backend.py"
_KAFKA_CLIENT = "eventbus_sync/backends/kafka/client.py"
_KAFKA_SETTINGS = "eventbus_sync/backends/kafka/settings.py"
_ENVELOPE = "eventbus_sync/envelope/envelope.py"

_HOSTILE_NATS = "tests/integration/test_nats_hostile.py::test_promise_1_"
_REFUSED_BY_NATS = "tests/unit/test_nats_refusals.py::test_promise_1_"
_AGAIN_ON_NATS = "tests/integration/test_promises_nats.py::test_promise_"
_AGAIN_ON_KAFKA = (
    "tests/integration/test_promises.py::test_promise_5_and_6_kafka_"
    "what_is_sent_again_is_stored_once_and_in_order"
)
_GIVEN_UP = (
    "tests/unit/test_kafka_backend.py::"
    "test_promise_5_a_producer_is_given_up_before_it_sends_again_under_a_new_epoch"
)
_MATRIX = "tests/integration/test_fault_matrix.py::test_promises_1_2_5_and_6"
_CUT = f"{_MATRIX}[network cut, twice, nats]"
_UNHEARD = f"{_MATRIX}[answers lost, and then the connection, nats]"
_KILLED_ON_KAFKA = (
    "tests/integration/test_matrix_kafka_broker.py::"
    "test_promises_1_2_5_and_6_killed_and_started_again"
)
_IN_BATCHES = "tests/integration/test_nats_batches.py::test_promise_"
_ON_NATS = "tests/conformance/test_nats.py::TestNats::test_"
_ON_KAFKA = "tests/conformance/test_kafka.py::TestEmbeddedKafka::test_"

IN_THE_BROKERS = [
    # -- promise 1: the right outcome, also for an event in a batch ----------------------
    Breakage(
        1,
        "what stands behind the refused event of a batch is called stored",
        _NATS_BATCHES,
        "            if ack is not None and number <= stored:\n",
        "            if ack is not None or number <= stored:\n",
        [f"{_IN_BATCHES}1_and_6_one_event_too_large_for_the_stream"],
    ),
    Breakage(
        1,
        "a refusal by permissions is put down to the oldest event",
        _NATS_REFUSALS,
        "            if len(unanswered) <= doubt.sure:\n",
        "            unanswered = unanswered[: doubt.sure]\n            if unanswered:\n",
        [f"{_REFUSED_BY_NATS}a_late_ack_is_not_taken_for_a_refusal"],
    ),
    # -- promise 5: stored once --------------------------------------------------------
    Breakage(
        5,
        "Nats-Msg-Id is left out",
        _NATS_RECORD,
        "        self.header = header_bytes([*message.headers, message_id])\n",
        "        self.header = header_bytes(message.headers)\n",
        [f"{_AGAIN_ON_NATS}5_nats_what_is_sent_again_is_stored_once", _CUT, _UNHEARD],
    ),
    Breakage(
        5,
        "Nats-Msg-Id does not name the subject",
        _NATS_RECORD,
        'f"{message.topic}|{message.event_id}"',
        'f"{message.event_id}"',
        [f"{_AGAIN_ON_NATS}5_nats_one_event_to_two_subjects_is_two_events"],
    ),
    Breakage(
        5,
        "the Kafka producer is not idempotent",
        _KAFKA_SETTINGS,
        "    if config.idempotence:\n",
        "    if not config.idempotence:\n",
        [_AGAIN_ON_KAFKA],
    ),
    Breakage(
        5,
        "Kafka stores again what a node has stored when it is killed",
        _KAFKA_SETTINGS,
        '        return {"enable.idempotence": True, "acks": "all"}\n',
        '        return {"enable.idempotence": False, "acks": "all"}\n',
        [_KILLED_ON_KAFKA],
        # Apache Kafka starts twice, and has to share the machine.
        patience=240,
    ),
    Breakage(
        5,
        "Kafka sends again what was stored without a word",
        "eventbus_sync/backends/kafka/poller.py",
        "        if client.may_repeat(oldest):\n",
        "        if not oldest:\n",
        [f"{_GIVEN_UP}[on_its_way]", f"{_GIVEN_UP}[went_unanswered]"],
    ),
    # -- promise 6: order per aggregate ------------------------------------------------
    Breakage(
        6,
        "what a batch leaves behind goes again newest first",
        _NATS_BATCHES,
        "        self._go_on(again)\n",
        "        self._go_on(again[::-1])\n",
        [f"{_IN_BATCHES}1_and_6_one_event_too_large_for_the_stream"],
    ),
    Breakage(
        6,
        "NATS sends again newest first",
        _NATS_PENDING,
        "        return iter(list(self._records.values()))\n",
        "        return iter(list(self._records.values())[::-1])\n",
        [f"{_AGAIN_ON_NATS}6_nats_what_is_sent_again_keeps_its_order", _CUT],
    ),
    Breakage(
        6,
        "NATS sends the new before what is unanswered",
        _NATS_SENDER,
        "        if self._again:\n            return self._again.popleft()\n",
        "        if self._again and not self._handover.events:\n"
        "            return self._again.popleft()\n",
        [f"{_AGAIN_ON_NATS}6_nats_what_is_sent_again_keeps_its_order"],
    ),
    Breakage(
        6,
        "NATS takes the newest first",
        _NATS_SENDER,
        "            record = events.popleft()\n",
        "            record = events.pop()\n",
        [f"{_ON_NATS}promise_6_order_per_aggregate"],
    ),
    Breakage(
        6,
        "Kafka gets no key",
        _KAFKA,
        "                    message.key or None,\n",
        "                    None,\n",
        [f"{_ON_KAFKA}promise_6_order_per_aggregate"],
    ),
    # -- promise 7: the same contract on every back end --------------------------------
    Breakage(
        7,
        "Kafka does not say where",
        _KAFKA_CLIENT,
        "Ack(message.partition(), message.offset())",
        "Ack()",
        [f"{_ON_KAFKA}results_carry_what_go_gives"],
    ),
    Breakage(
        7,
        "NATS does not say where",
        _NATS_ACK,
        "return Ack(None, None, stream.decode(), int(sequence), False)",
        "return Ack()",
        [f"{_ON_NATS}results_carry_what_go_gives"],
    ),
    Breakage(
        1,
        "Kafka raises what the broker refuses",
        _KAFKA,
        "            return refusal(exc.args[0])\n",
        "            raise EventBusError from exc\n",
        [
            "tests/integration/test_promises.py::test_promise_1_kafka_a_refusal_is_an_outcome"
        ],
    ),
    Breakage(
        1,
        "NATS blames an event for whatever ends a connection",
        _NATS_CULPRIT,
        "        return self._suspect == before\n",
        "        return True\n",
        [f"{_HOSTILE_NATS}no_innocent_event_is_settled[_cut_and_restart]"],
    ),
    # -- promise 9: clean exit ---------------------------------------------------------
    Breakage(
        9,
        "the ack workers outlive close",
        _NATS_WORKERS,
        "            end_pool(self._pool, deadline)\n",
        "            pass\n",
        [f"{_AGAIN_ON_NATS}9_nats_close_leaves_no_thread"],
    ),
    # -- promise 10: an outbox loses nothing -------------------------------------------
    Breakage(
        10,
        "Nats-Msg-Id is new for every publish",
        _NATS_RECORD,
        'f"{message.topic}|{message.event_id}"',
        'f"{message.topic}|{delivery.accepted_at}"',
        [f"{_ON_NATS}promise_10_a_repeat_is_recognisable"],
    ),
    Breakage(
        10,
        "a duplicate is not told from a new event",
        _NATS_ACK,
        'said.get("duplicate") is True',
        "False",
        [f"{_ON_NATS}promise_10_a_repeat_is_recognisable"],
    ),
    Breakage(
        10,
        "X-Event-ID is left out",
        _ENVELOPE,
        "            (_headers.EVENT_ID, self.event_id),\n",
        "",
        [f"{_ON_KAFKA}promise_10_a_repeat_is_recognisable"],
    ),
]
