"""The package as a whole: its public names, what importing it costs, its version."""

import ast
import inspect
import pkgutil
import re
import tomllib

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import pytest

from support.processes import run_script

import eventbus_sync

from eventbus_sync import (
    Envelope,
    EventBus,
    KafkaConfig,
    MemoryConfig,
    NatsConfig,
    Outcome,
    PublishResult,
    PublishResultChannel,
)
from eventbus_sync.envelope.payload import MISSING


ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = Path(eventbus_sync.__file__).parent

#: Nothing of these is loaded by an import of the package.
NOT_LOADED: Final = {
    "asyncio",
    "celery",
    "confluent_kafka",
    "django",
    "flask",
    "multiprocessing",
    "nats",
    "nkeys",
    "pytest",
    "sqlalchemy",
    "ssl",
}

#: The default of what may be left out by mistake: None is a value.
MISSING_TEXT: Final = "required"

#: Methods of the bus and of the channel, as the specification has them.
SIGNATURES: Final = {
    EventBus: "(config)",
    EventBus.from_url: "(url, **settings)",
    EventBus.from_env: "(prefix='EVENTBUS_')",
    EventBus.publish_envelope: "(self, topic, envelope, *, headers=None, timeout=None)",
    EventBus.publish_envelope_sync: (
        "(self, topic, envelope, *, headers=None, timeout=None)"
    ),
    EventBus.publish: "(self, topic, message, *, key=None, headers=None)",
    EventBus.get_publish_result_channel: "(self)",
    EventBus.register_publish_callback: "(self, callback)",
    EventBus.set_error_handler: "(self, handler)",
    EventBus.register_reconnect_callback: "(self, callback)",
    EventBus.start: "(self, timeout=10.0)",
    EventBus.flush: "(self, timeout=None)",
    EventBus.close: "(self, timeout=None)",
    EventBus.stats: "(self)",
    EventBus.health: "(self)",
    PublishResultChannel.get: "(self, block=True, timeout=None)",
    PublishResultChannel.get_nowait: "(self)",
    PublishResultChannel.get_many: "(self, max_items=1000, timeout=None)",
    PublishResultChannel.__iter__: "(self)",
    Envelope: (
        "(aggregate_id, event_type, event_version=1, payload='required', *, "
        "event_id=None, timestamp=None, trace_id='', correlation_id='', tenant_id=0, "
        "json_default=None)"
    ),
    Envelope.to_bytes: "(self)",
    Envelope.from_bytes: "(data, *, max_bytes=10000000)",
}


def shown(signature: inspect.Signature) -> str:
    """Return names, kinds and defaults, without types."""
    plain = []
    for parameter in signature.parameters.values():
        default = MISSING_TEXT if parameter.default is MISSING else parameter.default
        plain.append(parameter.replace(annotation=parameter.empty, default=default))
    return str(inspect.Signature(plain))


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Yield every module of the package, by the way that it is written."""
    for file in sorted(PACKAGE.rglob("*.py")):
        yield str(file.relative_to(PACKAGE)), ast.parse(file.read_text())


# -- names -------------------------------------------------------------------------------


def test_the_public_names_are_listed_and_sorted() -> None:
    """``__all__`` is everything public, once, in order; and it is all there."""
    listed = eventbus_sync.__all__
    assert list(listed) == sorted(set(listed))
    public = {
        name
        for name, value in vars(eventbus_sync).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert set(listed) == public


def test_the_names_of_the_specification_are_there() -> None:
    """What user code is written against."""
    assert set(eventbus_sync.__all__) >= {
        "EventBus",
        "Envelope",
        "PublishResult",
        "Outcome",
        "KafkaConfig",
        "NatsConfig",
        "MemoryConfig",
    }
    assert {outcome.value for outcome in Outcome} == {"acked", "rejected", "unknown"}
    results = {field.name for field in attrs.fields(PublishResult)}
    assert results >= {
        *("event_id", "topic", "outcome", "error", "aggregate_id", "event_type"),
        *("tenant_id", "partition", "offset", "stream", "sequence", "duplicate"),
        "latency",
    }
    assert isinstance(PublishResult.success, property)
    assert isinstance(PublishResult.timestamp, property)


@pytest.mark.parametrize(
    ("method", "expected"),
    SIGNATURES.items(),
    ids=lambda value: value.__qualname__ if callable(value) else "",
)
def test_signatures(method: object, expected: str) -> None:
    """Names and defaults are those of the specification, for callers rely on both."""
    assert callable(method)
    assert shown(inspect.signature(method)) == expected


@pytest.mark.parametrize(
    ("setting", "default"),
    {
        "delivery_timeout": 30,
        "publish_timeout": 1,
        "max_in_flight": 100_000,
        "max_in_flight_bytes": 256 * 1024 * 1024,
        "max_message_bytes": 1_000_000,
        "result_capacity": 100_000,
        "overflow": "drop",
        "close_timeout": 10,
        "exit_timeout": 5,
    }.items(),
)
def test_defaults_of_every_back_end(setting: str, default: object) -> None:
    """The specification's figures, alike on memory, Kafka and NATS."""
    for config in (MemoryConfig(), NatsConfig(), KafkaConfig(bootstrap_servers="k:1")):
        assert getattr(config, setting) == default


def test_values_are_frozen_and_slotted() -> None:
    """Envelopes, results and configurations are values: nothing can be changed."""
    result = PublishResult("id", "t", Outcome.ACKED, None, 0.0, "a", "E", 0, 0.1)
    for value, name in (
        (Envelope("a", "E", 1, 1), "event_id"),
        (result, "outcome"),
        (MemoryConfig(), "name"),
        (NatsConfig(), "name"),
        (KafkaConfig(bootstrap_servers="k:1"), "name"),
    ):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(value, name, "other")
        assert not hasattr(value, "__dict__"), type(value)


# -- docstrings --------------------------------------------------------------------------


def test_everything_public_has_a_docstring() -> None:
    """Modules, classes, functions and methods without an underscore, wherever."""
    silent: list[str] = []

    def look(where: str, node: ast.AST) -> None:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        for child in getattr(node, "body", ()):
            if isinstance(child, kinds) and not child.name.startswith("_"):
                name = f"{where}:{child.name}"
                if ast.get_docstring(child) is None:
                    silent.append(name)
                if isinstance(child, ast.ClassDef):
                    look(name, child)

    for file, module in modules():
        if ast.get_docstring(module) is None:
            silent.append(file)
        look(file, module)
    assert silent == []


# -- imports -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("eventbus_sync", set()),
        ("eventbus_sync.cli", set()),
        ("eventbus_sync.testing", {"asyncio", "ssl"}),
    ],
)
def test_importing_loads_no_driver(module: str, allowed: set[str]) -> None:
    """No driver and no framework; the package itself no asyncio either."""
    done = run_script(
        """
        import importlib, sys
        before = set(sys.modules)  # what measuring coverage has loaded, if it does
        importlib.import_module(sys.argv[1])
        print(*sorted({n.partition(".")[0] for n in set(sys.modules) - before}))
        """,
        module,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & NOT_LOADED <= allowed


def test_a_bus_loads_its_own_driver_only() -> None:
    """Constructing loads none, and using one loads no other."""
    done = run_script(
        """
        import sys
        from eventbus_sync import Envelope, EventBus

        def drivers():
            return sorted({"confluent_kafka", "nats"} & set(sys.modules))

        buses = [EventBus.from_url(u) for u in ("kafka://k:1", "nats://n:1")]
        print(drivers())
        with EventBus.from_url("memory://") as bus:
            assert bus.publish_envelope_sync("t", Envelope("a", "E", 1, 1)).success
        print(drivers())
        """
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


@pytest.mark.slow
def test_every_public_module_can_be_imported_first() -> None:
    """No module that users import depends on another having been imported before."""
    found = pkgutil.walk_packages(eventbus_sync.__path__, "eventbus_sync.")
    names = [module.name for module in found if "._" not in module.name]
    # One process for all: each import starts with none of ours loaded.
    done = run_script(
        """
        import importlib, sys
        for name in sys.argv[1:]:
            importlib.import_module(name)
            for loaded in [m for m in sys.modules if m.startswith("eventbus_sync")]:
                del sys.modules[loaded]
        """,
        *names,
    )
    assert done.returncode == 0, done.stderr


# -- what is shipped ---------------------------------------------------------------------


def test_one_version_everywhere() -> None:
    """pyproject.toml, ``__version__`` and the newest heading of the changelog agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / ".github" / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[([^]]+)\] - (.+)$", changelog, re.MULTILINE)
    assert project["version"] == eventbus_sync.__version__ == headings[0][0]
    assert all(
        re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", date) for _, date in headings
    )


def test_types_are_shipped() -> None:
    """``py.typed`` is in the package and in what is packed."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert (PACKAGE / "py.typed").is_file()
    assert "py.typed" in tool["setuptools"]["package-data"]["eventbus_sync"]


def test_the_readme_is_shipped() -> None:
    """The files that make up the description exist and are not empty."""
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    for file in tool["setuptools"]["dynamic"]["readme"]["file"]:
        assert (ROOT / file).read_text().startswith("# ")
