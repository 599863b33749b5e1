"""The configuration: what is allowed, what is refused in which words, and that it can be written down and read again."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import (
    UNSET,
    AudioFormat,
    RealtimeConfig,
    RealtimeSession,
    Tool,
    Transcription,
    TurnDetection,
    Unset,
    Voice,
    redacted,
)
from qai_realtime_sync.errors import ConfigError

WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}

# -- RealtimeConfig ----------------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    """Every default of the reference, and of the fields it has not."""
    config = RealtimeConfig()
    assert {field.name: getattr(config, field.name) for field in attrs.fields(RealtimeConfig)} == {
        "voice": "Sal",
        "instructions": "",
        "model": "",
        "sample_rate": 24000,
        "input_format": "pcm16",
        "output_format": "pcm16",
        "tools": [],
        "tool_choice": UNSET,
        "temperature": UNSET,
        "max_output_tokens": UNSET,
        "modalities": UNSET,
        "speed": UNSET,
        "turn_detection": TurnDetection("server_vad"),
        "transcription": UNSET,
        "resumption": True,
        "session": {},
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("voice", 5),
        ("voice", None),
        ("instructions", None),
        ("instructions", b"x"),
        ("model", None),
        ("model", UNSET),
        ("sample_rate", 24000.0),
        ("sample_rate", 7999),
        ("sample_rate", 48001),
        ("sample_rate", True),
        ("sample_rate", "24000"),
        ("input_format", "mp3"),
        ("output_format", None),
        ("tools", "get_weather"),
        ("tools", [5]),
        ("tools", {"name": "x"}),
        ("tool_choice", 5),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", float("nan")),
        ("temperature", "hot"),
        ("temperature", True),
        ("max_output_tokens", 0),
        ("max_output_tokens", "all"),
        ("max_output_tokens", 1.5),
        ("max_output_tokens", True),
        ("modalities", []),
        ("modalities", ["video"]),
        ("modalities", "text"),
        ("speed", 0.1),
        ("speed", 6),
        ("turn_detection", "server_vad"),
        ("turn_detection", {"type": "server_vad"}),
        ("transcription", "whisper-1"),
        ("resumption", "yes"),
        ("resumption", UNSET),
        ("sample_rate", UNSET),
        ("input_format", UNSET),
        ("session", []),
        ("session", {1: 2}),
    ],
)
def test_a_wrong_value_is_refused_at_once(field: str, value: Any) -> None:
    """A wrong value raises when the config is made, and the message names the field."""
    with pytest.raises(ConfigError, match=rf"^RealtimeConfig\.{field} must be "):
        RealtimeConfig(**{field: value})
    with pytest.raises(ValueError, match=field):
        attrs.evolve(RealtimeConfig(), **{field: value})


def test_the_message_shows_what_was_given_unless_it_is_long() -> None:
    """A short value is repeated, of a long or large one only the type is named."""
    with pytest.raises(ConfigError, match="not 'mp3'$"):
        RealtimeConfig(input_format="mp3")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not str$"):
        RealtimeConfig(input_format="x" * 100)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"but tools\[1\] is str; for a function use @client.tool"):
        RealtimeConfig(tools=[WEATHER, "x"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="not dict$"):
        RealtimeConfig(tools={"authorization": "secret"})  # type: ignore[arg-type]


def test_boundaries_are_allowed() -> None:
    """Both ends of every range, words, dicts and enums."""
    low = RealtimeConfig(
        sample_rate=8000, temperature=0, speed=0.25, max_output_tokens=1, tool_choice={"type": "function", "name": "x"}
    )
    high = RealtimeConfig(sample_rate=48_000, temperature=2, speed=5, max_output_tokens="inf", tool_choice="required")
    assert [(one.sample_rate, one.temperature, one.speed, one.max_output_tokens) for one in (low, high)] == [
        (8000, 0, 0.25, 1),
        (48_000, 2, 5, "inf"),
    ]
    RealtimeConfig(modalities=("text",), tools=(WEATHER, Tool(name="x")), turn_detection=None, transcription=None)  # type: ignore[arg-type]
    RealtimeConfig(voice=UNSET, instructions=UNSET, turn_detection=UNSET)


def test_a_voice_may_be_a_word_of_the_list() -> None:
    """A `Voice` is stored as its text."""
    config = RealtimeConfig(voice=Voice.EVE)
    assert config.voice == "eve"
    assert type(config.voice) is str
    assert str(Voice.EVE) == "eve"


def test_the_audio_formats() -> None:
    """PCM16 has the config's rate; G.711 has 8000 Hz whatever the rate says."""
    config = RealtimeConfig(sample_rate=16000, output_format="g711_ulaw")
    assert config.input_audio == AudioFormat("pcm16", 16000)
    assert config.output_audio == AudioFormat("g711_ulaw", 8000)


def test_a_config_is_frozen_and_changes_by_copy() -> None:
    """Threads may share a config: nobody changes it in place."""
    config = RealtimeConfig()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.voice = "Eve"  # type: ignore[misc]
    assert attrs.evolve(config, voice="Eve").voice == "Eve"
    assert config.voice == "Sal"


def test_a_list_of_the_caller_is_copied() -> None:
    """What the caller does to its list later does not change the config."""
    tools = [WEATHER]
    config = RealtimeConfig(tools=tools)  # type: ignore[arg-type]
    tools.clear()
    assert config.tools == [WEATHER]


# -- written down ------------------------------------------------------------------------------------------------------------


def test_the_reference_vector() -> None:
    """Voice Eve, rate 16000, one tool and no model: no `model` key, and the everyday fields always."""
    written = RealtimeConfig(voice="Eve", sample_rate=16000, tools=[WEATHER]).to_dict()
    assert written == {"voice": "Eve", "instructions": "", "sample_rate": 16000, "tools": [WEATHER]}
    assert RealtimeConfig().to_dict() == {"voice": "Sal", "instructions": "", "sample_rate": 24000}


CONFIGS = st.builds(
    RealtimeConfig,
    voice=st.text() | st.just(UNSET),
    instructions=st.text() | st.just(UNSET),
    model=st.text(),
    sample_rate=st.sampled_from([8000, 16000, 24000, 48000]),
    input_format=st.sampled_from(["pcm16", "g711_ulaw", "g711_alaw"]),
    tools=st.lists(st.just(WEATHER)),
    tool_choice=st.sampled_from([UNSET, "auto", {"type": "function", "name": "x"}]),
    temperature=st.floats(0, 2) | st.just(UNSET),
    max_output_tokens=st.integers(1) | st.sampled_from([UNSET, "inf"]),
    modalities=st.sampled_from([UNSET, ["text"], ["text", "audio"]]),
    turn_detection=st.sampled_from([None, UNSET])
    | st.builds(
        TurnDetection,
        st.sampled_from(["server_vad", "semantic_vad"]),
        threshold=st.floats(0, 1) | st.just(UNSET),
        idle_timeout_ms=st.integers(0, 1000) | st.sampled_from([None, UNSET]),
        create_response=st.booleans() | st.just(UNSET),
    ),
    transcription=st.sampled_from([None, UNSET]) | st.builds(Transcription, st.text(), language=st.text()),
    resumption=st.booleans(),
    session=st.dictionaries(st.text(), st.integers() | st.none()),
)


@given(CONFIGS)
def test_a_config_survives_json(config: RealtimeConfig) -> None:
    """Whatever a config holds, its plain form is JSON, and gives the same config back; `UNSET` and `None` stay apart."""
    assert RealtimeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_tool_object_is_written_without_its_function() -> None:
    """A `Tool` becomes the flat function tool of the OpenAI family."""
    tool = Tool(name="add", description="Add.", function=lambda a, b: a + b)
    assert RealtimeConfig(tools=[tool]).to_dict()["tools"] == [
        {"type": "function", "name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
    ]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ({"voise": "Eve"}, "has no field 'voise'; it has: voice"),
        ({"unset": ["voise"]}, "has no field 'voise'"),
        ({"unset": "voice"}, "must be a list"),
        ({"unset": ["sample_rate"]}, "sample_rate"),
        ({"turn_detection": {"kind": "x"}}, "turn_detection.*kind"),
        ({"turn_detection": {"type": "none"}}, "TurnDetection.type must be one of"),
        ({"transcription": {"model": 5}}, "Transcription.model must be text"),
        ({"sample_rate": "24000"}, "sample_rate must be"),
        ({"unset": [["voice"]]}, r"has no field \['voice'\]"),
        (None, "takes a dict as to_dict\\(\\) gives it, not NoneType"),
        ([], "takes a dict .* not list"),
    ],
)
def test_a_wrong_file_is_refused(written: Any, problem: str) -> None:
    """A key or value that cannot be is named, and an empty file is none of settings."""
    with pytest.raises(ConfigError, match=problem):
        RealtimeConfig.from_dict(written)


# -- parts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: TurnDetection("none"), "TurnDetection.type must be one of server_vad, semantic_vad"),
        (lambda: TurnDetection(threshold=1.5), "threshold must be a number from 0 to 1"),
        (lambda: TurnDetection(silence_duration_ms=0.5), "silence_duration_ms must be a whole number"),  # type: ignore[arg-type]
        (lambda: TurnDetection(prefix_padding_ms=None), "prefix_padding_ms"),  # type: ignore[arg-type]
        (lambda: TurnDetection(create_response=1), "create_response must be True or False"),  # type: ignore[arg-type]
        (lambda: TurnDetection(eagerness="very"), "eagerness must be one of low"),
        (lambda: Transcription(5), "Transcription.model must be text"),  # type: ignore[arg-type]
        (lambda: Tool(name=" "), "Tool.name must be a name"),
        (lambda: Tool(name=5), "Tool.name must be a name"),  # type: ignore[arg-type]
        (lambda: Tool(name="x", parameters=[]), "Tool.parameters must be a dict"),  # type: ignore[arg-type]
        (lambda: Tool(name="x", function="x"), "Tool.function must be a function"),  # type: ignore[arg-type]
        (lambda: Tool(name="x", timeout=0), "Tool.timeout must be a number"),
    ],
)
def test_a_wrong_part_is_refused(make: Any, problem: str) -> None:
    """The parts of a config are checked as it is, and name themselves."""
    with pytest.raises(ConfigError, match=problem):
        make()


def test_unset_is_not_none() -> None:
    """`UNSET` is one object, false, and equal to nothing else."""
    assert UNSET is Unset.UNSET
    assert not UNSET
    assert UNSET != None  # noqa: E711 - the comparison is the point
    assert repr(UNSET) == "UNSET"
    assert copy.deepcopy(UNSET) is pickle.loads(pickle.dumps(UNSET)) is UNSET


# -- secrets -----------------------------------------------------------------------------------------------------------------

SIGNED = "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a&token=tok_987"
SESSION = RealtimeSession(
    url="wss://x/y?secret=1", ephemeral_token="tok_123", signed_url=SIGNED, session_id="vs_1", expires_at=1.0
)


def test_no_text_form_of_a_session_holds_a_secret() -> None:
    """Token, signed URL and the query of a URL are masked; an empty one stays empty; the session id is visible."""
    text = repr(SESSION) + str(SESSION) + f"{SESSION}"
    for secret in ("tok_123", "tok_987", "secret=1"):
        assert secret not in text
    assert "vs_1" in text
    assert "ephemeral_token=''" in repr(RealtimeSession())
    assert "url='wss://x/y'" in repr(RealtimeSession(url="wss://x/y"))


def test_a_pickle_of_a_session_holds_no_secret() -> None:
    """A pickled session keeps what identifies it, and none of its rights."""
    data = pickle.dumps(SESSION)
    for secret in (b"tok_123", b"tok_987", b"secret=1"):
        assert secret not in data
    assert pickle.loads(data) == RealtimeSession(url="wss://x/y", session_id="vs_1", expires_at=1.0)


def test_a_copy_of_a_session_keeps_its_rights() -> None:
    """Copying is not pickling: the copy can connect."""
    assert copy.copy(SESSION) is SESSION
    assert copy.deepcopy({"session": SESSION})["session"].ephemeral_token == "tok_123"


def test_the_address_to_dial() -> None:
    """`signed_url` goes before `url`."""
    assert SESSION.ws_url == SIGNED
    assert RealtimeSession(url="wss://x").ws_url == "wss://x"
    assert RealtimeSession().ws_url == ""


def test_credentials_in_tools_are_not_shown() -> None:
    """The text form of a config masks what an MCP server's entry holds; the plain form keeps it, for it is read again."""
    tool = {"type": "mcp", "server_label": "s", "authorization": "Bearer abc", "headers": {"X-Key": "abc"}}
    config = RealtimeConfig(tools=[tool], session={"client_secret": {"value": "abc"}})
    assert "abc" not in repr(config)
    assert "server_label" in repr(config)
    assert config.to_dict()["tools"] == [tool]


def test_redacting_reaches_every_depth_and_changes_nothing() -> None:
    """Lists and dicts are searched, keys without case; empty secrets stay, and the original is untouched."""
    value = {"a": [{"Authorization": "x", "b": (1, {"TOKEN": "y"})}], "token": None, "name": "token"}
    assert redacted(value) == {
        "a": [{"Authorization": "<redacted>", "b": [1, {"TOKEN": "<redacted>"}]}],
        "token": None,
        "name": "token",
    }
    assert value["a"][0]["Authorization"] == "x"  # type: ignore[index]


@pytest.mark.parametrize(
    "key",
    [
        "openai_api_key", "apiKey", "APIKey", "api-key", "xi-api-key", "refresh_token", "authToken", "secret__token", "secret__pin",
        "client_secret", "Password", "Proxy-Authorization", "request_headers", "credentials", "private_key", "signedUrl", "auth",
    ],
)  # fmt: skip
def test_keys_that_hold_a_credential_are_known_by_their_parts(key: str) -> None:
    """However it is spelled and whatever stands before it; so it is in the text form and in the command that sends it."""
    config = RealtimeConfig(session={"extra": [{key: "swordfish"}]})
    assert redacted({key: {"value": "swordfish"}}) == {key: "<redacted>"}
    assert "swordfish" not in repr(config) + json.dumps(Configure(config=config).to_dict())
    assert config.to_dict()["session"] == {"extra": [{key: "swordfish"}]}


@pytest.mark.parametrize(
    "key", ["max_output_tokens", "keyterms", "keywords", "key", "value", "tokens", "author", "total_tokens", "url", "header", "monkey"]
)
def test_keys_that_only_sound_like_it_are_shown(key: str) -> None:
    """Limits, hints and plain names are what a journal is read for; a flag is no credential whatever its name."""
    assert redacted({key: "plain", "has_password": True}) == {key: "plain", "has_password": True}


def test_an_address_is_shown_without_what_lets_one_in() -> None:
    """User and query are cut from an address under a key that names one, and text elsewhere is left alone."""
    plain = {"imageUrl": "data:image/png;base64,AA==", "text": "https://h/?q=1"}
    given = plain | {"server_url": "https://me:pw@h/mcp?token=x&a=b", "uri": "h?"}
    assert redacted(given) == plain | {"server_url": "https://<redacted>@h/mcp?<redacted>", "uri": "h?<redacted>"}
    tool = {"type": "mcp", "server_label": "s", "server_url": "https://h/mcp?token=swordfish"}
    assert "swordfish" not in repr(RealtimeConfig(tools=[tool]))
    assert RealtimeConfig(tools=[tool]).to_dict()["tools"] == [tool]
