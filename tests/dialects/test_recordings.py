"""Real sessions of five services, decoded: nothing is unreadable, and what belongs together fits together."""

from __future__ import annotations

import json
import os
import pathlib
from collections import defaultdict
from typing import Any

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.events import (
    AudioDelta,
    Event,
    FunctionCall,
    ItemAdded,
    ResponseCreated,
    ResponseDone,
    SessionReady,
    TextDelta,
    TextDone,
    TranscriptDelta,
    TranscriptDone,
    TranscriptFailed,
    Unknown,
)
from qai_realtime_sync.seam import Resume

FOLDER = os.environ.get("QAI_RECORDINGS", "")
DIALECTS = {"openai": "openai", "azure_openai": "openai", "azure_voice_live": "openai", "xai": "xai", "gemini": "gemini"}

pytestmark = pytest.mark.skipif(not FOLDER, reason="QAI_RECORDINGS names no folder of recorded sessions")

SCENES = sorted(str(path.relative_to(FOLDER)) for path in pathlib.Path(FOLDER).glob("*/*.jsonl")) if FOLDER else []


def connections(scene: str) -> list[tuple[list[dict[str, Any]], list[Event]]]:
    """Return frames and events of each connection of a recorded session."""
    made = dialects.choose(DIALECTS[scene.split("/")[0]])
    found: list[tuple[list[dict[str, Any]], list[Event]]] = [([], [])]
    dialect = made()
    for line in (pathlib.Path(FOLDER) / scene).read_text(encoding="utf-8").split("\n"):
        message = json.loads(line) if line else {"direction": "none", "kind": "message"}
        if message["kind"] == "close":
            dialect = made()
            found.append(([], []))
        elif message["direction"] == "received":
            found[-1][0].append(message["data"])
            found[-1][1].extend(dialect.decode(json.dumps(message["data"]).encode()))
    return found


@pytest.mark.parametrize("scene", SCENES)
def test_every_recorded_frame_is_understood(scene: str) -> None:
    """No frame of a real service is unknown, and each connection becomes ready."""
    for frames, events in connections(scene):
        assert frames
        assert [event for event in events if isinstance(event, Unknown)] == []
        assert any(isinstance(event, SessionReady) for event in events)


@pytest.mark.parametrize("scene", SCENES)
def test_joined_pieces_are_the_whole(scene: str) -> None:
    """The deltas of one transcript or text, joined, are what its end says; Gemini's are stripped."""
    for _, events in connections(scene):
        pieces: dict[Any, str] = defaultdict(str)
        ends = 0
        for event in events:
            if isinstance(event, (TranscriptDelta, TranscriptDone)):
                key: Any = (event.source, event.response_id, event.item_id, event.content_index)
            elif isinstance(event, (TextDelta, TextDone)):
                key = ("text", event.response_id, event.item_id, event.content_index)
            else:
                continue
            if isinstance(event, TranscriptDelta) and event.snapshot:
                pieces[key] = event.text
            elif isinstance(event, (TranscriptDelta, TextDelta)):
                pieces[key] += event.delta
            elif not (scene.startswith("xai/") and key[0] == "input"):  # its last snapshot may differ from the final text
                ends += 1
                whole = event.transcript if isinstance(event, TranscriptDone) else event.text
                assert pieces.pop(key).strip() == whole.strip()
        assert ends


@pytest.mark.parametrize("scene", SCENES)
def test_a_spoken_sentence_has_one_final_transcript(scene: str) -> None:
    """Once per item, final, and only where somebody spoke; or it is told that none will come."""
    for _, events in connections(scene):
        finals = [e for e in events if isinstance(e, TranscriptDone) and e.source == "input"]
        failed = [e for e in events if isinstance(e, TranscriptFailed)]
        assert len(finals) + len(failed) == (1 if "server_vad" in scene or "transcription_fails" in scene else 0)
        assert all(e.final and e.transcript for e in finals)


@pytest.mark.parametrize("scene", SCENES)
def test_a_call_has_all_that_its_answer_needs(scene: str) -> None:
    """Name, call id and arguments that are a JSON object, once per call, in the tool scenes and nowhere else."""
    calls = [event for _, events in connections(scene) for event in events if isinstance(event, FunctionCall)]
    assert len(calls) == ("tool_round" in scene)
    for call in calls:
        assert all((call.name, call.call_id, call.response_id))
        assert isinstance(json.loads(call.arguments), dict)


@pytest.mark.parametrize("scene", SCENES)
def test_every_answer_begins_and_ends_and_says_what_it_cost(scene: str) -> None:
    """Responses are begun before they are done, with the same ids, and usage is found wherever the service puts it."""
    for _, events in connections(scene):
        begun: list[str] = []
        done = [event for event in events if isinstance(event, ResponseDone)]
        assert done
        for event in events:
            if isinstance(event, ResponseCreated):
                begun.append(event.response_id)
            elif isinstance(event, ResponseDone):
                assert event.response_id in begun
                assert event.status == "completed"
                assert event.usage is not None
                assert event.usage.output_tokens > 0
            elif isinstance(event, AudioDelta):
                assert len(event.audio) == 33
                assert event.response_id in begun


@pytest.mark.skipif("xai/resumption.jsonl" not in SCENES, reason="no recorded resumption")
def test_replayed_history_is_marked_when_the_connection_was_resumed() -> None:
    """On the second connection the items before our configuration are old, those after it new."""
    frames = connections("xai/resumption.jsonl")[1][0]
    dialect = dialects.choose("xai")()
    dialect.handshake(RealtimeConfig(), RealtimeSession(), "k", Resume(handle="c"))
    items = [e for frame in frames for e in dialect.decode(json.dumps(frame)) if isinstance(e, ItemAdded)]
    assert [item.replayed for item in items] == [True] + [False] * (len(items) - 1)
