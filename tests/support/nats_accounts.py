"""Operators, accounts, users and certificates for a NATS server, made for one test."""

import base64
import hashlib
import json
import os
import time

from pathlib import Path
from typing import Any

import nkeys
import trustme


_JWT_HEADER = {"typ": "JWT", "alg": "ed25519-nkey"}


class Keys:
    """An NKey pair: ``seed`` is the secret, ``public`` the name."""

    def __init__(self, kind: int) -> None:
        raw = os.urandom(32)
        self.seed = nkeys.encode_seed(raw, kind).decode()
        pair = nkeys.from_seed(bytearray(self.seed.encode()))
        self.public = pair.public_key.decode()

    def sign(self, data: bytes) -> bytes:
        signature: bytes = nkeys.from_seed(bytearray(self.seed.encode())).sign(data)
        return signature


def user_keys() -> Keys:
    """Return the keys of a user."""
    return Keys(nkeys.PREFIX_BYTE_USER)


class Operator:
    """
    An operator with one account, which has JetStream, and a server's configuration.

    Args:
        folder: where creds files are written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._operator = Keys(nkeys.PREFIX_BYTE_OPERATOR)
        self._system = Keys(nkeys.PREFIX_BYTE_ACCOUNT)
        self._account = Keys(nkeys.PREFIX_BYTE_ACCOUNT)

    def server_config(self) -> str:
        """Return what a server needs to know this operator and its account."""
        operator = self._jwt(
            self._operator,
            self._operator.public,
            "operator",
            {"system_account": self._system.public},
        )
        limits = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
        everything = dict.fromkeys(("subs", "conn", "leaf", "imports"), -1)
        everything |= {"exports": -1, "data": -1, "payload": -1, "wildcards": True}
        account = self._jwt(
            self._operator,
            self._account.public,
            "account",
            {"limits": everything | limits},
        )
        system = self._jwt(
            self._operator, self._system.public, "account", {"limits": everything}
        )
        return (
            f"operator: {operator}\n"
            "resolver: MEMORY\n"
            f"resolver_preload: {{ {self._account.public}: {account}\n"
            f" {self._system.public}: {system} }}\n"
        )

    def creds_file(self, name: str, *, seconds: float | None = None) -> Path:
        """Return the creds file of a new user, who expires after *seconds*."""
        user = user_keys()
        claims: dict[str, Any] = {"subs": -1, "data": -1, "payload": -1}
        expires = None if seconds is None else int(time.time() + seconds)
        jwt = self._jwt(self._account, user.public, "user", claims, expires)
        path = self._folder / f"{name}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n"
            "------END USER NKEY SEED------\n"
        )
        return path

    @staticmethod
    def _jwt(
        issuer: Keys,
        subject: str,
        kind: str,
        claims: dict[str, Any],
        expires: int | None = None,
    ) -> str:
        body: dict[str, Any] = {
            "iat": int(time.time()) - 5,
            "iss": issuer.public,
            "name": kind,
            "sub": subject,
            "nats": {**claims, "type": kind, "version": 2},
        }
        if expires is not None:
            body["exp"] = expires
        digest = hashlib.sha256(json.dumps(body).encode()).digest()
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        signed = f"{_encoded(_JWT_HEADER)}.{_encoded(body)}"
        signature = issuer.sign(signed.encode())
        return f"{signed}.{_base64(signature)}"


def _encoded(value: Any) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Certificates:
    """A certificate authority of our own, with files for a server and a client."""

    def __init__(self, folder: Path, host: str = "127.0.0.1") -> None:
        self.authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca))
        server = self.authority.issue_cert(host)
        client = self.authority.issue_cert("client@example.org")
        self.server = folder / "server.pem"
        server.private_key_and_cert_chain_pem.write_to_path(str(self.server))
        self.client_cert = folder / "client.pem"
        client.cert_chain_pems[0].write_to_path(str(self.client_cert))
        self.client_key = folder / "client.key"
        client.private_key_pem.write_to_path(str(self.client_key))

    def server_config(self, more: str = "") -> str:
        """Return the server's ``tls`` block."""
        return (
            f'tls {{ cert_file: "{self.server}", key_file: "{self.server}", '
            f'ca_file: "{self.ca}", {more} }}\n'
        )
