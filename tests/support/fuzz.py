"""
What comes from outside, wrong in every way: a million inputs, no crash and no hang.

From the root of the project: ``PYTHONPATH=.:tests python -m support.fuzz --inputs
1000000``. A failure prints its input, which then belongs into a test.
"""

import argparse
import contextlib
import random
import signal
import sys
import time

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn

from support.mutations import mutated

from eventbus_sync import Envelope
from eventbus_sync.backends.base import Ack
from eventbus_sync.backends.nats.ack import read_ack
from eventbus_sync.errors import EnvelopeError, PublishError


#: Seconds that one input may take; the largest has a few thousand bytes.
PATIENCE: Final = 2.0
#: What a text for people may be at most.
_LONGEST_TEXT: Final = 1500

_VECTORS: Final = Path(__file__).parents[1] / "vectors" / "envelope.jsonl"

ENVELOPES: Final = _VECTORS.read_bytes().splitlines()
ACKS: Final = [
    b'{"stream":"ORDERS","seq":7}',
    b'{"stream":"ORDERS","domain":"hub","seq":123456789,"duplicate":true}',
    b'{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"S","seq":0}',
    b'{"error":{"code":400,"err_code":10071,"description":"wrong"},"stream":"","seq":0}',
    b'{"stream":"S","seq":3,"batch":"b","count":2,"val":"17"}',
]


def read_envelope(data: bytes) -> str:
    """Return what became of it; what can be read is written the same ever after."""
    try:
        envelope = Envelope.from_bytes(data)
    except EnvelopeError as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert len(said) < _LONGEST_TEXT, said[:2000]
        return "refused"
    again = Envelope.from_bytes(envelope.to_bytes())
    assert again == envelope
    assert again.to_bytes() == envelope.to_bytes()
    assert len(repr(envelope)) < len(data) * 6 + _LONGEST_TEXT
    return "read"


def read_answer(data: bytes) -> str:
    """Return the verdict; it is always one that can be worked with."""
    said = read_ack(data)
    if isinstance(said, Ack):
        assert isinstance(said.stream, str)
        assert type(said.sequence) is int
        assert said.sequence > 0
        return "acked"
    assert isinstance(said, PublishError)
    assert 0 < len(str(said)) < len(data) + _LONGEST_TEXT
    assert isinstance(said.code, str)
    return "unknown" if said.maybe_delivered else "rejected"


#: Name → what reads it, and what is right.
TARGETS: Final[dict[str, tuple[Callable[[bytes], str], list[bytes]]]] = {
    "envelope": (read_envelope, ENVELOPES),
    "ack": (read_answer, ACKS),
}


def fuzz(target: str, inputs: int, seed: int) -> Counter[str]:
    """
    Read *inputs* byte strings and return what became of how many.

    Raises:
        AssertionError: names the input that was read wrongly, crashed or took too long.
    """
    read, valid = TARGETS[target]
    source, found = random.Random(f"{seed}/{target}"), Counter[str]()
    with _alarm() as watch:
        for _ in range(inputs):
            data = mutated(source, valid)
            watch(PATIENCE)
            try:
                found[read(data)] += 1
            except BaseException as error:
                watch(0)
                message = f"{target}, seed {seed}: {data[:5000]!r}: {error!r}"
                raise AssertionError(message) from error
    return found


@contextlib.contextmanager
def _alarm() -> Iterator[Callable[[float], object]]:
    """Give out a function that sets an alarm clock; only the main thread may have it."""

    def ring(*_: object) -> NoReturn:
        message = f"no verdict within {PATIENCE:g} s"
        raise TimeoutError(message)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=[*TARGETS], action="append")
    arguments = parser.parse_args()
    for target in arguments.target or TARGETS:
        began = time.monotonic()
        found = fuzz(target, arguments.inputs, arguments.seed)
        took = time.monotonic() - began
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.items()))
        sys.stdout.write(f"{target}: {found.total():,} in {took:.0f} s: {kinds}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
