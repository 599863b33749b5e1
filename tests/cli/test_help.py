"""Help that fits a screen, options that are the same everywhere, and output that a program can read."""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import shlex

import pytest

from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.doctor import EXTRAS
from qai_realtime_sync.cli.program import COMMANDS, parser_of

Capture = pytest.CaptureFixture[str]
ROOT = pathlib.Path(__file__).parents[2]
CALLS = ("session create", "session refresh", "session end")
EVERYWHERE = {
    "--json": set(COMMANDS),
    "--url": {"demo", "talk", "say", "transcribe", "record", "doctor"},
    "--key": {"demo", "talk", "say", "transcribe", "record", "doctor", "serve"},
    "--provider": {"talk", "say", "transcribe", "record", "doctor"},
    "--voice": {"talk", "say", "record"},
    "--model": {"talk", "say", "record", "transcribe"},
    "--instructions": {"talk", "say", "record"},
    "--tools": {"talk", "say", "record"},
    "--out": {"demo", "talk", "say", "transcribe", "record", "replay", "report"},
}


def parser(command: str) -> argparse.ArgumentParser:
    """The parser of one command."""
    (commands,) = (action for action in parser_of([command])._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[command]
    return found


@pytest.mark.parametrize("command", ["", *COMMANDS, *CALLS])
def test_help_fits_a_screen_and_shows_an_example(serving: None, command: str, capsys: Capture) -> None:
    """24 rows of 80 columns hold all of it, and its last line is a command line that can be parsed."""
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    (example,) = (line for line in lines if line.startswith("example: "))
    for one in example.removeprefix("example: ").replace("then: ", "").split(";"):
        words = shlex.split(one)
        assert words[0] == "qai-realtime"
        if command:
            parser_of(words[1:]).parse_args(words[1:])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_word_of_help(serving: None, command: str) -> None:
    """No option is listed without saying what it does."""
    assert [action.dest for action in parser(command)._actions if not action.help and not action.choices] == []


@pytest.mark.parametrize("option", EVERYWHERE)
def test_options_are_the_same_everywhere(serving: None, option: str) -> None:
    """An option has one name in every command that it makes sense for."""
    having = {command for command in COMMANDS if option in parser(command)._option_string_actions}
    if option == "--json":
        having.add("session")  # whose calls have it
    assert EVERYWHERE[option] <= having


@pytest.mark.parametrize("call", CALLS)
def test_a_call_takes_json(serving: None, call: str, capsys: Capture) -> None:
    """The session's calls, too, accept --json."""
    assert main([*call.split(), "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_the_environment_is_documented(capsys: Capture) -> None:
    """The program's own help names the variables it reads and its exit codes."""
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for word in ("QAI_API_KEY", "QAI_BASE_URL", "NO_COLOR", "0 done", "1 failed", "2 usage", "130"):
        assert word in told


@pytest.mark.parametrize(
    "arguments",
    [
        ["say", "Hello!", "--url", "http://127.0.0.1:1", "--key", "k"],
        ["transcribe", "nothing.wav", "--local"],
        ["record", "Hello!", "--url", "http://127.0.0.1:1", "--key", "k"],
        ["replay", "nothing"],
        ["report", "nothing"],
        ["session", "create", "--url", "http://127.0.0.1:1", "--key", "k"],
        ["demo", "--wav", "nothing.wav"],
        ["serve", "--tls-cert", "only.pem"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_failure_is_a_line_of_json_too(
    serving: None, arguments: list[str], tmp_path: pathlib.Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --json the last line says which command failed, how, and with which exit code; a person reads the same on standard error."""
    monkeypatch.chdir(tmp_path)
    code = main([*arguments, "--json"])
    told = capsys.readouterr()
    result = json.loads(told.out.splitlines()[-1])
    assert (result["name"], result["command"], result["ok"], result["exit_code"]) == ("result", arguments[0], False, code)
    assert code in (1, 2)
    assert result["error"]["message"] in told.err
    assert result["error"]["code"]


def test_the_doctor_knows_every_extra() -> None:
    """What can be installed is looked for."""
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = dict(setup["options.extras_require"])
    known = {distribution for parts in EXTRAS.values() for distribution, _ in parts}
    for extra, text in extras.items():
        named = {re.split(r"[<>=;\[ ]", line.strip())[0].lower() for line in text.splitlines() if line.strip() and not line.startswith("#")}
        if extra != "test":
            assert {name for name in named if not name.startswith("qai-")} <= known, extra
