"""What can be broken in the core, and is seen on memory: promises 1 to 5 and 10."""

from breakages.broken import Breakage


_INFLIGHT = "eventbus_sync/_inflight.py"
_RESULTS = "eventbus_sync/results.py"
_RUNTIME = "eventbus_sync/_runtime.py"
_OBSERVE = "eventbus_sync/observe.py"
_BUS = "eventbus_sync/bus.py"
_ERRORS = "eventbus_sync/errors.py"
_MEMORY = "eventbus_sync/backends/memory.py"
_THREADS = "eventbus_sync/_threads.py"

_OURS = "tests/unit/test_promises.py::test_promise_"
_ON_A_BUS = "tests/unit/test_bus.py::test_promise_"
_ON_MEMORY = "tests/conformance/test_memory.py::TestMemory::test_promise_"
_CHANNEL = "tests/properties/test_channel_properties.py::TestChannel::runTest"

IN_THE_CORE = [
    # -- promise 1: the right outcome --------------------------------------------------
    Breakage(
        1,
        "what is called rejected is stored",
        _MEMORY,
        "        error = DeliveryTimedOut()\n",
        "        from eventbus_sync.errors import BrokerUnavailable\n"
        "        for queued in overdue:\n"
        "            self.broker.take(queued.message)\n"
        "        error = BrokerUnavailable()\n",
        [f"{_ON_MEMORY}1_frozen_broker_ends_in_outcomes"],
    ),
    # -- promise 1: two roads ----------------------------------------------------------
    Breakage(
        1,
        "settle counts a second outcome",
        _INFLIGHT,
        "if event.state != IN_FLIGHT:\n                        self._late",
        "if event.state == 0:\n                        self._late",
        [f"{_OURS}1_a_second_outcome_is_only_counted"],
    ),
    Breakage(
        1,
        "withdraw does not give the event back",
        _INFLIGHT,
        "            self._accepted -= 1\n",
        "",
        [f"{_OURS}1_a_failed_hand_over_was_never_accepted"],
    ),
    Breakage(
        1,
        "withdraw does not give the bytes back",
        _INFLIGHT,
        "            self._bytes -= event.size\n            self._wake_locked()\n",
        "            self._wake_locked()\n",
        [f"{_OURS}1_a_failed_hand_over_was_never_accepted"],
    ),
    Breakage(
        1,
        "withdraw wakes nobody",
        _INFLIGHT,
        "            self._wake_locked()\n            return True\n",
        "            return True\n",
        [f"{_OURS}1_a_failed_hand_over_leaves_its_room_to_others"],
    ),
    Breakage(
        1,
        "a settled event is raised as well",
        _RUNTIME,
        "            if self.in_flight.withdraw(event):\n                raise\n",
        "            self.in_flight.withdraw(event)\n            raise\n",
        [f"{_OURS}1_settled_while_the_hand_over_failed"],
    ),
    Breakage(
        1,
        "nothing expires",
        _RUNTIME,
        "        self.in_flight.expire()\n",
        "",
        [f"{_OURS}1_a_forgotten_event_ends_within_two_seconds"],
    ),
    Breakage(
        1,
        "outcomes come two seconds too late",
        _INFLIGHT,
        "EXPIRY_GRACE = 1.5\n",
        "EXPIRY_GRACE = 3.5\n",
        [f"{_OURS}1_a_forgotten_event_ends_within_two_seconds"],
    ),
    Breakage(
        1,
        "close leaves the rest unsettled",
        _RUNTIME,
        "        self.in_flight.abandon()\n",
        "",
        [f"{_OURS}1_close_settles_what_the_back_end_forgot"],
    ),
    Breakage(
        1,
        "close leaves publishers waiting",
        _INFLIGHT,
        "            self._closed = True\n            self._room.wake_all_locked()\n",
        "            self._closed = True\n",
        [f"{_OURS}1_close_ends_the_wait_for_room"],
    ),
    Breakage(
        1,
        "an interrupted wait takes its outcome along",
        _INFLIGHT,
        "            waiter.gone = True\n",
        "",
        [f"{_OURS}1_an_interrupted_wait_leaves_its_outcome_to_the_channel"],
    ),
    Breakage(
        1,
        "an exception can land between the books",
        _INFLIGHT,
        "                    self._accepted += 1\n",
        "                    self._accepted += 1\n                    time.monotonic()\n",
        [f"{_ON_A_BUS}1_an_exception_injected_anywhere_loses_nothing"],
    ),
    Breakage(
        1,
        "a callback that raises silences the others",
        _OBSERVE,
        "                self._guarded(lambda: callback(result))",
        "                callback(result)",
        [f"{_OURS}1_a_callback_that_raises_costs_the_others_nothing"],
    ),
    # -- promise 2: the books balance --------------------------------------------------
    Breakage(
        2,
        "dropped results are not counted",
        _RESULTS,
        "            self._dropped += dropped\n",
        "",
        [f"{_OURS}2_each_outcome_is_in_one_book", _CHANNEL],
    ),
    Breakage(
        2,
        "taken results are not counted",
        _RESULTS,
        "            self._inserted += inserted\n",
        "",
        [
            f"{_OURS}2_each_outcome_is_in_one_book",
            f"{_ON_MEMORY}2_books_balance_in_every_snapshot",
            _CHANNEL,
        ],
    ),
    Breakage(
        2,
        "returned outcomes are not counted",
        _INFLIGHT,
        "                        self._returned += 1\n",
        "",
        [f"{_OURS}2_each_outcome_is_in_one_book"],
    ),
    Breakage(
        2,
        "a returned outcome lands on the channel as well",
        _INFLIGHT,
        "                    if waiter is None or waiter.gone:\n"
        "                        handing_over += [result]\n"
        "                    else:\n",
        "                    handing_over += [result]\n"
        "                    if waiter is not None:\n",
        [
            f"{_OURS}2_each_outcome_is_in_one_book",
            f"{_OURS}1_sync_gets_its_own_outcome",
        ],
    ),
    Breakage(
        2,
        "a rejected event counts as unknown",
        _INFLIGHT,
        "                    self._rejected += 1\n",
        "                    self._unknown += 1\n",
        [f"{_OURS}2_each_outcome_is_in_one_book"],
    ),
    Breakage(
        2,
        "what is on its way into the channel is in no book",
        _INFLIGHT,
        "                dropped = self._hand_over_locked()\n                for",
        "                on_its_way, self._handing_over = self._handing_over, []\n"
        "                self._lock.release()\n"
        "                dropped = self._channel._offer(on_its_way)\n"
        "                self._lock.acquire()\n                for",
        [f"{_OURS}2_settling_and_queueing_are_one_step"],
    ),
    Breakage(
        2,
        "a snapshot is two readings",
        _INFLIGHT,
        "            channel = self._channel._counts()",
        "            self._lock.release()\n"
        "            channel = self._channel._counts()\n"
        "            self._lock.acquire()",
        [f"{_OURS}2_a_snapshot_is_one_reading"],
    ),
    Breakage(
        2,
        "reserve does not look at the queue",
        _INFLIGHT,
        "            if self._events + queued >= self._channel.maxsize:\n",
        "            if self._events >= self._channel.maxsize:\n",
        [
            f"{_OURS}2_reserve_bounds_what_is_in_flight_and_unread",
            f"{_ON_MEMORY}4_reserve_never_drops",
        ],
    ),
    # -- promise 3: the caller never waits for a broker --------------------------------
    Breakage(
        3,
        "publish waits for the ack",
        _RUNTIME,
        "            self.backend.send(message, event, deadline)\n",
        "            self.backend.send(message, event, deadline)\n"
        "            self.in_flight.wait_settled(deadline)\n",
        [f"{_OURS}3_the_first_use_waits_for_no_broker"],
    ),
    Breakage(
        3,
        "the first use waits for the broker",
        _RUNTIME,
        "        self.backend.start()\n",
        "        self.backend.start()\n"
        "        self.backend.check(Deadline.after(5.0))\n",
        [f"{_OURS}3_the_first_use_waits_for_no_broker"],
    ),
    Breakage(
        3,
        "register ignores the limit",
        _INFLIGHT,
        "        if self._events >= self._max_events:\n",
        "        if self._events > self._max_events:\n",
        [
            f"{_ON_MEMORY}3_the_caller_never_waits_for_the_broker",
            f"{_OURS}3_the_wait_for_room_ends_at_publish_timeout",
        ],
    ),
    Breakage(
        3,
        "the wait for room has no end",
        _INFLIGHT,
        "            ticket.acquire(timeout=remaining)\n\n    def _step_aside",
        "            ticket.acquire()\n\n    def _step_aside",
        [f"{_OURS}3_the_wait_for_room_ends_at_publish_timeout"],
    ),
    Breakage(
        3,
        "room that becomes free is told to one only",
        _THREADS,
        "        for ticket in tuple(self._tickets):\n",
        "        for ticket in tuple(self._tickets)[:1]:\n",
        [f"{_OURS}3_room_is_taken_as_soon_as_it_is_there"],
    ),
    # -- promise 4: the ack side never blocks ------------------------------------------
    Breakage(
        4,
        "a full channel blocks",
        _RESULTS,
        "            fits = results[:room]\n",
        "            self.not_full.wait_for(lambda: len(self.queue) < self.maxsize, 1)\n"
        "            fits = results[:1]\n",
        [f"{_OURS}4_a_full_channel_holds_up_no_ack"],
    ),
    Breakage(
        4,
        "a full channel drops the oldest",
        _RESULTS,
        "            self.queue += fits\n",
        "            self.queue += results\n"
        "            while len(self.queue) > self.maxsize:\n"
        "                self.queue.popleft()\n",
        [f"{_OURS}4_the_oldest_results_stay", _CHANNEL],
    ),
    Breakage(
        4,
        "the channel has no bound",
        _RESULTS,
        "            fits = results[:room]\n",
        "            fits = results[:]\n",
        [
            f"{_OURS}4_a_full_channel_holds_up_no_ack",
            f"{_ON_MEMORY}4_a_full_channel_costs_results_not_acks",
            _CHANNEL,
        ],
    ),
    Breakage(
        4,
        "drops are not reported",
        _OBSERVE,
        "        self.report(ResultsDropped(text))\n",
        "",
        [f"{_OURS}4_drops_are_said"],
    ),
    Breakage(
        4,
        "a callback runs on the thread that settles",
        _OBSERVE,
        "            self._pending += weight\n"
        "            self._jobs.append((weight, job))\n",
        "            job()\n",
        [f"{_OURS}4_a_callback_that_blocks_holds_up_no_ack"],
    ),
    Breakage(
        4,
        "reserve keeps no place for what is in flight",
        _INFLIGHT,
        "            if self._events + queued >= self._channel.maxsize:\n",
        "            if queued >= self._channel.maxsize:\n",
        [f"{_ON_MEMORY}4_reserve_never_drops"],
    ),
    Breakage(
        4,
        "a result that is read wakes nobody",
        _RUNTIME,
        "= self.in_flight.room_freed if reserve else None",
        "= None",
        [
            f"{_OURS}4_reserve_a_read_result_is_room[get]",
            f"{_OURS}4_reserve_a_read_result_is_room[get_many]",
        ],
    ),
    # -- promise 5: stored once; and 6: order per aggregate ----------------------------
    Breakage(
        5,
        "memory stores a repeat",
        _MEMORY,
        "            position = self._positions.get(identity) if message.event_id else None",
        "            position = None",
        [
            f"{_OURS}5_a_repeat_is_stored_once",
            f"{_ON_MEMORY}10_a_repeat_is_recognisable",
        ],
    ),
    Breakage(
        6,
        "memory takes the newest first",
        _MEMORY,
        "            ready.append(self._queue.popleft())\n",
        "            ready.append(self._queue.pop())\n",
        [
            f"{_ON_MEMORY}6_order_per_aggregate",
            f"{_ON_MEMORY}5_and_6_across_a_freeze",
        ],
    ),
    # -- promise 7: the same contract on every back end --------------------------------
    Breakage(
        7,
        "a back end leaves the suite",
        "tests/conformance/test_nats.py",
        "class TestNats(BackendConformance):\n",
        "class TestNats:\n",
        [f"{_OURS}7_one_suite_runs_on_every_back_end"],
    ),
    Breakage(
        7,
        "a back end changes a test",
        "tests/conformance/test_memory.py",
        "    @pytest.fixture\n",
        "    def test_promise_6_order_per_aggregate(self) -> None:\n"
        '        """Not here."""\n\n'
        "    @pytest.fixture\n",
        [f"{_OURS}7_one_suite_runs_on_every_back_end"],
    ),
    # -- promise 10: an outbox loses nothing -------------------------------------------
    Breakage(
        10,
        "the broker is not told the event id",
        _BUS,
        "envelope.aggregate_id, value, wire_headers, envelope.event_id, size",
        'envelope.aggregate_id, value, wire_headers, "", size',
        [
            f"{_OURS}10_a_repeat_after_an_unknown_outcome_is_recognised",
            f"{_OURS}10_a_repeat_after_a_dropped_result_is_recognised",
            f"{_ON_MEMORY}10_a_repeat_is_recognisable",
        ],
    ),
    Breakage(
        10,
        "unknown does not say try again",
        _ERRORS,
        '    default_code = "unknown"\n    default_retriable = True\n',
        '    default_code = "unknown"\n',
        [
            f"{_OURS}10_a_repeat_after_an_unknown_outcome_is_recognised",
            f"{_ON_MEMORY}1_frozen_broker_ends_in_outcomes",
        ],
    ),
]
