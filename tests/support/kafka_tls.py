"""PEM files for a TLS listener of Apache Kafka, from a certificate authority of our own."""

from pathlib import Path

import trustme

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)


def write_pem_files(folder: Path) -> None:
    """``ca.pem`` for clients and ``server.pem``, key and chain, for the broker exist."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    # Kafka reads PKCS 8 only ("BEGIN PRIVATE KEY"); trustme writes the older form.
    pkcs8 = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    (folder / "server.pem").write_bytes(pkcs8 + chain)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
