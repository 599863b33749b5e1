"""The program: finds the command, runs it, and turns whatever happens into words and an exit code."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import qai_realtime_sync
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["DONE", "FAILED", "INTERRUPTED", "USAGE", "main"]

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# A command is a row here and a module beside this one with `add_arguments(parser)` and `run(arguments) -> exit code`.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "a spoken conversation with the local server: no key, no network, no sound card"),
    "serve": ("serve", "run the local realtime server"),
    "say": ("say", "say a sentence, or a recording, to a service and hear its answer"),
    "transcribe": ("transcribe", "have a recording written down by a service"),
    "session": ("session", "create, refresh or end a session at the gateway"),
    "doctor": ("doctor", "look whether everything that is needed is here, and what is missing"),
}
# Errors of the program's surroundings, not of what was typed.
_NOT_USAGE = frozenset({"missing_dependency", "cannot_listen", "invalid_path"})
# The library's messages name its arguments; what they are called on the command line, by the error's code.
_HERE = {
    "invalid_api_key": "on the command line: --key KEY",
    "insecure_url": "the command line has no option for that: give --url an https:// address",
    "insecure_base_url": "the command line has no option for that: give --url an https:// address",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with the arguments of a command line; return the exit code: 0 done, 1 failed, 2 usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except SystemExit as leaving:  # argparse has said why
        return leaving.code if isinstance(leaving.code, int) else DONE if leaving.code is None else FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = _parser(arguments).parse_args(arguments)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        hint = _HERE.get(error.code or "")
        print(f"error: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)
        return FAILED if error.code in _NOT_USAGE else USAGE
    except RealtimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has gone; the interpreter must not stumble over it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="qai-realtime",
        description="Realtime voice from the command line.",
        epilog="Exit codes: 0 done (serve: also by Ctrl-C), 1 failed, 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {qai_realtime_sync.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:  # a command's module, and what it imports, is loaded only when it may be run
            loaded: Any = importlib.import_module(f"{__package__}.{module}")
            loaded.add_arguments(command)
            command.set_defaults(run=loaded.run)
    return parser
