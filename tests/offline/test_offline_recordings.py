"""The server's frames beside recorded ones of the services: nothing that a service sends is missing."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import pytest
from caller import WEATHER, Caller, silence, tone

from qai_realtime_sync.offline import RealtimeServer

# What only this recording client's options brought about, and random padding.
NOT_OURS = {
    "openai": {".obfuscation", ".session.audio.input.transcription.language", ".session.audio.input.transcription.prompt"},
    "xai": set(),
}
SESSIONS: dict[str, dict[str, Any]] = {
    "openai": {
        "type": "realtime",
        "audio": {"input": {"transcription": {"model": "gpt-realtime-whisper"}, "turn_detection": {"type": "server_vad"}}},
        "tools": [WEATHER],
    },
    "xai": {
        "turn_detection": {"type": "server_vad", "create_response": True, "interrupt_response": True},
        "audio": {"input": {"transcription": {"model": "grok-transcribe"}}},
        "input_audio_transcription": {"model": "grok-2-audio"},
        "tools": [WEATHER],
    },
}


def paths(value: Any, at: str = "") -> set[str]:
    """Return the paths of all keys in a JSON value; the schema inside a tool is the client's."""
    found: set[str] = set()
    if isinstance(value, dict):
        for key, one in value.items():
            found |= {f"{at}.{key}"} | (set() if key == "tools" else paths(one, f"{at}.{key}"))
    elif isinstance(value, list):
        for one in value:
            found |= paths(one, f"{at}[]")
    return found


def by_type(frames: list[dict[str, Any]]) -> dict[str, set[str]]:
    fields: dict[str, set[str]] = {}
    for frame in frames:
        fields.setdefault(frame["type"], set()).update(paths(frame))
    return fields


def recorded(folder: pathlib.Path, provider: str) -> list[dict[str, Any]]:
    lines = [
        json.loads(line)
        for path in sorted((folder / provider).glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").split("\n")
        if line
    ]
    return [line["data"] for line in lines if line["kind"] == "message" and line["direction"] == "received"]


def served(dialect: str) -> list[dict[str, Any]]:
    """Return what the server sends in a spoken turn, a tool round and a written answer."""
    with RealtimeServer(light=True, pace=1000, dialect=dialect) as server, Caller(server.ws_url) as caller:
        caller.configure(**SESSIONS[dialect])
        caller.append(silence(0.3) + tone(1.0) + silence(0.8))
        caller.until("response.done")
        call = caller.ask("What is the weather in London?")[-1]["response"]["output"][0]
        caller.send("conversation.item.create", item={"type": "function_call_output", "call_id": call["call_id"], "output": "Foggy."})
        caller.send("response.create")
        caller.until("response.done")
        caller.ask("Hello", output_modalities=["text"])
        return caller.seen


@pytest.mark.parametrize("dialect", ["openai", "xai"])
def test_no_recorded_field_is_missing(recordings: pathlib.Path, dialect: str) -> None:
    """Every field that the service sent in an event of a kind stands in ours too, and no kind is left out."""
    theirs, ours = by_type(recorded(recordings, dialect)), by_type(served(dialect))
    left_out = set(theirs) - set(ours) - {"conversation.item.input_audio_transcription.updated"}  # a light server has no guesses
    assert left_out == set()
    missing = {kind: fields - ours[kind] - NOT_OURS[dialect] for kind, fields in theirs.items() if kind in ours}
    replay = {"conversation.item.added": {".item.replayed"}}  # a resumed connection's
    assert {kind: fields - replay.get(kind, set()) for kind, fields in missing.items() if fields - replay.get(kind, set())} == {}
