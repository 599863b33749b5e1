"""Where each dialect connects, with which headers, and what it says first."""

from __future__ import annotations

import pytest

from qai_realtime_sync import dialects
from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession, Tool
from qai_realtime_sync.dialects.elevenlabs import ElevenLabs
from qai_realtime_sync.dialects.gemini import Gemini
from qai_realtime_sync.dialects.openai import OpenAI
from qai_realtime_sync.dialects.xai import XAI
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.seam import Handshake, Resume

PLAIN = RealtimeConfig()
BOTH = {"Authorization": "Bearer qai_1", "X-API-Key": "qai_1"}


def opened(
    made: type[dialects.Dialect], url: str = "", *, gateway: bool = False, config: RealtimeConfig = PLAIN,
    key: str = "", resume: str = "", **session: str,
) -> Handshake:  # fmt: skip
    """Return the handshake of a new connection."""
    handle = Resume(handle=resume) if resume else None
    return made(gateway=gateway).handshake(config, RealtimeSession(url=url, **session), key, handle)  # type: ignore[arg-type]


# -- the gateway -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.quantumencoding.ai", "wss://api.quantumencoding.ai/qai/v1/realtime"),
        ("https://api.quantumencoding.ai/", "wss://api.quantumencoding.ai/qai/v1/realtime"),
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/qai/v1/realtime"),
        ("wss://proxy.test/base/", "wss://proxy.test/base/qai/v1/realtime"),
        ("ws://[::1]:9", "ws://[::1]:9/qai/v1/realtime"),
        ("HTTPS://Proxy.test?tenant=a%20b#top", "wss://Proxy.test/qai/v1/realtime?tenant=a%20b"),
    ],
)
def test_the_gateway_gets_its_path_once(base: str, url: str) -> None:
    """The scheme becomes a WebSocket's, a trailing slash is cut, a query of the base stays."""
    assert opened(XAI, base, gateway=True, key="qai_1").url == url


def test_the_gateway_gets_both_credentials_and_15_seconds() -> None:
    """Some proxies eat Authorization, so the key travels twice; the config goes out first."""
    handshake = opened(XAI, "https://gateway.test", gateway=True, key="qai_1")
    assert handshake.headers == BOTH
    assert (handshake.timeout, handshake.subprotocols) == (15.0, ())
    assert handshake.commands == (Configure(config=PLAIN),)
    assert opened(XAI, "https://gateway.test", gateway=True).headers == {}


def test_a_model_is_percent_encoded_into_the_query() -> None:
    """An empty model adds no query."""
    config = RealtimeConfig(model="grok voice/3&x")
    url = opened(XAI, "https://gateway.test?model_set=no", gateway=True, config=config).url
    assert url == "wss://gateway.test/qai/v1/realtime?model_set=no&model=grok%20voice%2F3%26x"


@pytest.mark.parametrize("gateway", [True, False])
@pytest.mark.parametrize("url", ["ftp://host.test/x?token=secret", "gateway.test", "https://", "wss://h:0/", "wss://a b/", "wss://[x"])
def test_an_address_that_cannot_work_is_named_without_its_secrets(url: str, gateway: bool) -> None:
    """The error has the reference's code and shows neither query nor user."""
    with pytest.raises(ConfigError) as refused:
        opened(XAI, url, gateway=gateway)
    assert refused.value.code == "invalid_base_url"
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        opened(OpenAI, "ftp://user:secret@host.test/x?y", gateway=gateway)
    assert "secret" not in str(refused.value)
    assert "host.test/x" in str(refused.value)


@pytest.mark.parametrize("key", ["a\nb", "a\r\nX: y", "ключ", "tab\tbed", " padded", "\x80"])
@pytest.mark.parametrize("gateway", [True, False])
def test_a_key_that_cannot_be_a_header_is_refused_and_not_shown(key: str, gateway: bool) -> None:
    """The reference's code, before any I/O, and the key in no message."""
    for made in (XAI, Gemini) if not gateway else (XAI, ElevenLabs):
        with pytest.raises(ConfigError) as refused:
            opened(made, "wss://h.test", gateway=gateway, key=key)
        assert refused.value.code == "invalid_api_key"
        assert key not in str(refused.value)


@pytest.mark.parametrize(
    ("config", "query"),
    [
        (RealtimeConfig(), ""),
        (
            RealtimeConfig(voice="21m00Tcm4TlvDq8ikWAM", session={"agent_id": "agent 7"}),
            "?voice_id=21m00Tcm4TlvDq8ikWAM&agent_id=agent%207",
        ),
        (RealtimeConfig(voice="v", model="m"), "?voice_id=v&model=m"),
    ],
)
def test_elevenlabs_through_the_gateway_has_its_own_path(config: RealtimeConfig, query: str) -> None:
    """Only what is set, in this order; the first message is the agent's, never a session update."""
    handshake = opened(ElevenLabs, "https://gateway.test/", gateway=True, config=config, key="qai_1")
    assert handshake.url == f"wss://gateway.test/qai/v1/realtime/elevenlabs{query}"
    assert (handshake.headers, handshake.timeout) == (BOTH, 15.0)


def test_gemini_is_not_behind_the_gateway() -> None:
    """The error names the way that works."""
    with pytest.raises(ConfigError, match="direct"):
        opened(Gemini, "https://gateway.test", gateway=True)


# -- straight to a service ---------------------------------------------------------------------------------------------------


def test_a_direct_connection_carries_a_bearer_only() -> None:
    """A minted token goes before the key, no X-API-Key, 10 seconds, the service's own address if none is given."""
    handshake = opened(XAI, ephemeral_token="eph", key="qai_1")
    assert handshake.url == "wss://api.x.ai/v1/realtime"
    assert handshake.headers == {"Authorization": "Bearer eph"}
    assert handshake.timeout == 10.0
    assert opened(OpenAI, key="sk-1").headers == {"Authorization": "Bearer sk-1"}
    assert opened(OpenAI).url == "wss://api.openai.com/v1/realtime"
    assert opened(OpenAI).headers == {}


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://h.test/v1", "wss://h.test/v1?model=gpt-realtime"),
        ("wss://h.test/v1?model=other", "wss://h.test/v1?model=other"),
        ("wss://h.test/v1?a=b%2Bc", "wss://h.test/v1?a=b%2Bc&model=gpt-realtime"),
        ("wss://h.test/v1?call_id=c1", "wss://h.test/v1?call_id=c1"),
    ],
)
def test_a_model_joins_a_query_and_replaces_nothing(url: str, wanted: str) -> None:
    """What stands in the address wins, and an address that joins a call gets no model."""
    assert opened(OpenAI, url, config=RealtimeConfig(model="gpt-realtime")).url == wanted


def test_a_transcription_session_has_an_address_of_its_own() -> None:
    """It says its intent and never a model, in the address and in what a secret is minted for; through the gateway nothing changes."""
    config = RealtimeConfig(model="gpt-realtime", session={"type": "transcription"})
    assert opened(OpenAI, config=config).url == "wss://api.openai.com/v1/realtime?intent=transcription"
    assert "model" not in OpenAI().session_body(config)["session"]
    assert opened(OpenAI, "https://g.test", gateway=True, config=config).url == "wss://g.test/qai/v1/realtime?model=gpt-realtime"


@pytest.mark.parametrize("made", [XAI, OpenAI, ElevenLabs, Gemini])
def test_a_signed_address_stays_as_it_is(made: type[dialects.Dialect]) -> None:
    """It is the credential: no header, no parameter, no new encoding."""
    signed = "wss://h.test/c?agent_id=a%2fb&token=x+y"
    handshake = opened(made, signed_url=signed, key="k", config=RealtimeConfig(model="m"))
    assert (handshake.url, handshake.headers) == (signed, {})
    assert signed not in repr(handshake)


def test_elevenlabs_needs_an_agent() -> None:
    """The agent comes from the address or the raw session; a signature in the address makes it a signed one."""
    with pytest.raises(ConfigError) as refused:
        opened(ElevenLabs, key="k")
    assert refused.value.code == "missing_agent_id"
    handshake = opened(ElevenLabs, key="k", config=RealtimeConfig(session={"agent_id": "a b"}))
    assert handshake.url == "wss://api.elevenlabs.io/v1/convai/conversation?agent_id=a%20b"
    assert handshake.headers == {"xi-api-key": "k"}
    assert opened(ElevenLabs, "wss://h.test/c?agent_id=a").headers == {}
    assert opened(ElevenLabs, "wss://h.test/c?agent_id=a&conversation_signature=s", key="k").headers == {}


def test_gemini_puts_its_key_into_a_header() -> None:
    """A key, a short-lived token, a key in the address and Vertex each have their own form."""
    handshake = opened(Gemini, key="AIza")
    assert handshake.headers == {"x-goog-api-key": "AIza"}
    assert handshake.url.endswith("v1beta.GenerativeService.BidiGenerateContent")
    handshake = opened(Gemini, ephemeral_token="auth_tokens/1")
    assert handshake.headers == {"Authorization": "Token auth_tokens/1"}
    assert handshake.url.endswith("BidiGenerateContentConstrained")
    for query in ("key=AIza", "access_token=auth_tokens/1"):
        handshake = opened(Gemini, f"wss://h.test/ws?{query}", key="other")
        assert (handshake.url, handshake.headers) == (f"wss://h.test/ws?{query}", {})
    vertex = Gemini()
    handshake = vertex.handshake(PLAIN, RealtimeSession(url="wss://eu-aiplatform.googleapis.com/ws/x"), "oauth")
    assert handshake.headers == {"Authorization": "Bearer oauth"}
    assert b"publishers/google/models/" in bytes(vertex.encode(handshake.commands[0])[0].payload)
    assert opened(Gemini).headers == {}


def test_a_resumed_xai_conversation_is_named_in_the_address() -> None:
    """OpenAI knows no resumption, so a handle changes nothing there."""
    assert opened(XAI, resume="c 1").url == "wss://api.x.ai/v1/realtime?conversation_id=c%201"
    assert opened(OpenAI, resume="c1").url == "wss://api.openai.com/v1/realtime"


def test_azure_voice_live_gets_the_betas_session() -> None:
    """It speaks the beta, so a GA session object would be refused there."""
    dialect = OpenAI()
    url = "wss://mine.services.ai.azure.com/voice-live/realtime?api-version=1"
    dialect.handshake(PLAIN, RealtimeSession(url=url), "k")
    session = dialect.session_update(RealtimeConfig(voice="alloy", modalities=["text"]))
    assert session["input_audio_format"] == "pcm16"
    assert (session["voice"], session["modalities"], session["input_audio_transcription"]["model"]) == (
        "alloy",
        ["text"],
        "gpt-4o-mini-transcribe",
    )
    assert "voice" not in dialect.session_update(PLAIN)
    assert not {"audio", "type"} & set(session)


def test_azure_voice_live_may_stand_behind_another_address() -> None:
    """A session that names the provider gets the beta's object wherever it connects; any other one does not."""
    for provider, shape in (("azure_voice_live", "flat"), ("Azure_Voice_Live", "flat"), ("openai", "nested")):
        dialect = OpenAI()
        dialect.handshake(PLAIN, RealtimeSession(url="wss://proxy.test/x", provider=provider), "k")
        assert ("audio" in dialect.session_update(PLAIN)) == (shape == "nested"), provider


# -- minting -----------------------------------------------------------------------------------------------------------------


def test_what_minting_sends() -> None:
    """The gateway is told the model it bills by, an agent's voice and prompt, and OpenAI the whole session."""
    tool = Tool(name="f")
    config = RealtimeConfig(voice="Eve", model="m", instructions="Be brief.", tools=[tool, {"name": "g"}], session={"x": 1})
    assert XAI(gateway=True).session_body(PLAIN) == {}
    assert XAI(gateway=True).session_body(config) == OpenAI(gateway=True).session_body(config) == {"model": "m"}
    assert OpenAI(gateway=True).session_body(PLAIN) == {}
    assert XAI().session_body(config) == {}
    assert OpenAI().session_body(PLAIN)["session"]["type"] == "realtime"
    assert OpenAI().session_body(config)["session"]["model"] == "m"
    assert ElevenLabs(gateway=True).session_body(PLAIN) == {}
    assert ElevenLabs(gateway=True).session_body(config) == {
        "voice": "Eve", "prompt": "Be brief.", "model": "m", "tools": [tool.to_dict(), {"name": "g"}], "x": 1,
    }  # fmt: skip
    assert Gemini().session_body(PLAIN)["bidiGenerateContentSetup"]["model"].startswith("models/")
