"""Server properties of Apache Kafka nodes that want to know who is there."""

from collections.abc import Mapping
from pathlib import Path


def sasl_settings(users: Mapping[str, str], certificate: Path) -> dict[str, str]:
    """Settings of a SASL_SSL listener: name → password, and key and chain in one PEM."""
    modules = "org.apache.kafka.common.security"
    accounts = "".join(f' user_{n}="{p}"' for n, p in users.items())
    listener = "listener.name.sasl_ssl"
    return {
        f"{listener}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
        f"{listener}.plain.sasl.jaas.config": (
            f"{modules}.plain.PlainLoginModule required{accounts};"
        ),
        f"{listener}.scram-sha-256.sasl.jaas.config": (
            f"{modules}.scram.ScramLoginModule required;"
        ),
        f"{listener}.ssl.keystore.type": "PEM",
        f"{listener}.ssl.keystore.location": str(certificate),
    }
