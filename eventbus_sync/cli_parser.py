"""
The parser of all commands: it says what was meant, and repeats no secret.

Every command refuses what it does not know itself, with its own usage: argparse would
hand that on to the program, whose usage says nothing about it.
"""

import argparse
import re

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


# To the end: nobody can say where a URL with a space in its password ends.
_URL = re.compile(r"\S*://.*", re.DOTALL)
# argparse's heading for the list of commands, which has one already; perhaps in colour.
_HEADING = re.compile(r"^ *(?:\x1b\[[\d;]*m)*command(?:\x1b\[[\d;]*m)*\n", re.MULTILINE)
# What argparse says of a word that is none of a list.
_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Like every other, but argparse repeats arguments: URLs, with their passwords."""

    def format_help(self) -> str:
        """Return the help, without the line that says nothing but "command"."""
        return _HEADING.sub("", super().format_help(), count=1)

    # argparse has overloads, for namespaces of all kinds.
    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse, and end the program if anything is left."""
        parsed, left = super().parse_known_args(args, namespace)
        if left:
            said = f"unrecognized arguments: {' '.join(left)}"
            options = [one.partition("=")[0] for one in left if one.startswith("--")]
            self._end(said, options, self._option_string_actions)
        return parsed, left

    def error(self, message: str) -> NoReturn:
        """End the program with *message*, from the first URL on cut."""
        choice = _CHOICE.search(message)
        known = re.findall(r"[\w-]+", choice[2]) if choice else []
        self._end(message, [choice[1]] if choice else [], known)

    def _end(self, said: str, given: Iterable[str], known: Iterable[str]) -> NoReturn:
        """End the program, and say which of *known* may have been meant."""
        import difflib  # noqa: PLC0415 - only mistakes need it

        names = list(known)
        for one in given:
            for meant in difflib.get_close_matches(one, names, n=1):
                super().error(f"{masked(said)}; did you mean {meant}?")
        super().error(masked(said))


def masked(message: str) -> str:
    """Return *message* up to the first URL."""
    return _URL.sub("…://… (not shown: it may hold a password)", message)
