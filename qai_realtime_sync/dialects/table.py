"""Which dialect tells which event and has a word for which command, as Markdown: ``python -m qai_realtime_sync.dialects.table``."""

from __future__ import annotations

import sys

from qai_realtime_sync.commands import COMMANDS
from qai_realtime_sync.dialects import DIALECTS, Dialect
from qai_realtime_sync.dialects.base import unsupported_commands
from qai_realtime_sync.dialects.rows import events_of

__all__ = ["command_table", "event_table", "main", "reasons", "tables"]

_SHOWN: dict[str, type[Dialect]] = {name: made for name, made in DIALECTS.items() if name != "gateway"}


def event_table() -> dict[str, dict[str, list[str]]]:
    """Return event name -> dialect -> the wire names it comes from; spellings with underscores for dots are left out."""
    table: dict[str, dict[str, list[str]]] = {}
    for dialect, made in _SHOWN.items():
        respelled = {tag.replace(".", "_") for tag in made.decoders if "." in tag}
        for tag, decoder in made.decoders.items():
            if tag not in respelled:
                for event in events_of(decoder):
                    table.setdefault(event.event_name, {}).setdefault(dialect, []).append(tag)
    return dict(sorted(table.items()))


def command_table() -> dict[str, dict[str, str]]:
    """Return command name -> dialect -> ``sent``, ``answered`` (the service answers by itself) or ``-``."""
    table: dict[str, dict[str, str]] = {}
    for name, command in sorted(COMMANDS.items()):
        for dialect, made in _SHOWN.items():
            refused = command in unsupported_commands(made.encoders)
            word = "-" if refused else "answered" if command in made.traits.answers_by_itself else "sent"
            table.setdefault(name, {})[dialect] = word
    return table


def reasons() -> dict[str, dict[str, str]]:
    """Return command name -> dialect that has no word for it -> what to do instead."""
    found: dict[str, dict[str, str]] = {}
    for name, command in sorted(COMMANDS.items()):
        for dialect, made in _SHOWN.items():
            reason = getattr(made.encoders.get(command), "reason", "")
            if reason:
                found.setdefault(name, {})[dialect] = reason
    return found


def tables() -> str:
    """Return events, commands, and what to do where a service has no word, as Markdown."""
    head = f"| {' | '.join(_SHOWN)} |\n|---{'|---' * len(_SHOWN)}|"
    lines = [f"| event {head}"]
    for event, sources in event_table().items():
        cells = (", ".join(f"`{tag}`" for tag in sources.get(dialect, [])) or "-" for dialect in _SHOWN)
        lines.append(f"| `{event}` | {' | '.join(cells)} |")
    lines += ["", f"| command {head}"]
    for command, words in command_table().items():
        lines.append(f"| `{command}` | {' | '.join(words.values())} |")
    lines += ["", "| no word for | at | instead |", "|---|---|---|"]
    for command, at in reasons().items():
        lines += [f"| `{command}` | {dialect} | {reason} |" for dialect, reason in at.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables."""
    sys.stdout.write(tables())


if __name__ == "__main__":
    main()
