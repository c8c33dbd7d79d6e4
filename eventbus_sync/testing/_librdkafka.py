"""
The C library inside the confluent-kafka wheel, as far as its mock cluster needs it.

The mock API is declared experimental; the prototypes below are those of rdkafka_mock.h
of librdkafka 2.16. Nothing is loaded at import.
"""

import ctypes
import functools
import importlib.util
import itertools

from ctypes import POINTER, c_char_p, c_int, c_int16, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from eventbus_sync.testing.broker_errors import BrokerNotInstalled


PRODUCER = 0

#: Function → (result, arguments that are always there).
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "conf_new": (c_void_p, ()),
    "conf_set": (c_int, (c_void_p, c_char_p, c_char_p, c_char_p, c_size_t)),
    "new": (c_void_p, (c_int, c_void_p, c_char_p, c_size_t)),
    "destroy": (None, (c_void_p,)),
    "err2name": (c_char_p, (c_int,)),
    "mock_cluster_new": (c_void_p, (c_void_p, c_int)),
    "mock_cluster_destroy": (None, (c_void_p,)),
    "mock_cluster_bootstraps": (c_char_p, (c_void_p,)),
    "mock_clear_request_errors": (None, (c_void_p, c_int16)),
    "mock_push_request_errors_array": (
        None,
        (c_void_p, c_int16, c_size_t, POINTER(c_int)),
    ),
    "mock_broker_push_request_error_rtts": (
        c_int,
        (c_void_p, c_int32, c_int16, c_size_t),
    ),
    "mock_partition_push_request_errors": (
        c_int,
        (c_void_p, c_char_p, c_int32, c_int16, c_size_t),
    ),
    "mock_topic_set_error": (None, (c_void_p, c_char_p, c_int)),
    "mock_topic_create": (c_int, (c_void_p, c_char_p, c_int, c_int)),
    "mock_partition_set_leader": (c_int, (c_void_p, c_char_p, c_int32, c_int32)),
    "mock_broker_set_down": (c_int, (c_void_p, c_int32)),
    "mock_broker_set_up": (c_int, (c_void_p, c_int32)),
    "mock_broker_set_rtt": (c_int, (c_void_p, c_int32, c_int)),
}


@functools.cache
def load() -> ctypes.CDLL:
    """
    The library that confluent_kafka itself uses, with typed functions.

    Raises:
        BrokerNotInstalled: confluent-kafka is missing or brings no librdkafka.
    """
    spec = importlib.util.find_spec("confluent_kafka")
    if spec is None or spec.origin is None:
        message = "the mock cluster is part of confluent-kafka, which is not installed"
        raise BrokerNotInstalled(message)
    package = Path(spec.origin).parent
    # Where the wheel-repairing tools put it: Linux and Windows, then macOS.
    folders = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    files = itertools.chain.from_iterable(f.glob("librdkafka*") for f in folders)
    if (file := next(files, None)) is None:
        message = "this confluent-kafka brings no librdkafka of its own; use its wheel"
        raise BrokerNotInstalled(message)
    library = ctypes.CDLL(str(file))
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, f"rd_kafka_{name}")
        function.restype = result
        # Naming the fixed arguments matters for the variadic functions too: some
        # platforms pass what follows them differently.
        function.argtypes = arguments
    return library
