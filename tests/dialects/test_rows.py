"""Readers of single fields: what a service writes, or the default."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import UNSET, AudioFormat, RealtimeConfig
from qai_realtime_sync.dialects import openai_parts, rows
from qai_realtime_sync.dialects.base import Dialect
from qai_realtime_sync.dialects.elevenlabs_events import formats
from qai_realtime_sync.dialects.gemini import Gemini
from qai_realtime_sync.dialects.gemini_setup import setup
from qai_realtime_sync.dialects.merge import merged
from qai_realtime_sync.dialects.wire import loads
from qai_realtime_sync.events import ContentPart, GoingAway, Item, Ping, SessionCreated, SessionReady, TokenUsage, VadScore


@pytest.mark.parametrize(
    ("value", "whole", "number"),
    [
        (5, 5, 5.0),
        (5.0, 5, 5.0),
        (5.5, -1, 5.5),
        (-3, -3, -3.0),
        (True, -1, -1.0),
        ("5", -1, -1.0),
        (None, -1, -1.0),
        (math.inf, -1, -1.0),
        (math.nan, -1, -1.0),
        (10**400, 10**400, -1.0),
        ([], -1, -1.0),
    ],
)
def test_numbers(value: Any, whole: int, number: float) -> None:
    """A whole number may be written with a point; true is no number; what does not fit is the default."""
    assert rows.read_whole(value, -1) == whole
    assert rows.read_number(value, -1.0) == number


def test_a_path_ends_in_nothing_where_an_object_is_missing() -> None:
    """Lists and texts on the way are no objects."""
    value = {"a": {"b": 1, "c": [{"d": 2}]}}
    assert rows.at(value, "a", "b") == 1
    assert rows.at(value, "a", "c", "d") is None
    assert rows.at(value, "x", "b") is None
    assert rows.at(None) is None


def test_a_row_reads_each_field_by_its_type() -> None:
    """Nested paths, defaults for null and for wrong types, and constants."""
    decode = rows.row(
        SessionCreated,
        session_id=rows.text("s", "id"),
        model=rows.const("{fixed}"),
        expires_at=rows.number("s", "at", default=1.5),
        session=rows.mapping("s"),
    )
    (event,) = decode(None, {"event_id": None, "s": {"id": 5, "at": "soon"}})
    assert event.to_dict() == {"name": "session_created", "model": "{fixed}", "expires_at": 1.5, "session": {"id": 5, "at": "soon"}}
    (event,) = decode(None, {"event_id": "e", "s": "?"})
    assert event == SessionCreated(event_id="e", model="{fixed}", expires_at=1.5)
    assert rows.events_of(decode) == (SessionCreated,)
    assert rows.events_of(lambda dialect, value: []) == ()


def test_an_essential_field_refuses_and_names_its_path() -> None:
    """The problem says which field and what stood there instead."""
    decode = rows.row(SessionCreated, session_id=rows.essential("s", "id"))
    for given, words in ((None, "null or missing"), (5, "number"), ([], "array"), ({}, "object"), (True, "boolean")):
        with pytest.raises(rows.UnreadableError, match=rf"s\.id is .*{words}"):
            decode(None, {"s": {"id": given}})
    with pytest.raises(rows.UnreadableError, match="delta is null or missing"):
        rows.read_sound(None, "delta")
    with pytest.raises(rows.UnreadableError, match="delta: not valid base64"):
        rows.read_sound("?", "delta")
    assert rows.read_sound(b"cut out", "delta") == b"cut out"


def test_a_problem_in_a_known_kind_keeps_tag_and_event_id() -> None:
    """The `Unknown` of an unreadable frame can still be told apart."""

    class Small(Dialect):
        """One row that refuses."""

        decoders = {"vad": rows.row(VadScore, score=rows.essential("score")), "ping": rows.row(Ping)}

    (event,) = Small().decode('{"type":"vad","event_id":"e1"}')
    assert event.to_dict() == {"name": "unknown", "event_id": "e1", "type": "vad", "problem": "score is null or missing"}
    (event,) = Small().decode('{"type":"vad","event_id":1}')
    assert event.event_id == ""


def test_a_member_that_cannot_be_read_spoils_no_other_of_its_message() -> None:
    """Gemini's messages have several members; each is told or refused by itself."""

    class Small(Gemini):
        """A going away that must say when."""

        decoders = Gemini.decoders | {"goAway": rows.row(GoingAway, event_id=rows.essential("goAway", "timeLeft"))}

    told = Small().decode('{"goAway":{},"setupComplete":{}}')
    assert [event.event_name for event in told] == ["session_ready", "unknown"]
    assert told[1].to_dict()["problem"] == "goAway.timeLeft is null or missing"


@pytest.mark.parametrize("value", [None, [], "x", 5, {}, {"content": "x"}, {"content": [None, 5]}])
def test_shared_shapes_are_total(value: Any) -> None:
    """An item, a part, usage and lists of anything else are empty ones."""
    assert openai_parts.item(value) == Item()
    assert openai_parts.content_part(value) == ContentPart()
    assert openai_parts.usage({"input_tokens": value, "input_token_details": value}) == TokenUsage() or value == 5
    assert openai_parts.items([value] if not isinstance(value, dict) else 5) == []
    assert openai_parts.languages(value) == []
    assert openai_parts.rate_limits(value) == []
    assert openai_parts.audio_format(value) is None
    assert openai_parts.input_format(value) is None
    assert openai_parts.output_format(value) is None


def test_languages_come_as_objects_or_texts() -> None:
    """Both spellings give the code, what has none is left out."""
    assert openai_parts.languages([{"code": "en"}, "de", {"code": 5}, {}, ""]) == ["en", "de"]


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"type": "audio/pcm"}, AudioFormat("pcm16", 24000)),
        ({"type": "audio/pcm", "rate": 8000}, AudioFormat("pcm16", 8000)),
        ({"type": "audio/pcm", "rate": -1}, AudioFormat("pcm16", 24000)),
        ({"type": "audio/pcmu", "rate": 48000}, AudioFormat("g711_ulaw", 8000)),
        ({"type": "audio/pcma"}, AudioFormat("g711_alaw", 8000)),
        ({"type": "audio/opus"}, AudioFormat("opus", 24000)),
        ("pcm16", AudioFormat("pcm16", 24000)),
        ("not specified", None),
        ({"type": ["audio/pcm"]}, None),
    ],
)
def test_formats_of_the_family(value: Any, wanted: AudioFormat | None) -> None:
    """G.711 is 8 kHz whatever the wire says; an unknown word is no format."""
    assert openai_parts.audio_format(value) == wanted


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        (None, AudioFormat("pcm16", 16000)),
        ("", AudioFormat("pcm16", 16000)),
        ("pcm_44100", AudioFormat("pcm16", 44100)),
        ("ulaw_8000", AudioFormat("g711_ulaw", 8000)),
        ("mp3_44100", None),
        ("pcm_", None),
        ("pcm_1", None),
        ("pcm_²", None),
        ("pcm_99999999999999999999", None),
    ],
)
def test_formats_of_elevenlabs(word: Any, wanted: AudioFormat | None) -> None:
    """Nothing said means pcm_16000; an unknown word is no format."""
    assert formats(word) == wanted


def test_raw_fields_merge_key_by_key() -> None:
    """Nothing that was given is changed; another type replaces whole, the same type merges, None and lists replace."""
    session = {"a": {"type": "x", "n": 1, "deep": {"k": 1}}, "b": [1], "c": {"n": 1}}
    layer = {"a": {"deep": {"l": 2}}, "b": [2], "c": None}
    assert merged(session, layer, None) == {"a": {"type": "x", "n": 1, "deep": {"k": 1, "l": 2}}, "b": [2], "c": None}
    assert merged(session, {"a": {"type": "x", "n": 2}})["a"] == {"type": "x", "n": 2, "deep": {"k": 1}}
    assert merged(session, {"a": {"type": "y"}})["a"] == {"type": "y"}
    assert session == {"a": {"type": "x", "n": 1, "deep": {"k": 1}}, "b": [1], "c": {"n": 1}}


def test_a_setup_leaves_out_what_was_not_said() -> None:
    """UNSET turn detection leaves the service's own, a tool's odd schema passes as far as it can."""
    tools: list[Any] = [
        {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"items": True, "type": [None]}}}},
        {"type": "function", "function": "odd", "name": "g"},
        {"functionDeclarations": [7]},
    ]
    value = setup(RealtimeConfig(turn_detection=UNSET, tools=tools), None, vertex=False, handle="")
    assert "realtimeInputConfig" not in value
    declared = value["tools"][0]["functionDeclarations"]
    assert declared[0]["parameters"] == {"type": "OBJECT", "properties": {"a": {"items": True}}}
    assert declared[1] == {"name": "g"}


_NO_RATES = [10**400, 10**25, 10**15, 96_001, 7999, 1, 0, -24000, 1e300, "24000", None]


@pytest.mark.parametrize("rate", _NO_RATES, ids=lambda rate: str(rate)[:12])
@pytest.mark.parametrize("name", ["xai", "openai"])
def test_a_rate_that_no_service_has_is_not_believed(name: str, rate: Any) -> None:
    """A converter for it would never be ready or give no sound, so the usual rate holds; those that exist are taken."""
    for given, wanted in ((rate, 24000), (8000, 8000), (96_000, 96_000), (48_000.0, 48_000)):
        form = {"format": {"type": "audio/pcm", "rate": given}}
        for session in ({"audio": {"input": form, "output": form}}, {"input_audio_format": "pcm16", "input_audio_sampling_rate": given}):
            (ready,) = dialects.choose(name)().understand({"type": "session.updated", "session": session})
            assert isinstance(ready, SessionReady)
            assert ready.input_format == AudioFormat("pcm16", wanted)
            assert ready.output_format in (None, ready.input_format)


_NO_FORMATS = ["pcm_1", "pcm_7999", "pcm_999999", "pcm_1000000000000000", "pcm_" + "9" * 400, "pcm_-16000", "ulaw_"]


@pytest.mark.parametrize("word", _NO_FORMATS, ids=lambda word: word[:12])
def test_a_rate_in_a_word_is_bounded_too(word: str) -> None:
    """An agent's format that no agent has gives none, and the usual one is not guessed."""
    assert formats(word) is None


def test_client_events_name_all_that_the_dialect_reads() -> None:
    """What is left out of the list is switched off: only words that may never be said, and the poorer of a server tool's two ends."""
    (frame,) = dialects.choose("elevenlabs")().encode(Configure(config=RealtimeConfig()))
    named = loads(frame.payload)["conversation_config_override"]["conversation"]["client_events"]
    always = {"error"}  # no event of the list
    assert set(named) == set(dialects.choose("elevenlabs").decoders) - always - {"agent_tool_response", "internal_tentative_agent_response"}
    assert len(named) == len(set(named))
