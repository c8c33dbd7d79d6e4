"""What runs the python blocks and commands of the README's outbox chapter."""

import contextlib
import json
import re
import shlex
import subprocess

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import create_engine, inspect
from support import readme
from support.eventually import eventually
from support.readme import Workshop
from support.readme_servers import flask_running, running

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox
from eventbus_sync.outbox import OutboxRow, RowState


#: How an event id looks.
EVENT_ID: Final = re.compile(r"order-[12]:OrderPaid:1:\d{19}:[0-9a-f]{16}-\d+")


def rows(workshop: Workshop, file: str = "shop.db") -> list[OutboxRow]:
    """Return what is in the outbox of a database there."""
    engine = create_engine(f"sqlite:///{workshop.folder / file}")
    with contextlib.closing(SqlAlchemyOutbox(engine)) as outbox:
        found = outbox.rows()
    engine.dispose()
    return found


def commanded(stand: Any, command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command of the README as it stands there, with this test's addresses."""
    program, *arguments = shlex.split(stand.workshop.replaced(command))
    assert program == "python"
    done: subprocess.CompletedProcess[str]
    done = stand.workshop.ended(stand.workshop.python(*arguments))
    return done


def five_minutes(stand: Any) -> None:
    """The commands, one after another, from no table to two events on the broker."""
    printed = []
    for command in readme.commands("Five minutes to a running relay"):
        done = commanded(stand, command)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    ready, ids, stats, _, listed = printed
    assert "eventbus_outbox is ready" in ready
    assert stats.split()[:2] == ["pending", "2"]
    assert stand.orders() == ids.split()
    assert all(event_id in listed for event_id in ids.split())
    refused = "import shop\ntry:\n    shop.create_order(-1)\nexcept ValueError: pass\n"
    stand.workshop.run("-c", refused)
    assert len(rows(stand.workshop)) == 2


def write_events(stand: Any) -> None:
    """The view answers with the id of its row; the script's events are all there."""
    workshop = stand.workshop
    workshop.run("-c", workshop.script("Write events"))
    assert [row.topic for row in rows(workshop)] == [
        *["orders.items"] * 3,
        "orders.reminders",
        "orders.paid",
    ]
    with flask_running(workshop, "Write events") as (_, answer):
        assert answer["event_id"] == rows(workshop)[-1].event_id


def run_the_relay(stand: Any) -> None:
    """The script publishes; the command does until SIGTERM, and exits with 0."""
    workshop = stand.workshop
    printed = workshop.run("-c", workshop.script("Run the relay"))
    assert printed.startswith("1 published, 0.0 s behind")
    assert len(stand.orders()) == 1

    [command] = readme.commands("Run the relay")
    arguments = shlex.split(workshop.replaced(command))[1:]
    given = workshop.python(*arguments)
    with running(given, workshop.folder, workshop.environment()) as process:
        workshop.run("-c", "import shop; shop.create_order(1)")
        eventually(lambda: len(stand.orders()) == 2, timeout=20)
        process.terminate()
        assert process.ended() == 0
    assert "stopped: 1 published" in process.log
    assert {row.state for row in rows(workshop)} == {RowState.PUBLISHED}


def dead_rows(stand: Any) -> None:
    """They are made, shown, requeued and discarded; the ids look as they are shown."""
    commanded(stand, "python -m eventbus_sync outbox init --db sqlite:///shop.db")
    made, relayed, listed, *decided = readme.commands("Dead rows")
    ids = commanded(stand, made).stdout.split()
    assert commanded(stand, relayed).returncode == 1
    said = commanded(stand, listed)
    assert all(event_id in said.stdout for event_id in ids)
    assert "bad topic!" in said.stdout
    for event_id, command in zip(ids, decided, strict=True):
        asked, found = EVENT_ID.subn(event_id, command)
        assert found == 1
        assert EVENT_ID.fullmatch(event_id)
        assert commanded(stand, asked).returncode == 0
    assert [row.state.value for row in rows(stand.workshop)] == ["pending", "discarded"]


def migrations(stand: Any) -> None:
    """The application's own metadata makes the table, and the outbox likes it."""
    workshop = stand.workshop
    for module, file in (("models", "models.db"), ("orm_models", "orm.db")):
        workshop.run(
            "-c",
            f"from {module} import Base, engine, outbox\n"
            "Base.metadata.create_all(engine)\n"
            "outbox.check_schema()\n",
        )
        engine = create_engine(f"sqlite:///{workshop.folder / file}")
        assert inspect(engine).get_table_names() == ["eventbus_outbox"]
        engine.dispose()
    # What they do is seen in test_alembic.py.
    workshop.run("-c", "import alembic_outbox, create_outbox")


def without_rows(stand: Any) -> None:
    """Every result is handed over."""
    workshop = stand.workshop
    workshop.run("-c", workshop.script("Without rows"))
    assert len(stand.orders()) == 1


def the_number(stand: Any) -> None:
    """The checklist's alarm finds what it looks at."""
    commanded(stand, "python -m eventbus_sync outbox init --db sqlite:///shop.db")
    command = "python -m eventbus_sync outbox stats --db sqlite:///shop.db --json"
    shown = json.loads(commanded(stand, command).stdout)
    assert {"oldest_age", "dead"} <= set(shown)


SECTIONS: dict[str, Callable[[Any], object]] = {
    "Five minutes to a running relay": five_minutes,
    "Write events": write_events,
    "Run the relay": run_the_relay,
    "Dead rows": dead_rows,
    "Migrations and models": migrations,
    "Without rows": without_rows,
}
#: Sections without python blocks, whose commands are run.
COMMANDS: dict[str, Callable[[Any], object]] = {
    "Before production": the_number,
}
