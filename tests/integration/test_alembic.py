"""The README's migration for Alembic is run, on each database."""

import os
import subprocess
import sys

from pathlib import Path

import pytest

from sqlalchemy import inspect
from support import readme
from support.database_servers import DatabaseServer
from support.databases import an_engine

import eventbus_sync

from eventbus_sync.integrations.sqlalchemy import SqlAlchemyOutbox


pytest_plugins = ["support.databases"]

# As ``alembic revision`` writes it.
HEADER = """\
revision = "1"
down_revision = None
branch_labels = None
depends_on = None
"""

MODELS = """\
from sqlalchemy.orm import DeclarativeBase
from eventbus_sync.integrations.sqlalchemy import outbox_table


class Base(DeclarativeBase):
    pass


"""


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """A database of each kind."""
    if request.param == "sqlite":
        return sqlite_url
    server: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
    return server.url


class Project:
    """An application with Alembic, and the README's files in it."""

    def __init__(self, folder: Path, url: str, models: str) -> None:
        self.folder = folder
        self.alembic("init", "migrations")
        blocks = {b.file: b.text for b in readme.of_section("Migrations and models")}
        (folder / "alembic_outbox.py").write_text(blocks["alembic_outbox.py"])
        migration = folder / "migrations" / "versions" / "1_outbox.py"
        migration.write_text(HEADER + blocks["create_outbox.py"])
        (folder / "models.py").write_text(models)
        env = folder / "migrations" / "env.py"
        said = env.read_text()
        assert said.count("target_metadata=target_metadata") == 2
        said = said.replace(
            "target_metadata=target_metadata",
            "target_metadata=target_metadata, include_object=include_object",
        ).replace("target_metadata = None", "target_metadata = Base.metadata")
        imports = "from alembic_outbox import include_object\nfrom models import Base\n"
        env.write_text(imports + said)
        ini = folder / "alembic.ini"
        lines = [
            f"sqlalchemy.url = {url}" if line.startswith("sqlalchemy.url") else line
            for line in ini.read_text().splitlines()
        ]
        ini.write_text("\n".join(lines) + "\n")

    def alembic(self, *arguments: str) -> str:
        """Run it; it must end well."""
        paths = [str(self.folder), str(Path(eventbus_sync.__file__).parents[1])]
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.mark.parametrize(
    "models",
    [f"{MODELS}outbox_table(Base.metadata)\n", MODELS],
    ids=["in-metadata", "apart"],
)
def test_the_migration_makes_the_table_and_takes_it_away(
    tmp_path: Path, url: str, models: str
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder, url, models)
    with an_engine(url) as engine:
        project.alembic("upgrade", "head")
        SqlAlchemyOutbox(engine).check_schema()
        ours = SqlAlchemyOutbox(engine).table.indexes
        there = {one["name"] for one in inspect(engine).get_indexes("eventbus_outbox")}
        assert {index.name for index in ours} <= there
        # Nothing that --autogenerate would do.
        assert "No new upgrade operations" in project.alembic("check")
        project.alembic("downgrade", "base")
        assert not inspect(engine).has_table("eventbus_outbox")
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE alembic_version")
