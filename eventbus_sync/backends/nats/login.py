"""
What nats-py is told when it connects: the server, who we are, and how to encrypt.

Credentials are read anew for every connection, so that they may be rotated in place.
No text from here repeats one.
"""

import inspect
import re
import ssl

from collections import UserString
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from eventbus_sync.config import NatsConfig
from eventbus_sync.config.extra import nats as refused
from eventbus_sync.config.fields import nearest
from eventbus_sync.errors import ConfigError


# What nats-py looks for in a creds file. Without the first it would read for ever.
_creds = re.compile(
    r"BEGIN NATS USER JWT-+\n\S+\n.*BEGIN USER NKEY SEED-+\n(\S+)\n", re.DOTALL
).search


def connect_options(
    config: NatsConfig, server: str, host: str | None
) -> dict[str, Any]:
    """
    Return the arguments of nats-py's ``connect`` for one attempt at one server.

    Args:
        config: of the bus.
        server: where to.
        host: the name that the server's certificate is for, if not that in *server*.

    Raises:
        ConfigError: credentials or TLS files cannot be used.
    """
    options: dict[str, Any] = dict(config.extra)
    options.update(
        servers=[server],
        name=config.name,
        allow_reconnect=False,
        # One attempt: nats-py tries again until there were more failures than this, and
        # takes 0 for "for ever".
        max_reconnect_attempts=0.5,
        reconnect_time_wait=0,
        connect_timeout=config.connect_timeout,
        ping_interval=config.ping_interval,
        inbox_prefix=config.inbox_prefix,
        # Checked by us, once per topic instead of once per message.
        skip_subject_validation=True,
    )
    options.update(_credentials(config))
    if config.tls:
        options.update(tls=tls_context(config))
        name = config.tls_hostname or host
        if name is not None:
            options.update(tls_hostname=name)
    return options


def check_extra(config: NatsConfig) -> None:
    """
    Refuse options that nats-py does not know: no connection would ever be made.

    Raises:
        ConfigError: which one, and which may be meant.
    """
    known = list(inspect.signature(Client.connect).parameters)[1:]
    for name in config.extra:
        if name not in known:
            meant = nearest(name, known)
            free = [option for option in known if not refused(config, option, None)]
            hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(free)}"
            msg = (
                f"extra holds {name!r}, which is no option of nats-py's connect: {hint}"
            )
            raise ConfigError(msg)


def tls_context(config: NatsConfig) -> ssl.SSLContext:
    """
    Return the TLS settings: the server is always verified.

    Raises:
        ConfigError: a certificate or key file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=config.tls_ca)
        if config.tls_cert is not None:
            # The password is asked for on the terminal otherwise, on the loop thread.
            context.load_cert_chain(config.tls_cert, config.tls_key, password="")
    except (OSError, ValueError) as exc:
        msg = f"tls_ca, tls_cert or tls_key cannot be used: {exc}"
        raise ConfigError(msg) from exc
    return context


def _credentials(config: NatsConfig) -> dict[str, Any]:
    if config.user is not None:
        user = _now("user", config.user)
        return {"user": user, "password": _now("password", config.password or "")}
    if config.token is not None:
        return {"token": _now("token", config.token)}
    if config.nkey_seed is not None:
        return {"nkeys_seed_str": _seed("nkey_seed", config.nkey_seed)}
    if config.nkey_seed_file is not None:
        text = _read("nkey_seed_file", config.nkey_seed_file)
        return {"nkeys_seed_str": _seed("nkey_seed_file", text)}
    if config.creds_file is not None:
        text = _read("creds_file", config.creds_file)
        found = _creds(text)
        if found is None:
            msg = (
                f"creds_file {config.creds_file!r} holds no user JWT with its NKey seed: "
                "make one with nsc generate creds"
            )
            raise ConfigError(msg)
        _seed("creds_file", found[1])
        return {"user_credentials": UserString(text)}
    return {}


def _seed(field: str, text: str) -> str:
    """Return an NKey's seed if it is one; nothing that it holds is repeated."""
    try:
        import nkeys  # noqa: PLC0415 - an extra

        nkeys.from_seed(bytearray(text.strip().encode())).wipe()
    except ImportError as exc:
        msg = f"{field} needs one more package ({exc}): pip install 'eventbus-sync[nkeys]'"
        raise ConfigError(msg) from exc
    except Exception as exc:  # noqa: BLE001 - base64's, struct's, nkeys' own
        msg = f"{field} is no NKey seed ({type(exc).__name__}): it begins with SU"
        raise ConfigError(msg) from None
    return text


def _now(field: str, value: str | Callable[[], str]) -> str:
    """Return a credential, or what the function that gives it says now."""
    if isinstance(value, str):
        return value
    try:
        said: object = value()
    except Exception as exc:
        msg = f"{field} cannot be had: the function raised {type(exc).__name__}"
        raise ConfigError(msg) from exc
    if not isinstance(said, str):
        msg = f"{field} cannot be used: the function returned {type(said).__name__}"
        raise ConfigError(msg)
    return said


def _read(field: str, path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError as exc:
        msg = f"{field} {path!r} cannot be read: {exc.strerror}"
        raise ConfigError(msg) from exc
    except ValueError:
        # Its cause would hold all that was read.
        msg = f"{field} {path!r} cannot be read: it is no text"
        raise ConfigError(msg) from None
