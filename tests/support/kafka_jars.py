"""The jars of Apache Kafka and a Java to run them, looked up once per machine."""

import fcntl
import functools
import os
import re
import shutil
import subprocess
import tempfile

from pathlib import Path

from eventbus_sync.testing import BrokerNotInstalled
from eventbus_sync.testing.apache_kafka import find_java


POM = Path(__file__).parent / "apache-kafka" / "pom.xml"

_MAVEN_TIMEOUT = 600.0


def kafka_version() -> str:
    """The version that the pom names."""
    found = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    assert found is not None, f"{POM} names no kafka.version"
    return found[1]


@functools.cache
def availability() -> str | None:
    """None if Apache Kafka can run here, else the reason; may download its jars."""
    try:
        find_java()
        find_jars()
    except BrokerNotInstalled as error:
        return str(error)
    return None


def find_jars() -> Path:
    """
    The folder with every jar, resolved by Maven the first time and kept.

    It is valid as long as the pom in it is the pom of today. BrokerNotInstalled: they are
    not there and Maven is missing or cannot get them.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "eventbus_sync" / f"kafka-{kafka_version()}"
    if _is_current(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        (folder.parent / "lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=folder.parent) as parent,
    ):
        # One of several workers or test runs gets them, the others wait for it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_current(folder):
            return folder
        # Resolved aside and renamed, so that a folder is whole or absent.
        fresh = Path(parent) / "jars"
        _run_maven(fresh)
        shutil.copyfile(POM, fresh / "pom.xml")
        if folder.exists():
            shutil.rmtree(folder)
        fresh.rename(folder)
    return folder


def _is_current(folder: Path) -> bool:
    pom = folder / "pom.xml"
    return pom.exists() and pom.read_bytes() == POM.read_bytes()


def _run_maven(output: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        message = (
            "Apache Kafka's jars are not here yet, and there is no mvn to get them"
        )
        raise BrokerNotInstalled(message)
    command = [maven, "-q", "-B", "-f", str(POM), "dependency:copy-dependencies"]
    command += [f"-DoutputDirectory={output}", "-DincludeScope=runtime"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_MAVEN_TIMEOUT
    )
    if done.returncode:
        message = f"Maven could not get Apache Kafka: {done.stdout[-2000:]}"
        raise BrokerNotInstalled(message)
