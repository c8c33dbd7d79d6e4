"""The parser of all commands: what it says of wrong arguments holds no secret."""

import argparse
import re

from typing import NoReturn


# To the end: nobody can say where a URL with a space in its password ends.
_URL = re.compile(r"\S*://.*", re.DOTALL)
# argparse's heading for the list of commands, which has one already; perhaps in colour.
_HEADING = re.compile(r"^ *(?:\x1b\[[\d;]*m)*command(?:\x1b\[[\d;]*m)*\n", re.MULTILINE)


class Parser(argparse.ArgumentParser):
    """Like every other, but argparse repeats arguments: URLs, with their passwords."""

    def format_help(self) -> str:
        """Return the help, without the line that says nothing but "command"."""
        return _HEADING.sub("", super().format_help(), count=1)

    def error(self, message: str) -> NoReturn:
        """End the program with *message*, from the first URL on cut."""
        super().error(masked(message))


def masked(message: str) -> str:
    """Return *message* up to the first URL."""
    return _URL.sub("…://… (not shown: it may hold a password)", message)
