"""The README: every Python block runs as it stands, against the local server in a process of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from qai_realtime_sync.cli.program import COMMANDS
from tests.cli.running import Running

ROOT = pathlib.Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
TEN_LINES = next(block for block in BLOCKS if "transcript_done" in block)

# What a block prints, at least.
PRINTS = {
    'wait_for("response_done"': ["output: ", "bytes of sound", "completed"],
    "What time is it?": ["It is "],
    "QAI_API_KEY, QAI_BASE_URL": ["Are you open"],
    "RealtimeClient.direct": [],
    "record_to": ["were heard: finished", "2 24000"],
    "@client.tool": ["sunny in Oslo"],
    "except ApiError": ["not found"],
    "Script()": ["Order 42 is on its way."],
    "realtime_server": ["1 passed"],
}


@contextlib.contextmanager
def served(folder: pathlib.Path) -> Iterator[str]:
    """The address of a server that `qai-realtime serve` runs in a process of its own, for as long as the block."""
    for name in ("werkzeug", "simple_websocket"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the local server needs {name}")
    serve = Running(["serve", "--light"], folder, [])
    try:
        yield serve.read_until("listening on ", within=30).split()[-1]
        serve.process.terminate()
        assert serve.finish(10) == 0
    finally:
        serve.kill()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a local server."""
    with served(tmp_path_factory.mktemp("serve")) as found:
        yield found


def run(block: str, address: str, folder: pathlib.Path) -> str:
    """Run a block as a program of its own and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.replace("http://127.0.0.1:8765", address)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "QAI_API_KEY": "qai_test", "QAI_BASE_URL": address},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    # On a busy machine a handler may be slow for once, and the client says so.
    assert [line for line in done.stderr.splitlines() if "held up the conversation" not in line] == []
    return done.stdout


@pytest.mark.parametrize("mark", PRINTS, ids=lambda mark: re.sub(r"\W+", " ", mark).strip())
def test_a_block_runs(mark: str, address: str, tmp_path: pathlib.Path) -> None:
    """The block runs without an error or a warning, and prints what the text around it promises."""
    block = next(block for block in BLOCKS if mark in block)
    if "def test_" in block:
        (tmp_path / "test_bot.py").write_text(block, encoding="utf-8")
        block = "import sys, pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    printed = run(block, address, tmp_path)
    for words in PRINTS[mark]:
        assert words in printed


def test_every_block_is_run() -> None:
    """No Python block is left out of these tests."""
    assert [block for block in BLOCKS if not any(mark in block for mark in PRINTS)] == []
    assert len(BLOCKS) == len(PRINTS)


def test_the_ten_lines_are_ten() -> None:
    """The first program has ten lines, empty ones not counted."""
    assert len([line for line in TEN_LINES.splitlines() if line.strip()]) <= 10


def test_the_two_commands_stand_first() -> None:
    """A reader finds how to see it and how to test it before anything else."""
    shell = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shell[0].strip() == "python3 -m venv .venv && .venv/bin/pip install -e '.[offline]' && .venv/bin/qai-realtime demo"
    assert shell[1].strip() == "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/python -m pytest"


def test_every_command_is_named() -> None:
    """The table of commands is complete."""
    assert [name for name in COMMANDS if f"`qai-realtime {name}" not in README] == []


def test_every_error_is_in_the_table() -> None:
    """The table of errors names every class but the base."""
    from qai_realtime_sync import errors

    names = {name for name in errors.__all__ if name != "RealtimeError"}
    assert {name for name in names if not re.search(rf"^\|.*\| `{name}`", README, re.MULTILINE)} == set()


def test_every_extra_is_in_the_table() -> None:
    """The table of extras names what can be installed."""
    from configparser import ConfigParser

    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"])
    assert {extra for extra in extras if f"| `{extra}` |" not in README} == set()


def test_every_example_is_in_the_table() -> None:
    """The table of examples names those that exist, and all of them."""
    named = set(re.findall(r"^\| `(\w+\.py)` \|", README, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "examples").glob("*.py")}
