"""docs/command_line.md: every command and option that it names exists, and its Python runs."""

from __future__ import annotations

import json
import pathlib
import re
import shlex
import sys

import pytest

from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.program import COMMANDS, parser_of
from tests.cli.recordings import make
from tests.cli.test_help import CALLS, parser

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "command_line.md").read_text(encoding="utf-8")
SHELL = [line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()]
LINES = [line[line.index("qai-realtime ") :] for line in SHELL if "qai-realtime " in line]
PYTHON = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("line", LINES)
def test_every_line_can_be_typed(serving: None, line: str) -> None:
    """A command line of the page is one that the program understands."""
    words = shlex.split(line)[1:]
    parser_of(words).parse_args(words)


def test_every_command_has_its_chapter() -> None:
    """No command is left out, and none is told that does not exist."""
    chapters = re.findall(r"^## (.+)$", PAGE, re.M)
    assert set(chapters) - {"The same everywhere"} == set(COMMANDS)
    for command in COMMANDS:
        assert any(line.split()[1] == command for line in LINES), command


def test_every_option_exists(serving: None) -> None:
    """What looks like an option is one of some command."""
    known = {option for command in COMMANDS for option in parser(command)._option_string_actions} | {"--show-token", "--seconds"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE)) <= known
    assert len(CALLS) == 3


def test_the_lines_of_json_are_json() -> None:
    """The examples of results can be parsed, and have what every result has."""
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
    for line in block.splitlines():
        assert {"name", "command", "ok", "exit_code"} <= set(json.loads(line))


def test_the_tool_and_the_handlers_run(
    serving: None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two Python files of the page do what the text says."""
    from qai_realtime_sync.offline import RealtimeServer

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    tool, handlers = PYTHON
    (tmp_path / "weather.py").write_text(tool)
    (tmp_path / "bot.py").write_text(handlers)
    for name in ("weather", "bot"):
        sys.modules.pop(name, None)
    with RealtimeServer(light=True, key="k") as server:
        asked = "What is the weather like in Oslo?"
        assert main(["say", asked, "--tools", "weather:get_weather", "--out", "call", "--url", server.url, "--key", "k"]) == 0
    assert "sunny in Oslo" in capsys.readouterr().out
    assert main(["report", "call", "--no-pictures"]) == 0
    make(tmp_path / "made")
    assert main(["replay", "made", "--speed", "0", "--handlers", "bot:register"]) == 0
    assert "input how are you" in capsys.readouterr().out
