"""How a dialect is chosen, and what its traits say before a connection is open."""

from __future__ import annotations

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import Command, CommitAudio, Say, SendFunctionResult, SendText
from qai_realtime_sync.config import AudioFormat, RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects.elevenlabs import ElevenLabs
from qai_realtime_sync.dialects.gemini import Gemini
from qai_realtime_sync.dialects.openai import OpenAI
from qai_realtime_sync.dialects.table import command_table, event_table, main
from qai_realtime_sync.dialects.xai import XAI
from qai_realtime_sync.errors import ConfigError, UnsupportedCommandError


def test_a_name_gives_its_class_and_the_gateway_speaks_xai() -> None:
    """All five names exist, and ``gateway`` is xAI's dialect."""
    assert dialects.names() == ("xai", "gateway", "openai", "elevenlabs", "gemini")
    assert [dialects.choose(name) for name in dialects.names()] == [XAI, XAI, OpenAI, ElevenLabs, Gemini]
    assert dialects.choose(Gemini) is Gemini


@pytest.mark.parametrize("wrong", ["grok", "", "OpenAI", 3, str])
def test_an_unknown_name_is_refused_with_the_names_that_exist(wrong: object) -> None:
    """The message lists what can be said instead."""
    with pytest.raises(ConfigError, match="auto, xai, gateway, openai, elevenlabs, gemini"):
        dialects.choose(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("provider", "url", "model", "wanted"),
    [
        ("", "", "", XAI),
        ("elevenlabs", "wss://api.x.ai/v1/realtime", "gpt-4o", ElevenLabs),
        ("Gemini", "", "", Gemini),
        ("somebody", "", "", XAI),
        ("", "https://api.quantumencoding.ai", "gpt-4o-realtime-preview", XAI),
        ("", "https://example.test/qai/v1/realtime?model=x", "gpt-4o", XAI),
        ("", "wss://example.test/qai/v1/realtime/elevenlabs", "", ElevenLabs),
        ("", "wss://api.x.ai/v1/realtime", "gpt-4o", XAI),
        ("", "wss://us-east-1.api.x.ai/v1/realtime", "", XAI),
        ("", "wss://notx.ai/v1/realtime", "gpt-4o", OpenAI),
        ("", "wss://api.openai.com/v1/realtime?model=gpt-realtime", "", OpenAI),
        ("", "wss://mine.openai.azure.com/openai/v1/realtime", "", OpenAI),
        ("", "wss://mine.services.ai.azure.com/voice-live/realtime", "", OpenAI),
        ("", "wss://api.eu.residency.elevenlabs.io/v1/convai/conversation?agent_id=a", "", ElevenLabs),
        ("", "ws://127.0.0.1:8080/v1/convai/conversation", "", ElevenLabs),
        ("", "wss://generativelanguage.googleapis.com/ws/x.BidiGenerateContent", "", Gemini),
        ("", "wss://europe-west4-aiplatform.googleapis.com/ws/x", "", Gemini),
        ("", "ws://127.0.0.1:1/ws/x.GenerativeService.BidiGenerateContent", "", Gemini),
        ("", "ws://127.0.0.1:1/v1/realtime", "gpt-realtime", OpenAI),
        ("", "ws://127.0.0.1:1/v1/realtime", "grok-realtime-beta", XAI),
        ("", "ws://127.0.0.1:1/v1/realtime", "my-gpt-realtime", XAI),
        ("", "wss://[broken", "gpt-4o", OpenAI),
    ],
)
def test_auto_looks_at_provider_then_address_then_model(
    provider: str, url: str, model: str, wanted: type[dialects.Dialect]
) -> None:
    """A model counts only by its beginning, and only where provider and address say nothing."""
    assert dialects.choose("auto", provider, url, model) is wanted


def test_through_the_gateway_a_gpt_model_speaks_xais_dialect() -> None:
    """The gateway's events are xAI's, whatever the model; an agent's are its own."""
    assert dialects.choose("auto", url="http://127.0.0.1:1", model="gpt-4o", gateway=True) is XAI
    assert dialects.choose("auto", provider="openai", gateway=True) is XAI
    assert dialects.choose("auto", provider="elevenlabs", gateway=True) is ElevenLabs
    assert dialects.choose("openai", gateway=True) is OpenAI


def test_traits_say_what_is_answered_without_asking() -> None:
    """The client sends no `CreateResponse` after these."""
    assert XAI.traits.answers_by_itself == {Say}
    assert OpenAI.traits.answers_by_itself == frozenset()
    assert ElevenLabs.traits.answers_by_itself == {SendText, SendFunctionResult}
    assert Gemini.traits.answers_by_itself == {SendText, SendFunctionResult, CommitAudio}


def test_fixed_formats_follow_the_configuration() -> None:
    """OpenAI and the gateway's OpenAI branch fix 24 kHz for pcm16 only, xAI for rates it lacks; Gemini takes any rate, but no G.711."""
    pcm24, pcm16 = AudioFormat("pcm16", 24000), AudioFormat("pcm16", 16000)
    session = RealtimeSession(url="wss://service.test")

    def fixed(made: type[dialects.Dialect], config: RealtimeConfig, gateway: bool = False) -> tuple[object, object]:
        dialect = made(gateway=gateway)
        dialect.handshake(config, session, "key")
        return dialect.traits.fixed_input, dialect.traits.fixed_output

    assert fixed(OpenAI, RealtimeConfig(sample_rate=16000)) == (pcm24, pcm24)
    assert fixed(OpenAI, RealtimeConfig(input_format="g711_ulaw")) == (None, pcm24)
    assert fixed(XAI, RealtimeConfig()) == (None, None)
    assert fixed(XAI, RealtimeConfig(sample_rate=12000)) == (pcm24, pcm24)
    assert fixed(XAI, RealtimeConfig(sample_rate=12000), gateway=True) == (pcm24, pcm24)
    assert fixed(XAI, RealtimeConfig(sample_rate=12000, input_format="g711_ulaw")) == (None, pcm24)
    assert fixed(XAI, RealtimeConfig(sample_rate=22050)) == (None, None)
    assert fixed(XAI, RealtimeConfig(model="gpt-4o"), gateway=True) == (pcm24, pcm24)
    assert fixed(OpenAI, RealtimeConfig(model="grok"), gateway=True) == (None, None)
    assert fixed(Gemini, RealtimeConfig(sample_rate=8000)) == (None, pcm24)
    assert fixed(Gemini, RealtimeConfig(input_format="g711_alaw")) == (pcm16, pcm24)


def test_a_command_of_another_kind_is_refused_by_name() -> None:
    """A command class that no table knows raises, and says how to send anything."""

    class Juggle(Command):
        """Not a command of ours."""

    for name in dialects.names():
        with pytest.raises(UnsupportedCommandError, match=r"juggle.*send_event"):
            dialects.choose(name)().encode(Juggle())


def test_the_base_opens_nothing() -> None:
    """A dialect without an address of its own cannot make a handshake, and gives neutral answers else."""
    plain = dialects.Dialect()
    with pytest.raises(ConfigError):
        plain.handshake(RealtimeConfig(), RealtimeSession())
    assert plain.session_body(RealtimeConfig()) == {}
    assert plain.place({}, b"") is False
    assert plain.sound(b"\x01")[0].to_dict()["name"] == "unknown"


def test_the_tables_name_every_dialect_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The generated tables hold what the dialects' own tables hold."""
    assert event_table()["audio_delta"]["gemini"] == ["serverContent"]
    assert event_table()["audio_delta"]["openai"] == ["response.output_audio.delta", "response.audio.delta"]
    assert command_table()["say"] == {"xai": "answered", "openai": "-", "elevenlabs": "-", "gemini": "-"}
    main()
    printed = capsys.readouterr().out
    assert "| `pong` | - | - | sent | - |" in printed
    assert "| `going_away` | - | - | - | `goAway` |" in printed
