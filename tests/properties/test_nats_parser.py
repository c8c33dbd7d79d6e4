"""The short way for acknowledgements: it reads what nats-py's parser reads."""

import asyncio
import itertools

from collections.abc import Sequence
from typing import Any

import nats.errors
import pytest

from hypothesis import given
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from eventbus_sync.backends.nats.parser import AckParser, NumberedAck


INBOX, SID = "_INBOX.x.Y", 3
ACK = b'{"stream":"S","seq":12}'
#: What the client was told: an answer, or anything else.
Told = list[tuple[Any, ...]]


class Client:
    """Takes what parsers tell; ``told`` is all of it, in order."""

    def __init__(self) -> None:
        self.told: Told = []

    def acks(self, acks: Sequence[NumberedAck]) -> None:
        for number, body in acks:
            subject = f"{INBOX}.{number}".encode()
            self.told.append((SID, subject, b"", body, None))

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, header: Any
    ) -> None:
        head, _, number = subject.rpartition(b".")
        if number.isdigit():
            subject = b"%s.%d" % (head, int(number))
        self.told.append((sid, subject, reply, data, header))

    async def _process_ping(self) -> None:
        self.told.append(("PING",))

    async def _process_pong(self) -> None:
        self.told.append(("PONG",))

    async def _process_info(self, info: Any) -> None:
        self.told.append(("INFO", str(info)))

    async def _process_err(self, text: str) -> None:
        self.told.append(("-ERR", text))


def read(reads: Sequence[bytes], *, short: bool) -> tuple[Told, bool]:
    """What the client is told, and whether the parser could make it out."""
    client, broken = Client(), list[Exception]()
    parser: Any = Parser(client)
    if short:
        parser = AckParser(client, broken.append, client.acks)
        parser.expect(INBOX, SID)

    async def run() -> bool:
        try:
            for data in reads:
                await parser.parse(data)
        except Exception:  # noqa: BLE001 - nats-py raises what comes
            return False
        return True

    understood = asyncio.run(run())
    assert short is False or understood is not bool(broken)
    return client.told, understood


def message(subject: bytes, sid: int, body: bytes, header: bytes = b"") -> bytes:
    """What a server writes for it."""
    if header:
        size = len(header) + len(body)
        head = b"HMSG %s %d %d %d\r\n" % (subject, sid, len(header), size)
    else:
        head = b"MSG %s %d %d\r\n" % (subject, sid, len(body))
    return head + header + body + b"\r\n"


_bodies = st.one_of(
    st.just(ACK),
    st.just(b'{"error":{"code":503,"err_code":10077}}'),
    st.just(b'{\r\n"stream":"S","seq":12}'),
    st.just(b'{"a":1}\r\n{"a":1}'),
    st.just(b'{"stream":"%s","seq":1}' % (b"x" * 5000)),
    st.binary(max_size=40),
)
_tokens = st.one_of(
    st.integers(0, 10**19).map(lambda n: b"%d" % n),
    st.sampled_from([b"007", b"x", b"a.500.fail.2.2.$FI", b"-1", b"9" * 300]),
)
_answers = st.builds(
    lambda token, sid, body, header: message(
        INBOX.encode() + b"." + token, sid, body, header
    ),
    _tokens,
    st.sampled_from([SID, SID, SID, 4]),
    _bodies,
    st.sampled_from([b"", b"", b"NATS/1.0 503\r\n\r\n"]),
)
_others = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Permissions Violation'\r\n",
        b'INFO {"server_id":"x"}\r\n',
        message(b"somewhere.else", 1, b"hello"),
        message(b"_INBOX.x.Y", SID, ACK),
    ]
)
_usual = st.integers(0, 99).map(
    lambda number: message(b"%s.%d" % (INBOX.encode(), number), SID, ACK)
)


def _cut(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(places)]


@given(
    messages=st.lists(st.one_of(_usual, _usual, _answers, _others), max_size=12),
    cuts=st.lists(st.integers(0, 1500), max_size=12),
)
def test_whatever_comes_is_told_alike(
    messages: Sequence[bytes], cuts: Sequence[int]
) -> None:
    """In the same order, however the network cuts it."""
    reads = _cut(b"".join(messages), cuts)
    assert read(reads, short=True) == read(reads, short=False)


@given(
    messages=st.lists(_usual, min_size=1, max_size=6),
    place=st.integers(0, 300),
    damage=st.binary(max_size=3),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_damage_is_noticed_alike(
    messages: Sequence[bytes], place: int, damage: bytes, cuts: Sequence[int]
) -> None:
    """What nats-py understands is told as it tells it; what it does not ends it."""
    stream = b"".join(messages)
    place = min(place, len(stream))
    reads = _cut(stream[:place] + damage + stream[place + len(damage) :], cuts)
    told, understood = read(reads, short=True)
    told_by_it, understood_by_it = read(reads, short=False)
    assert told == told_by_it
    assert understood == understood_by_it


def test_hundreds_of_acknowledgements_are_one_call() -> None:
    """That is what it is for."""
    calls: list[Sequence[NumberedAck]] = []
    parser = AckParser(Client(), calls.append, calls.append)  # type: ignore[arg-type]
    parser.expect(INBOX, SID)
    stream = b"".join(
        message(b"%s.%d" % (INBOX.encode(), number), SID, ACK) for number in range(300)
    )
    middle = len(stream) // 2 + 7
    asyncio.run(parser.parse(stream[:middle]))
    asyncio.run(parser.parse(stream[middle:]))
    assert len(calls) == 2
    assert [number for call in calls for number, _ in call] == list(range(300))
    assert {body for call in calls for _, body in call} == {ACK}


def test_a_listener_that_fails_ends_the_connection() -> None:
    """It is told, and nats-py hears of a protocol error."""
    broken: list[Exception] = []

    def fail(_: Sequence[NumberedAck]) -> None:
        raise LookupError

    parser = AckParser(Client(), broken.append, fail)
    parser.expect(INBOX, SID)
    with pytest.raises(nats.errors.ProtocolError):
        asyncio.run(parser.parse(message(INBOX.encode() + b".1", SID, ACK)))
    assert [type(error) for error in broken] == [LookupError]
