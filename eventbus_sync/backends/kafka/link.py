"""What is known of the connection to Kafka, from the driver's callbacks alone."""

# ruff: noqa: SLF001 - the driver's own codes begin with an underscore, and are public

import logging
import re
import time

from confluent_kafka import KafkaError, KafkaException

from eventbus_sync.backends.base import Sink
from eventbus_sync.backends.kafka.errors import LOGIN_REFUSED
from eventbus_sync.errors import (
    AuthenticationFailed,
    BrokerUnreachable,
    EventBusError,
)


#: Log lines of the driver that say why nothing is answered. Some troubles show only
#: here: a broker that stands still, a producer id that is not granted yet.
_TROUBLES = frozenset({"FAIL", "REQTMOUT", "GETPID"})

# A request that was on its way when the connection ended, or that timed out.
_UNANSWERED = re.compile(r"in state UP\b|Timed out ProduceRequest")
# A connection that was taken and ended again at once: another protocol is spoken there.
_HUNG_UP = re.compile(
    r"(?:Disconnected|Receive failed|handshake failed)\b.*"
    r"\(after \d{1,4}ms in state (?:SSL_HANDSHAKE|APIVERSION_QUERY|AUTH_\w+|UP)\b"
)
# What a TLS server says to a client whose certificate is missing, unknown or expired.
_CERTIFICATE_REFUSED = re.compile(r"SSL alert number (?:4[0-9]|116)\b")
# That, or the two could not agree on TLS: whatever code the driver gives to it.
_REFUSED = re.compile(
    rf"{_CERTIFICATE_REFUSED.pattern}|SSL handshake failed: error:[0-9A-F]+:SSL routines:"
)
# How the driver tells of a TLS handshake that came to nothing. By chance it notices it in
# one of two places, and only one of them adds what it means.
_IN_HANDSHAKE = re.compile(
    r"(?:SSL handshake failed: )?((?:Disconnected\b|error:[0-9A-F]+:SSL routines:).*?)"
    r"( \(after \d+ms in state SSL_HANDSHAKE\b.*)"
)
_NO_TLS_THERE = ": connecting to a PLAINTEXT broker listener?"
_AFTER = re.compile(r" \(after \d+ms\b.*")
_THREAD = re.compile(r"^\[thrd:[^]]*\]: ")

# Only brokers have such a state; no need to parse the statistics of each partition.
_UP = re.compile(r'"state": *"UP"')

#: The driver reports one broker's repeated error only once in so many seconds.
_SUPPRESSED_FOR = 30.0

#: How many troubles are remembered as told.
_MAX_LOGGED = 100

#: Seconds between two reports of one outage, of which the driver reminds each second.
_REMIND_EVERY = 30.0


class Link:
    """
    Tells the sink whether the broker answers, and remembers why it does not.

    Written on the poll thread only; the attributes may be read from any thread. No
    text that leaves it holds a secret.

    Attributes:
        up: whether a broker answered, and since then none said that it is gone.
        trouble: the last connection error since the last acknowledgement, or "".
        login_refused: set while the last trouble was a refused login or certificate.
        hung_up_at: since when whoever listens ends every connection, else None.
    """

    def __init__(self, sink: Sink, secrets: tuple[str, ...]) -> None:
        self._sink = sink
        self._secrets = secrets
        self._unanswered_at = float("-inf")
        self._told: type[EventBusError] | None = None
        self._told_at = float("-inf")
        self.up = False
        self.trouble = ""
        self._last_trouble = ""
        self._last_trouble_at = float("-inf")
        self._logged: dict[str, float] = {}
        self.login_refused: AuthenticationFailed | None = None
        self.hung_up_at: float | None = None

    def log(self, level: int, facility: str, text: str) -> None:
        """Pass on one log line of the driver's, and look for troubles in it."""
        text = _meant(self.masked(_THREAD.sub("", text)))
        # What is said for debugging only, such as the end of a spare connection, is none.
        if facility in _TROUBLES and level > logging.DEBUG:
            self._note(text)
            if _UNANSWERED.search(text) is not None:
                self._unanswered_at = time.monotonic()
            level = self._level(level, text)
            if facility == "FAIL" and not self.up:
                # While no broker is left, the log has the reason from the outage.
                level = min(level, logging.INFO)
        self._sink.log(level, f"{facility}: {text}")

    def failed(self, error: KafkaError) -> None:
        """Take note of a connection error; the sink hears of it if nothing is left."""
        text = _meant(self.masked(error.str()))
        cause = KafkaException(KafkaError(error.code(), text))
        if error.code() in LOGIN_REFUSED or _REFUSED.search(text):
            self._note(text)
            self.login_refused = AuthenticationFailed(_explained(text))
            self.login_refused.__cause__ = cause
            self._down(self.login_refused)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            trouble = f"; last connection error: {self.trouble}" if self.trouble else ""
            unreachable = BrokerUnreachable(f"no broker is reachable{trouble}")
            unreachable.__cause__ = cause
            self._down(unreachable)
        else:
            # One broker of several, perhaps; if it is the last, the next call says so.
            self._note(text)
            self.login_refused = None

    def statistics(self, text: str) -> None:
        """Read the connection state from the driver's statistics."""
        if _UP.search(text) is not None:
            self.hung_up_at = None
            self.answered()

    def acknowledged(self) -> None:
        """Take note that a broker has stored something: no trouble is left."""
        self._overcome()
        self.hung_up_at = None
        self.answered()

    def answered(self) -> None:
        """Take note that a broker answers."""
        if not self.up:
            self.up = True
            self._overcome()
            self.hung_up_at = self.login_refused = None
            self._told = None
            self._sink.connected()

    def doubts(self, accepted_at: float) -> bool:
        """
        Return whether a request with an event of that age may have gone unanswered.

        A refusal then proves nothing: the attempt before it may have been stored.
        """
        return accepted_at < self._unanswered_at + _SUPPRESSED_FOR

    def unanswered(self, accepted_at: float, *, since: float) -> bool:
        """Return the same of requests that were lost after *since*."""
        return self._unanswered_at >= since and self.doubts(accepted_at)

    def trouble_of(self, accepted_at: float) -> str:
        """Return what may have kept an event of that age from its answer, or ""."""
        if not self.trouble and accepted_at <= self._last_trouble_at:
            # The connection is back, too late for this event.
            return self._last_trouble
        return self.trouble

    def masked(self, text: str) -> str:
        """Return *text* without the secrets of the configuration."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _level(self, level: int, text: str) -> int:
        """Return the level for a trouble that the driver may tell for every attempt."""
        now = time.monotonic()
        what = _AFTER.sub("", text)
        if now < self._logged.get(what, float("-inf")) + _REMIND_EVERY:
            return logging.DEBUG
        if len(self._logged) >= _MAX_LOGGED:
            self._logged.clear()
        self._logged[what] = now
        return level

    def _overcome(self) -> None:
        if self.trouble:
            self.trouble = ""
            # It lasted until now, though the driver tells of it once in a while only.
            self._last_trouble_at = time.monotonic()

    def _note(self, text: str) -> None:
        self.trouble = self._last_trouble = text
        self._last_trouble_at = time.monotonic()
        if _HUNG_UP.search(text) is None:
            self.hung_up_at = None
        elif self.hung_up_at is None:
            self.hung_up_at = time.monotonic()

    def _down(self, ours: EventBusError) -> None:
        self.up = False
        now = time.monotonic()
        # A refused login says more than what follows from it.
        news = self._told is None or (
            self._told is BrokerUnreachable and type(ours) is AuthenticationFailed
        )
        if not news and now < self._told_at + _REMIND_EVERY:
            return
        self._told, self._told_at = type(ours), now
        # The log has it from there, as of every back end.
        self._sink.disconnected(ours)


def _meant(text: str) -> str:
    """Return *text* with what an end in the TLS handshake means, however it was told."""
    ended = _IN_HANDSHAKE.search(text)
    if ended is None:
        return text
    what, where = ended.groups()
    if what.startswith("Disconnected") and _NO_TLS_THERE not in what:
        what += _NO_TLS_THERE
    return f"{text[: ended.start()]}SSL handshake failed: {what}{where}"


def _explained(text: str) -> str:
    """Return what a refused login or certificate means, and what to do."""
    if _CERTIFICATE_REFUSED.search(text):
        what, check = "refused this client's certificate", "tls_cert and tls_key"
    elif "certificate verify failed" in text:
        what = "has a certificate that cannot be verified"
        check = (
            "that tls_ca has the authority that signed it, and that it is for the host "
            "in bootstrap_servers (tls_verify_hostname)"
        )
    elif "SSL" in text:
        what, check = "could not agree on TLS with this client", "tls and its settings"
    else:
        what = "refused the login"
        check = "sasl_mechanism, username and password"
    return f"the broker {what}: {text}; check {check}"
