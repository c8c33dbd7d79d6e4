"""What can be broken in forking and ending: promises 8 and 9."""

from breakages.broken import Breakage


_INFLIGHT = "eventbus_sync/_inflight.py"
_PROCESS = "eventbus_sync/_process.py"
_LIFECYCLE = "eventbus_sync/_lifecycle.py"
_RUNTIME = "eventbus_sync/_runtime.py"
_RESULTS = "eventbus_sync/results.py"
_BUS = "eventbus_sync/bus.py"
_MEMORY = "eventbus_sync/backends/memory.py"

_OURS = "tests/unit/test_promises.py::test_promise_"
_PROCESSES = "tests/integration/test_promises.py::test_promise_"
_FORK = "tests/integration/test_fork.py::test_promise_"
_EXIT = "tests/integration/test_exit.py::test_promise_"
_HOOKS = "tests/unit/test_lifecycle.py::test_promise_"
_CHANNEL = "tests/properties/test_channel_properties.py::TestChannel::runTest"
_LIFE = "tests/properties/test_lifecycle_properties.py::TestLifecycle::runTest"

AT_EXIT_AND_FORK = [
    # -- promise 8: fork-safe ----------------------------------------------------------
    Breakage(
        8,
        "the channel is not reset after fork",
        _PROCESS,
        "        self._channel._reset_after_fork()",
        "        pass",
        [f"{_PROCESSES}8_a_channel_from_before_the_fork_is_emptied_in_place"],
    ),
    Breakage(
        8,
        "the channel keeps the results of the parent",
        _RESULTS,
        "        self.queue.clear()\n",
        "",
        [
            f"{_PROCESSES}8_a_channel_from_before_the_fork_is_emptied_in_place",
            _CHANNEL,
        ],
    ),
    Breakage(
        8,
        "the channel keeps its lock",
        _RESULTS,
        "        self.mutex = threading.Lock()\n",
        "",
        [f"{_PROCESSES}8_locks_that_are_held_at_the_fork_hold_up_nobody"],
    ),
    Breakage(
        8,
        "the bus keeps its lock",
        _PROCESS,
        "        self._lock = threading.Lock()\n",
        '        self._lock = getattr(self, "_lock", threading.Lock())\n',
        [f"{_PROCESSES}8_locks_that_are_held_at_the_fork_hold_up_nobody"],
    ),
    Breakage(
        8,
        "the fork hook is not registered",
        _LIFECYCLE,
        "    os.register_at_fork(after_in_child=_after_fork_in_child)\n",
        "    pass\n",
        [f"{_PROCESSES}8_a_channel_from_before_the_fork_is_emptied_in_place"],
    ),
    Breakage(
        8,
        "the pid is not looked at",
        _PROCESS,
        "        if self._pid != os.getpid():\n            self._after_fork_in_child()\n",
        "        pass\n",
        [f"{_FORK}8_without_the_fork_hook"],
    ),
    Breakage(
        8,
        "a closed bus is open in the child",
        _PROCESS,
        "        self._reset(State.CLOSED if closed else State.NEW)\n",
        "        self._reset(State.NEW)\n",
        [f"{_FORK}8_fork_during_close"],
    ),
    Breakage(
        8,
        "what is inherited is freed",
        _LIFECYCLE,
        "    _abandoned.append(inherited)\n",
        "    del inherited\n",
        [f"{_PROCESSES}8_what_is_inherited_is_kept"],
    ),
    # -- promise 9: clean exit ---------------------------------------------------------
    Breakage(
        9,
        "events are accepted during close",
        _INFLIGHT,
        "                if self._closed:\n                    raise BusClosed\n",
        "            if self._obstacle_locked(event) is not None:\n",
        [f"{_OURS}9_nothing_is_accepted_during_close"],
    ),
    Breakage(
        9,
        "close takes longer than its deadline",
        _RUNTIME,
        "Deadline(deadline.at - teardown)",
        "Deadline(deadline.at + 4.0)",
        [f"{_OURS}9_close_keeps_its_deadline_as_a_whole"],
    ),
    Breakage(
        9,
        "close waits for no outcome",
        _RUNTIME,
        "        self.in_flight.wait_settled(Deadline(deadline.at - teardown))\n",
        "",
        [f"{_OURS}9_close_waits_for_outcomes"],
    ),
    Breakage(
        9,
        "closed is not final",
        _PROCESS,
        "            if self._state is State.CLOSED:\n                raise BusClosed\n",
        "",
        [f"{_OURS}9_closed_is_final", _LIFE],
    ),
    Breakage(
        9,
        "the channel does not end",
        _PROCESS,
        "            self._channel._end()  # noqa: SLF001 - the bus's side",
        "            pass  # noqa: SLF001 - the bus's side",
        [f"{_OURS}9_closed_is_final", f"{_OURS}9_close_wakes_a_reader"],
    ),
    Breakage(
        9,
        "the end of the channel wakes nobody",
        _RESULTS,
        "            self._ended = True\n            self._readers.wake_all_locked()\n",
        "            self._ended = True\n",
        [f"{_OURS}9_close_wakes_a_reader"],
    ),
    Breakage(
        9,
        "with does not close",
        _BUS,
        "    ) -> None:\n        self.close()\n",
        "    ) -> None:\n        pass\n",
        [f"{_OURS}9_with_closes"],
    ),
    Breakage(
        9,
        "the worker outlives close",
        _MEMORY,
        "            self._closing = True\n",
        "            self._closing = False\n",
        [f"{_OURS}9_close_leaves_no_thread"],
    ),
    Breakage(
        9,
        "the callback thread outlives close",
        _RUNTIME,
        "        self.observer.stop(deadline)\n",
        "",
        [f"{_OURS}9_close_leaves_no_thread"],
    ),
    Breakage(
        9,
        "a second closer does not wait",
        _PROCESS,
        "        if not closing.acquire(timeout=deadline.remaining()):\n",
        "        if not closing.acquire(timeout=0):\n",
        [f"{_OURS}9_a_second_closer_waits_for_the_first"],
    ),
    Breakage(
        9,
        "the exit hook does nothing",
        _PROCESS,
        'at exit", self._config.name)\n        self._close(deadline)\n',
        'at exit", self._config.name)\n',
        [
            f"{_PROCESSES}9_a_process_flushes_before_it_ends",
            f"{_PROCESSES}9_a_process_ends_within_exit_timeout",
            f"{_HOOKS}9_the_exit_hook_closes",
        ],
    ),
    Breakage(
        9,
        "the exit hook is not registered",
        _LIFECYCLE,
        "    _running.add(bus)\n    register_exit_hook()\n",
        "    _running.add(bus)\n",
        [f"{_PROCESSES}9_a_process_flushes_before_it_ends"],
    ),
    Breakage(
        9,
        "a reader of an unused bus is forgotten at exit",
        _BUS,
        "        _lifecycle.register_exit_hook()\n",
        "",
        [f"{_PROCESSES}9_a_reader_of_an_unused_bus_is_told_the_end"],
    ),
    Breakage(
        9,
        "exit takes longer than exit_timeout",
        _PROCESS,
        "Deadline(started + self._config.exit_timeout)",
        "Deadline(started + self._config.exit_timeout + 5.0)",
        [f"{_OURS}9_exit_gives_close_exit_timeout"],
    ),
    Breakage(
        9,
        "the end does not say what it left",
        _PROCESS,
        "                if left:\n",
        "                if not left:\n",
        [f"{_PROCESSES}9_a_process_ends_within_exit_timeout"],
    ),
    Breakage(
        9,
        "the exit hook forgets whose bus it is",
        _PROCESS,
        "        if self._pid != os.getpid() or self._state is State.CLOSED:\n",
        "        if self._state is State.CLOSED:\n",
        [f"{_HOOKS}9_the_exit_hook_of_a_parent_does_nothing"],
    ),
    Breakage(
        9,
        "the exit hook comes before the publishers end",
        _LIFECYCLE,
        "        _wait_for_publishers()\n",
        "        pass\n",
        [f"{_EXIT}9_nats_flushes_at_exit[thread-127.0.0.1]"],
    ),
]
