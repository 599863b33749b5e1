"""The help of a command, made to fit a screen of 24 rows and 80 columns: a line for each option, and an example."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

__all__ = ["CommandParser"]

_WIDTH = 80
_COLUMN = 22


class CommandParser(argparse.ArgumentParser):
    """A parser whose help is short; ``example`` is a command line that can be tried."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.example = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what this command does not know here, with its own usage; the program would only show its own."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}; {self.prog} --help shows the options")
        return parsed, unknown

    def format_usage(self) -> str:
        """One line: what must be given; options are told below it."""
        words = []
        for action in self._actions:
            if action.option_strings:
                if action.required:
                    words.append(_invocation(action))
            elif action.nargs == "?":
                words.append(f"[{_invocation(action)}]")
            elif action.nargs == "*":
                words.append(f"[{_invocation(action)} …]")
            else:
                words.append(_invocation(action))
        return f"usage: {self.prog} {' '.join(['[options]', *words])}\n"

    def format_help(self) -> str:
        """Everything, in as few lines as it can be said in."""
        rows = [row for action in self._actions for row in _rows(action)]
        parts = [self.format_usage(), *([f"{self.description}\n"] if self.description else []), "\n"]
        for invocation, told in rows:
            parts += _wrapped(invocation, told)
        if self.example:
            parts.append(f"example: {self.example}\n")
        return "".join(parts)


def _rows(action: argparse.Action) -> Iterator[tuple[str, str]]:
    if isinstance(action, argparse._SubParsersAction):
        for choice in action._choices_actions:
            yield choice.dest, choice.help or ""
    elif action.help is not argparse.SUPPRESS and action.dest != "help":
        yield _invocation(action), (action.help or "") % {**vars(action), "prog": ""}


def _invocation(action: argparse.Action) -> str:
    name = str(action.metavar or (action.dest.upper() if action.option_strings else action.dest))
    if not action.option_strings:
        return name
    return ", ".join(action.option_strings) + ("" if action.nargs == 0 else f" {name}")


def _wrapped(invocation: str, told: str) -> Iterator[str]:
    lines = textwrap.wrap(told, _WIDTH - _COLUMN - 2) or [""]
    if len(invocation) >= _COLUMN:
        yield f"  {invocation}\n"
    else:
        yield f"  {invocation:<{_COLUMN}}{lines.pop(0)}".rstrip() + "\n"
    for line in lines:
        yield " " * (_COLUMN + 2) + line + "\n"
