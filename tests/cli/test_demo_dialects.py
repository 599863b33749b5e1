"""The demo's conversation with each dialect of the local server: the same handlers, and the same kind of transcript."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync.cli.demo_script import GREETING, INTERRUPTION, QUESTION, wrong_words
from tests.cli.running import Running

Start = Callable[..., Running]
OTHERS = ("openai", "elevenlabs", "gemini")


def turns_of(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The turns of the transcript."""
    turns: list[dict[str, Any]] = json.loads((folder / "transcript.json").read_text(encoding="utf-8"))["turns"]
    return turns


def calls_of(turns: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], json.loads(call["arguments"])) for turn in turns for call in turn["tool_calls"]]


@pytest.mark.parametrize("dialect", ["openai", "elevenlabs", pytest.param("gemini", marks=pytest.mark.long)])  # it hears its answers out
def test_two_turns_without_pacing(start: Start, serving: None, tmp_path: pathlib.Path, dialect: str) -> None:
    """Greeting and question are answered, and the tool is called once."""
    demo = start("demo", "--light", "--fast", "--dialect", dialect, "--out", "call")
    assert demo.finish(60) == 0, demo.output
    turns = turns_of(tmp_path / "call")
    assert [turn["user"] for turn in turns] == ["(speech)", QUESTION]
    assert calls_of(turns) == [("get_weather", {"city": "London"})]
    assert turns[1]["assistant"].startswith("In London")


@pytest.mark.long
@pytest.mark.parametrize("dialect", OTHERS)
def test_three_turns(start: Start, voices: None, tmp_path: pathlib.Path, dialect: str) -> None:
    """With voices all three turns are understood, the tool is called once, and the answer stops when the caller speaks."""
    demo = start("demo", "--dialect", dialect, "--out", "call")
    assert demo.finish(90) == 0, demo.output
    turns = turns_of(tmp_path / "call")
    assert len(turns) == 3
    for said, turn in zip((GREETING, QUESTION, INTERRUPTION), turns):
        assert wrong_words(said, turn["user"]) <= 0.2
        assert turn["assistant"]
    assert calls_of(turns) == [("get_weather", {"city": "London"})]
    assert [turn["interrupted"] for turn in turns] == [False, True, False]
    assert 1000 < turns[1]["heard_ms"] < turns[1]["audio_ms"]


@pytest.mark.long
@pytest.mark.parametrize("dialect", OTHERS)
def test_the_tones_of_three_turns(start: Start, serving: None, tmp_path: pathlib.Path, dialect: str) -> None:
    """In light mode the third turn interrupts the second, and what was heard of it is in the transcript."""
    demo = start("demo", "--light", "--dialect", dialect, "--out", "call")
    assert demo.finish(60) == 0, demo.output
    turns = turns_of(tmp_path / "call")
    assert [turn["user"] for turn in turns] == ["(speech)", QUESTION, "(speech)"]
    assert [turn["interrupted"] for turn in turns] == [False, True, False]
    assert 1000 < turns[1]["heard_ms"] < turns[1]["audio_ms"]
    assert "FAIL" not in demo.output


def test_not_with_an_address(start: Start, serving: None) -> None:
    """--dialect is for the local server."""
    demo = start("demo", "--dialect", "gemini", "--url", "http://127.0.0.1:1")
    assert demo.finish(30) == 2
    assert "--dialect" in demo.output
