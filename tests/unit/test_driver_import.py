"""The import of a driver: on a thread of its own, once, and what happens without it."""

import importlib
import threading

from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from support.recording_sink import RecordingSink

from eventbus_sync import ConfigError, KafkaConfig, NatsConfig, _runtime
from eventbus_sync.config import BusConfig


CONFIGS = [KafkaConfig(bootstrap_servers="k:1"), NatsConfig()]


@pytest.fixture(autouse=True)
def _nothing_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_runtime, "_imported", set())


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the threads on which modules were imported."""
    names: list[str] = []
    real = importlib.import_module

    def note(name: str) -> ModuleType:
        names.append(threading.current_thread().name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", note)
    return names


@pytest.mark.parametrize("config", CONFIGS, ids=["kafka", "nats"])
def test_a_driver_is_imported_apart_and_once(
    config: BusConfig, threads: list[str]
) -> None:
    """Where no exception can land that is thrown into the caller."""
    for _ in range(3):
        _runtime.backend_for(config, RecordingSink())
    assert threads == ["eventbus-import"]


@pytest.mark.parametrize("config", CONFIGS, ids=["kafka", "nats"])
def test_where_no_thread_can_be_had(
    config: BusConfig, threads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller imports it; that there is no thread, the back end will say."""

    def none(*_: object) -> NoReturn:
        message = "can't start new thread"
        raise RuntimeError(message)

    monkeypatch.setattr(_runtime, "spawn", none)
    _runtime.backend_for(config, RecordingSink())
    assert threads == ["MainThread"]


@pytest.mark.parametrize("config", CONFIGS, ids=["kafka", "nats"])
def test_a_driver_that_cannot_be_imported(
    config: BusConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told what to do; and when that was done, the next use works."""

    def fail(name: str) -> NoReturn:
        message = "no libsasl2"
        raise ImportError(message)

    monkeypatch.setattr(importlib, "import_module", fail)
    advice = r"cannot be imported \(no libsasl2\); run: pip install --force-reinstall"
    for _ in range(2):
        with pytest.raises(ConfigError, match=advice) as caught:
            _runtime.backend_for(config, RecordingSink())
        assert isinstance(caught.value.__cause__, ImportError)
    monkeypatch.undo()
    assert _runtime.backend_for(config, RecordingSink()) is not None


def test_a_circle_of_imports_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that uses a bus while it is imported, and that the driver needs."""
    (tmp_path / "circle_app.py").write_text(
        "from eventbus_sync import _runtime\n_runtime._import_apart('circle_driver')\n"
    )
    (tmp_path / "circle_driver.py").write_text("import circle_app\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(_runtime, "_IMPORT_PATIENCE", 0.05)
    with pytest.raises(RuntimeError, match="deadlock detected"):
        importlib.import_module("circle_app")
