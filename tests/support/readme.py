"""
The README as tests see it: its fenced blocks, its tables, and a folder to run it in.

A python block whose first line is a comment with a file name, such as ``# results.py``,
is that file. The other python blocks of a section are, one after another, one script.
"""

import functools
import os
import re
import subprocess
import sys

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

import eventbus_sync


ROOT: Final = Path(__file__).parents[2]
README: Final = ROOT / "README.md"

_fence: Final = re.compile(r"^ *(```+|~~~+)(.*)$").match
_heading: Final = re.compile(r"^#{1,6} +(.+)$").match
_file_name: Final = re.compile(r"# (\w[\w.]*\.py)$").match

# Says that a block began to run; how it ended is for its process to say.
_RAN: Final = """\
import os


def block(line: int) -> None:
    with open(os.environ["README_RAN"], "a") as file:
        print(line, file=file)
"""


@attrs.frozen
class Block:
    """One fenced block, and where it stands."""

    section: str
    language: str
    line: int
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is, or None."""
        named = _file_name(self.text.partition("\n")[0])
        return named[1] if named else None


def blocks() -> list[Block]:
    """Return every fenced block of the README, in order."""
    return _parsed()[0]


@functools.cache
def _parsed() -> tuple[list[Block], list[tuple[str, str]]]:
    """Return the blocks, and the lines outside of them, each with its section."""
    found: list[Block] = []
    outside: list[tuple[str, str]] = []
    section, opened = "", None
    body: list[str] = []
    for number, line in enumerate(README.read_text().splitlines(), 1):
        fence = _fence(line)
        if opened is None:
            heading = _heading(line)
            if heading:
                section = heading[1]
            if fence:
                opened, body = (number, fence[1], fence[2].strip()), []
            else:
                outside.append((section, line))
        elif fence and fence[1] == opened[1] and not fence[2]:
            text = "\n".join(body) + "\n"
            found.append(Block(section, opened[2], opened[0], text))
            opened = None
        else:
            body.append(line)
    assert opened is None, f"the block from line {opened} is never closed"
    return found, outside


def of_section(section: str, language: str = "python") -> list[Block]:
    """Return the blocks of one section in one language; there must be one."""
    found = [b for b in blocks() if (b.section, b.language) == (section, language)]
    assert found, f"section {section!r} has no block of {language}"
    return found


def commands(section: str) -> list[str]:
    """Return the commands behind ``$`` in the console blocks of a section."""
    return [
        line.removeprefix("$ ")
        for block in of_section(section, "console")
        for line in block.text.splitlines()
        if line.startswith("$ ")
    ]


def table(first_column: str, section: str, number: int = 0) -> list[list[str]]:
    """
    Return the rows of a table, without its heading.

    Args:
        first_column: heading of the first column.
        section: heading of the section.
        number: which of several tables with that column.
    """
    found: list[list[list[str]]] = []
    rows: list[list[str]] | None = None
    for here, line in _parsed()[1]:
        if not line.startswith("|"):
            rows = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if rows is not None:
            rows.append(cells)
        elif here == section and cells[0] == first_column:
            rows = []
            found.append(rows)
    assert len(found) > number, f"no table {number} of {first_column} in {section!r}"
    return [row for row in found[number] if not set("".join(row)) <= set("- |")]


class Workshop:
    """
    A folder with every python file of the README, its addresses replaced.

    Args:
        folder: an empty one.
        addresses: what to replace → by what.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str]) -> None:
        self.folder = folder
        self._addresses = addresses
        self._ran = folder / "ran.txt"
        self._ran.touch()
        (folder / "ran.py").write_text(_RAN)
        for block in blocks():
            if block.language == "python" and block.file:
                (folder / block.file).write_text(self._prepared(block))

    def script(self, section: str) -> str:
        """Return the python blocks of a section that are no files, as one script."""
        return "\n".join(
            self._prepared(block) for block in of_section(section) if not block.file
        )

    def not_run(self, section: str) -> list[int]:
        """Return the lines of the section's python blocks that nobody has run."""
        ran = set(self._ran.read_text().split())
        return [b.line for b in of_section(section) if str(b.line) not in ran]

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment for a process in this folder."""
        # The package itself may be imported from the working tree.
        paths = [str(self.folder), str(Path(eventbus_sync.__file__).parents[1])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONDONTWRITEBYTECODE": "1",
            "README_RAN": str(self._ran),
            "HOME": str(self.folder),  # gunicorn and others put files there
            **more,
        }

    def python(self, *arguments: str) -> list[str]:
        """Return the command that runs Python as tests do: warnings are errors."""
        # Threads and fork are what the bus is about.
        fork = "ignore:This process:DeprecationWarning"
        # fmt: off
        return [
            sys.executable, "-X", "faulthandler", "-W", "error", "-W", fork, *arguments
        ]
        # fmt: on

    def run(self, *arguments: str, timeout: float = 60) -> str:
        """Run Python here, expect it to end well and in silence; return its output."""
        done = self.ended(self.python(*arguments), timeout=timeout)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""
        return done.stdout

    def ended(
        self, command: Sequence[str], *, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and return how it ended."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def replaced(self, text: str) -> str:
        """Return *text* with the addresses that are used here."""
        for documented, real in self._addresses.items():
            text = text.replace(documented, real)
        return text

    def _prepared(self, block: Block) -> str:
        text = self.replaced(block.text)
        return f'__import__("ran").block({block.line})\n{text}'
