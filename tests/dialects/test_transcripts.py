"""Every transcript holds in both directions, and the transcripts leave out no event and no command of any dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import COMMANDS
from qai_realtime_sync.dialects import base, cut, elevenlabs_events, gemini_calls, openai_commands, wire
from qai_realtime_sync.dialects.base import unsupported_commands
from qai_realtime_sync.errors import UnsupportedCommandError
from tests.dialects import stories


def _hide_problems(got: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for event, expected in zip(got, wanted):
        if expected.get("problem") == "*" and event.get("problem"):
            event["problem"] = "*"
    return got


@pytest.mark.parametrize("story", stories.stories())
def test_a_transcript_holds_line_by_line(story: str) -> None:
    """What arrives gives exactly these events, and what is said goes out as exactly this JSON."""
    dialect = stories.opened(story)
    for number, line in enumerate(stories.lines(story), 1):
        where = f"{story}, line {number}"
        if "<" in line:
            got = [event.to_dict() for event in dialect.decode(stories.frame_of(line))]
            assert _hide_problems(got, line["="]) == line["="], where
        elif "!" in line:
            with pytest.raises(UnsupportedCommandError) as refused:
                dialect.encode(stories.command_of(line["+"]))
            assert line["!"] in str(refused.value), where
        elif "+" in line:
            assert stories.sent_by(dialect.encode(stories.command_of(line["+"]))) == line[">"], where


def test_transcripts_hold_without_orjson(monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library gives the same events and writes the same JSON."""
    monkeypatch.setattr(base, "loads", wire.loads_plain)
    for module in (base, cut):
        monkeypatch.setattr(module, "loads_usual", wire.loads_plain)
    for module in (base, elevenlabs_events, gemini_calls, openai_commands):
        monkeypatch.setattr(module, "dumps", wire.dumps_plain)
    for story in stories.stories():
        test_a_transcript_holds_line_by_line(story)


@pytest.mark.parametrize("story", stories.stories())
def test_raw_is_the_frame(story: str) -> None:
    """Every event of a text frame keeps the frame's JSON value; of sound without its base64."""
    dialect = stories.opened(story)
    for line in stories.lines(story):
        if "<" not in line or not isinstance(line["<"], dict) or "base64" in line["<"]:
            continue
        for event in dialect.decode(json.dumps(line["<"])):
            assert event.raw == line["<"] or event.event_name == "audio_delta" or _has_sound(line["<"]), line
            if event.event_name == "audio_delta" and event.audio:  # type: ignore[attr-defined]
                assert len(json.dumps(event.raw)) < len(json.dumps(line["<"])), line


def _has_sound(frame: dict[str, Any]) -> bool:
    return "inlineData" in json.dumps(frame) or "audio_base_64" in json.dumps(frame)


@pytest.mark.parametrize("name", [name for name in dialects.names() if name != "gateway"])
def test_the_transcripts_tell_every_event_of_a_dialect(name: str) -> None:
    """Each wire name of a dialect's table stands in one of its transcripts (spellings with underscores aside)."""
    told: set[str] = set()
    for story in stories.stories():
        if story.startswith(f"{name}/"):
            for line in stories.lines(story):
                if isinstance(line.get("<"), dict):
                    told |= {line["<"].get("type")} if "type" in line["<"] else set(line["<"])
    table = set(dialects.choose(name).decoders)
    dotted = {tag for tag in table if "." in tag}
    wanted = table - {tag.replace(".", "_") for tag in dotted} if dotted else table
    assert wanted - told == set()


@pytest.mark.parametrize("name", [name for name in dialects.names() if name != "gateway"])
def test_the_transcripts_say_every_command_of_a_dialect(name: str) -> None:
    """Each command stands in a transcript of each dialect, sent where the dialect has a word for it and refused where not."""
    sent, refused = set(), set()
    for story in stories.stories():
        if story.startswith(f"{name}/"):
            for line in stories.lines(story):
                if "+" in line:
                    (refused if "!" in line else sent).add(line["+"]["name"])
    made = dialects.choose(name)
    assert set(made.encoders) == set(COMMANDS.values())
    unsupported = {command.command_name for command in unsupported_commands(made.encoders)}
    assert made.traits.unsupported == unsupported_commands(made.encoders)
    assert set(COMMANDS) - unsupported - sent == set()
    assert unsupported - refused == set()
