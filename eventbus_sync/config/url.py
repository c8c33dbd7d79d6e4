"""
Configurations out of a URL or the environment, explicitly and never at import.

::

    kafka://kafka-1:9092,kafka-2:9092?linger=0.01
    kafka+tls://user:secret@kafka-1:9093?sasl_mechanism=SCRAM-SHA-512
    nats://nats-1:4222,nats-2:4222?stream=ORDERS&subjects=orders.>
    nats+tls://token@nats-1:4222          (tls:// is the same)
    memory://

Settings are query parameters by their names in ``config.py``: true or false, numbers,
lists separated by commas, ``extra`` as a JSON object. What URLs reserve is written in
percent-encoding, in passwords especially. Before the ``@`` stand, for Kafka, username
and password (``sasl_mechanism`` is PLAIN then, unless it is given); for NATS, user and
password, or a token. Messages repeat nothing that may be a secret.
"""

import contextlib
import json
import os
import re

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs

from eventbus_sync.config import BusConfig, KafkaConfig, MemoryConfig, NatsConfig
from eventbus_sync.config import servers as _servers
from eventbus_sync.config.fields import nearest, shown
from eventbus_sync.errors import ConfigError


_KINDS: Final[dict[str, tuple[type[BusConfig], bool]]] = {
    "kafka": (KafkaConfig, False),
    "kafka+tls": (KafkaConfig, True),
    "nats": (NatsConfig, False),
    "nats+tls": (NatsConfig, True),
    "tls": (NatsConfig, True),
    "memory": (MemoryConfig, False),
}
_SECRETS: Final = {"password", "token", "nkey_seed", "tls_key_password", "extra"}
_FLAGS: Final = {
    "true": True,
    "yes": True,
    "1": True,
    "false": False,
    "no": False,
    "0": False,
}
_url: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*)://(?P<hosts>[^/?#]*)(?P<path>/?)"
    r"(?:\?(?P<query>[^#]*))?"
).fullmatch


def config_from_url(url: str, **overrides: object) -> BusConfig:
    """
    Return the configuration that a URL describes.

    Args:
        url: see this module's own text.
        overrides: settings by name, as their constructor takes them; they win over
            those in the URL.

    Raises:
        ConfigError: the URL or a setting is wrong, or one switches off the TLS that
            the URL's scheme asks for; it says what, and shows no secret.
    """
    kind, settings, tls_scheme = _parse(url)
    if overrides.get("tls") is False:
        _refuse_to_disable(tls_scheme, "tls=False")
    return kind(**{**settings, **overrides})


def config_from_env(
    prefix: str = "EVENTBUS_", environ: Mapping[str, str] | None = None
) -> BusConfig:
    """
    Return the configuration that environment variables describe.

    Args:
        prefix: with which our variables begin. ``<prefix>URL`` must be there; further
            ones are settings, such as ``EVENTBUS_DELIVERY_TIMEOUT``, written as in a
            URL but without percent-encoding. They win over the URL's. An empty
            variable counts as not set.
        environ: the variables; None is this process's own.

    Raises:
        ConfigError: a variable with the prefix is missing, unknown or wrong, or
            switches off the TLS that the URL's scheme asks for.
    """
    if not prefix or not isinstance(prefix, str):
        msg = f"prefix must be a text that is not empty, not {shown(prefix)}"
        raise ConfigError(msg)
    variables = os.environ if environ is None else environ
    found = {
        name.removeprefix(prefix): value
        for name, value in variables.items()
        if name.startswith(prefix) and value
    }
    try:
        url = found.pop("URL")
    except KeyError:
        msg = f"{prefix}URL is not set: set it to a URL such as nats://localhost:4222"
        raise ConfigError(msg) from None
    try:
        kind, in_url, tls_scheme = _parse(url)
    except ConfigError as error:
        msg = f"{prefix}URL: {error}"
        raise ConfigError(msg) from error
    try:
        settings = {**in_url, **_variables(kind, prefix, found)}
        if not settings.get("tls", True):
            _refuse_to_disable(tls_scheme, f"{prefix}TLS={found.get('TLS')}")
        return kind(**settings)
    except ConfigError as error:
        msg = _located(str(error), prefix, in_url.keys() - map(str.lower, found))
        raise ConfigError(msg) from error


def _variables(
    kind: type[BusConfig], prefix: str, found: Mapping[str, str]
) -> dict[str, Any]:
    """Return the settings that variables hold, given without their prefix."""
    settings: dict[str, Any] = {}
    fields = {field.name.upper(): field for field in attrs.fields(kind)}
    for name, value in found.items():
        if name not in fields:
            meant = nearest(name, fields)
            hint = f"did you mean {prefix}{meant}?" if meant else "remove it"
            msg = f"{prefix}{name} is no setting of {kind.__name__}: {hint}"
            raise ConfigError(msg)
        settings[name.lower()] = _value(fields[name], value)
    return settings


def _located(said: str, prefix: str, in_url: Collection[str]) -> str:
    """Return what is wrong with a setting, with the variable that it is to be set in."""
    if said.startswith(prefix):
        return said
    # Most texts begin with a setting: "linger must be …", "ack_wait=9 must be …".
    named = re.match(r"[a-z_]+", said)
    name = named[0] if named else ""
    known = {field.name for kind, _ in _KINDS.values() for field in attrs.fields(kind)}
    if name in known and name not in in_url:
        return f"{prefix}{name.upper()}{said[len(name) :]}"
    return f"{prefix}URL: {said}"


def _refuse_to_disable(tls_scheme: str, said: str) -> None:
    """Refuse to let a setting win over a scheme with TLS: nobody would notice."""
    if tls_scheme:
        msg = f"{said} contradicts {tls_scheme}:// in the URL: change one of them"
        raise ConfigError(msg)


def _parse(url: str) -> tuple[type[BusConfig], dict[str, Any], str]:
    """Return the class for a URL, the settings that it holds, and a scheme with TLS."""
    if not isinstance(url, str):
        msg = f"the URL is of type {type(url).__name__}: pass a str"
        raise ConfigError(msg)
    kind, tls_scheme, hosts, query = _parts(url)
    credentials, at, servers = hosts.rpartition("@")
    if "@" in credentials:
        msg = "the URL has two @: give credentials once, with %40 for an @ in them"
        raise ConfigError(msg)
    settings = _login(kind, credentials) if at else {}
    if kind is MemoryConfig:
        if hosts:
            msg = "the URL has a host, but memory:// is in this process: remove it"
            raise ConfigError(msg)
    else:
        # Also when it is empty: the configuration says so, unless it is overridden.
        field = "bootstrap_servers" if kind is KafkaConfig else "servers"
        settings[field] = servers
    given = _query(kind, query, secretive=bool(at))
    for name, value in given.items():
        if name in settings:
            msg = f"the URL has {name} twice, before and after the ?: keep one of them"
            raise ConfigError(msg)
        settings[name] = value
    if not given.get("tls", True):
        _refuse_to_disable(tls_scheme, "tls=false")
    if tls_scheme:
        settings["tls"] = True
    if kind is KafkaConfig and at:
        settings.setdefault("sasl_mechanism", "PLAIN")
    return kind, settings, tls_scheme


def _parts(url: str) -> tuple[type[BusConfig], str, str, str]:
    """Return class, scheme if it has TLS, hosts and query; more than that is refused."""
    _, separator, rest = url.partition("://")
    hosts = re.split("[/?#]", rest, maxsplit=1)[0]
    matched = _url(url)
    if not separator or not url.isprintable() or " " in url:
        kafka = url.lower().startswith("kafka") or ":9092" in url
        example = "kafka://host:9092" if kafka else "nats://host:4222"
        problem = f"must begin like {example}, without blanks anywhere"
    elif "@" in rest[len(hosts) :]:
        problem = (
            "has an @ behind its hosts: in credentials write %2F for /, %3F for ? and "
            "%23 for #, in settings %40 for @"
        )
    elif "#" in rest:
        problem = "has a fragment: remove it, or write %23 for #"
    elif matched is None:
        problem = "has a path: remove it, settings follow a ?"
    elif matched["scheme"].lower() not in _KINDS:
        meant = nearest(matched["scheme"].lower(), _KINDS)
        known = (
            f"did you mean {meant}://?" if meant else f"use {'://, '.join(_KINDS)}://"
        )
        problem = f"has an unknown scheme: {known}"
    else:
        scheme = matched["scheme"].lower()
        kind, tls = _KINDS[scheme]
        return kind, scheme if tls else "", hosts, matched["query"] or ""
    msg = f"the URL {problem}"
    raise ConfigError(msg)


def _login(kind: type[BusConfig], credentials: str) -> dict[str, Any]:
    """Return the settings that credentials before the ``@`` stand for."""
    user, colon, password = credentials.partition(":")
    if not user or (colon and not password):
        msg = "the URL has incomplete credentials: write user:password@ before the host"
        raise ConfigError(msg)
    names = ("username", "password") if kind is KafkaConfig else ("user", "password")
    if not colon and kind is not KafkaConfig:
        return {"token": _servers.decoded("the URL", user)}
    values = (user, password) if colon else (user,)
    return {
        name: _servers.decoded("the URL", value)
        for name, value in zip(names, values, strict=False)
    }


def _query(kind: type[BusConfig], query: str, *, secretive: bool) -> dict[str, Any]:
    """Return the settings behind the ``?``."""
    fields = {field.name: field for field in attrs.fields(kind)}
    parts = query.split("&") if query else []
    secretive = secretive or any(part.partition("=")[0] in _SECRETS for part in parts)
    settings: dict[str, Any] = {}
    for number, part in enumerate(parts, 1):
        name, equals, value = part.partition("=")
        if name not in fields:
            raise _unknown(kind, name, number, fields, secretive=secretive)
        if not equals:
            msg = f"the URL gives {name} no value: write {name}=…"
            raise ConfigError(msg)
        if name in settings:
            msg = f"the URL has {name} twice: keep one of them"
            raise ConfigError(msg)
        settings[name] = _value(fields[name], _servers.decoded(name, value))
    return settings


def _unknown(
    kind: type[BusConfig],
    name: str,
    number: int,
    fields: Mapping[str, object],
    *,
    secretive: bool,
) -> ConfigError:
    """Return the error for a setting that does not exist."""
    meant = nearest(name, fields)
    # With secrets about, an odd name may be a piece of one that was not encoded.
    if meant or (name.isidentifier() and not secretive):
        which = f"setting {shown(name)}"
    else:
        which = f"setting number {number}"
    hint = f"did you mean {meant}?" if meant else f"it has {', '.join(fields)}"
    return ConfigError(f"the URL's {which} is unknown to {kind.__name__}: {hint}")


def _value(field: "attrs.Attribute[Any]", text: str) -> Any:
    """Return the text of a setting as its constructor takes it."""
    if field.name == "extra":
        return _object(field.name, text)
    if field.type is bool:
        if text.lower() in _FLAGS:
            return _FLAGS[text.lower()]
        wanted = "true or false"
    elif field.type is float:
        with contextlib.suppress(ValueError):
            return float(text)
        wanted = "a number of seconds"
    elif field.type in {int, int | None}:
        with contextlib.suppress(ValueError):
            return int(text)
        wanted = "a whole number"
    else:
        return text
    msg = f"{field.name} must be {wanted}, not {shown(text)}"
    raise ConfigError(msg)


def _object(name: str, text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        msg = f'{name} must be a JSON object, such as {{"client.rack": "a"}}'
        raise ConfigError(msg)
    return value
