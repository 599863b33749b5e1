"""The program: finds the command, runs it, and turns whatever happens into words and an exit code."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import qai_realtime_sync
from qai_realtime_sync.cli.help_page import CommandParser
from qai_realtime_sync.cli.interruptions import Interruptions, TerminatedError
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["COMMANDS", "DONE", "FAILED", "INTERRUPTED", "TERMINATED", "USAGE", "main", "parser_of"]

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

# A command is a row here and a module beside this one with `add_arguments(parser)`, `run(arguments) -> exit code` and an EXAMPLE.
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo", "a spoken conversation that needs no key, network or sound card"),
    "talk": ("talk", "talk by microphone and loudspeaker, with a live transcript"),
    "say": ("say", "say a sentence or a recording, and hear the answer"),
    "transcribe": ("transcribe", "have a recording written down by a service"),
    "record": ("record", "hold a conversation and keep its sound, events and transcript"),
    "replay": ("replay", "tell a recorded conversation again, also to your handlers"),
    "report": ("report", "a page to listen to, pictures and subtitles of a recording"),
    "serve": ("serve", "run the local realtime server"),
    "session": ("session", "create, refresh or end a session at the gateway"),
    "devices": ("devices", "list microphones and loudspeakers, and try them"),
    "doctor": ("doctor", "look what is here, what is missing, and how to mend it"),
}
# Errors of the program's surroundings, not of what was typed.
_NOT_USAGE = frozenset({"missing_dependency", "cannot_listen", "invalid_path", "invalid_recording", "no_device", "device_failed"})
# The library's messages name its arguments; what they are called on the command line, by the error's code.
_HERE = {
    "invalid_api_key": "on the command line: --key KEY",
    "insecure_url": "the command line has no option for that: give --url an https:// address",
    "insecure_base_url": "the command line has no option for that: give --url an https:// address",
}
_EPILOG = """environment: QAI_API_KEY (the key), QAI_BASE_URL (the address), NO_COLOR
exit codes: 0 done (serve: also by Ctrl-C), 1 failed, 2 usage, 130 interrupted
example: qai-realtime demo"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command with the arguments of a command line; return the exit code.

    0 done, 1 failed, 2 usage, 130 interrupted (Ctrl-C), 143 terminated. Ctrl-C ends in order, a second one at once.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    _need_streams()
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # not every terminal and pipe has every letter
                stream.reconfigure(errors="backslashreplace")
        with Interruptions():
            return _run(arguments)
    except SystemExit as leaving:  # argparse has said why
        return leaving.code if isinstance(leaving.code, int) else DONE if leaving.code is None else FAILED
    except KeyboardInterrupt:
        return _failed(arguments, "interrupted", "interrupted", INTERRUPTED)
    except TerminatedError:
        return _failed(arguments, "terminated", "terminated", TERMINATED)


def _run(arguments: Sequence[str]) -> int:
    try:
        parsed = parser_of(arguments).parse_args(arguments)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except ConfigError as error:
        hint = _HERE.get(error.code or "")
        told = f"error: {error}" + (f" ({hint})" if hint else "")
        return _failed(arguments, told, error.code, FAILED if error.code in _NOT_USAGE else USAGE)
    except RealtimeError as error:
        return _failed(arguments, f"error: {error}", error.code, FAILED)
    except BrokenPipeError:  # whoever read our output has gone, and knows it
        _let_go()
        return FAILED
    except OSError as error:
        where = f": {error.filename!r}" if error.filename is not None else ""
        return _failed(arguments, f"error: {error.strerror or error}{where}", "os_error", FAILED)


def _need_streams() -> None:
    """Write to nowhere where a shell has closed an output (``>&-``): Python has none there."""
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False)  # as long as the process lives


def _let_go() -> None:
    """Send what is left in standard output nowhere if it cannot be written: the interpreter must not stumble over it again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, sys.stdout.fileno())
        finally:
            os.close(nowhere)


def _failed(arguments: Sequence[str], told: str, code: str | int | None, exit_code: int) -> int:
    """Say on standard error what happened; with ``--json`` also as the last line of the output."""
    with contextlib.suppress(OSError):  # that one may be full too
        print(told, file=sys.stderr)
    if "--json" in arguments:
        from qai_realtime_sync.cli.terminal import json_line

        command = next((argument for argument in arguments if argument in COMMANDS), "")
        error = {"code": code or "failed", "message": told.removeprefix("error: ")}
        elsewhere = contextlib.redirect_stdout(sys.stderr) if _gives_sound(arguments) else contextlib.nullcontext()
        with contextlib.suppress(OSError), elsewhere:  # it may be what went wrong
            json_line({"name": "result", "command": command, "ok": False, "exit_code": exit_code, "error": error})
    _let_go()
    return exit_code


def _gives_sound(arguments: Sequence[str]) -> bool:
    """True if standard output is the sound of ``talk``, where no line of text belongs."""
    pairs = zip(arguments, arguments[1:])
    return "talk" in arguments[:1] and ("--pipe" in arguments or "--output=-" in arguments or ("--output", "-") in pairs)


# -- arguments ---------------------------------------------------------------------------------------------------------------


class _Page(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **more: Any) -> None:
        super().__init__(prog, max_help_position=18, width=82)


def parser_of(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for a command line; only the command that it names has its options, since its module is loaded for them."""
    parser = argparse.ArgumentParser(
        prog="qai-realtime", usage="%(prog)s COMMAND …; %(prog)s COMMAND --help", epilog=_EPILOG, formatter_class=_Page
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {qai_realtime_sync.__version__}", help="show the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, prog="qai-realtime", parser_class=CommandParser)
    chosen = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if name == chosen:  # a command's module, and what it imports, is loaded only when it may be run
            loaded: Any = importlib.import_module(f"{__package__}.{module}")
            loaded.add_arguments(command)
            command.example = loaded.EXAMPLE
            command.set_defaults(run=loaded.run)
    return parser
