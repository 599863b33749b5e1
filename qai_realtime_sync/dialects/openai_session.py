"""A configuration as the session object of the OpenAI family: today's shape, the beta's, xAI's, and the two of the gateway.

Sources: OpenAI schema (GA refuses a whole update for one unknown field, so only known ones are sent), xAI documents and
recordings, the gateway's reference SDKs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.config import DEFAULT_VOICE, UNSET, RealtimeConfig, Transcription, TurnDetection
from qai_realtime_sync.dialects.merge import merged, tools_as_dicts, without_unset

__all__ = ["beta_session", "ga_session", "gateway_session", "is_gpt", "modality", "xai_rate", "xai_session"]

GA_TRANSCRIPTION: Final = "gpt-realtime-whisper"
BETA_TRANSCRIPTION: Final = "gpt-4o-mini-transcribe"
XAI_TRANSCRIPTION: Final = "grok-transcribe"
GATEWAY_TRANSCRIPTION: Final = "grok-2-audio"

_MIME: Final = {"g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_KEYTERMS, _KEYTERM_LENGTH = 100, 50
_XAI_RATES: Final = frozenset({8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000})  # source: xAI documents


def is_gpt(model: str) -> bool:
    """The gateway's rule for its OpenAI branch: the model starts with ``gpt-`` (source: gateway's reference, 0.9.0)."""
    return model.startswith("gpt-")


def xai_rate(rate: int) -> int:
    """Return a rate that xAI has: this one, else 24000."""
    return rate if rate in _XAI_RATES else 24000


# -- parts -------------------------------------------------------------------------------------------------------------------


def _format(encoding: str, rate: int) -> dict[str, Any]:
    """The format object; G.711 has no rate, it is always 8 kHz."""
    return {"type": "audio/pcm", "rate": rate} if encoding == "pcm16" else {"type": _MIME[encoding]}


def _turn_detection(value: Any) -> Any:
    """The turn detection object, ``None`` for manual turns, `UNSET` for the service's own."""
    if not isinstance(value, TurnDetection):
        return value
    fields = {field.name: getattr(value, field.name) for field in attrs.fields(TurnDetection)}
    return {name: given for name, given in fields.items() if given is not UNSET}


def _ga_turn_detection(value: Any) -> Any:
    """The same, with only the fields that GA knows for this type."""
    given = _turn_detection(value)
    if not isinstance(given, dict):
        return given
    foreign = {"eagerness"} if given["type"] == "server_vad" else _SERVER_VAD_ONLY
    return {name: field for name, field in given.items() if name not in foreign}


def _xai_turn_detection(value: Any) -> Any:
    """The same for xAI, which hears the end of a turn by silence alone: there is no semantic_vad (documentation)."""
    given = _turn_detection(value)
    if isinstance(given, dict):
        given = {name: field for name, field in given.items() if name != "eagerness"} | {"type": "server_vad"}
    return given


_SERVER_VAD_ONLY: Final = frozenset({"threshold", "prefix_padding_ms", "silence_duration_ms", "idle_timeout_ms"})


def _transcription(value: Any, usual: str) -> Any:
    """The transcription object of OpenAI and the gateway; ``None`` turns it off."""
    if value is None:
        return None
    given = value if isinstance(value, Transcription) else Transcription()
    fields = {"model": given.model or usual, "language": given.language, "prompt": given.prompt}
    return {name: field for name, field in fields.items() if field}


def _xai_transcription(value: Any) -> Any:
    """xAI's transcription object: a hint of the language, and key terms for the prompt (at most 100 of 50 characters)."""
    if value is None:
        return None
    given = value if isinstance(value, Transcription) else Transcription()
    terms = [term.strip()[:_KEYTERM_LENGTH] for term in given.prompt.replace("\n", ",").split(",") if term.strip()]
    fields = {
        "model": given.model or XAI_TRANSCRIPTION,
        "language_hint": given.language,
        "keyterms": terms[:_KEYTERMS],
    }
    return {name: field for name, field in fields.items() if field}


def modality(modalities: list[str]) -> list[str]:
    """GA answers in one: sound with its transcript, or text; both together is an error."""
    return ["audio"] if "audio" in modalities else ["text"]


# -- shapes ------------------------------------------------------------------------------------------------------------------


def ga_session(config: RealtimeConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the session object of OpenAI GA; a model is fixed by the address, the default voice is not one of OpenAI's."""
    modalities = UNSET if config.modalities is UNSET else modality(config.modalities)
    sent = {
        "format": _format(config.input_format, 24000),
        "transcription": _transcription(config.transcription, GA_TRANSCRIPTION),
        **without_unset(turn_detection=_ga_turn_detection(config.turn_detection)),
    }
    heard = {
        "format": _format(config.output_format, 24000),
        **without_unset(voice=UNSET if config.voice == DEFAULT_VOICE else config.voice, speed=config.speed),
    }
    session = {
        "type": "realtime",
        **without_unset(instructions=config.instructions, output_modalities=modalities),
        "audio": {"input": sent, "output": heard},
        "tools": tools_as_dicts(config.tools),
        **without_unset(tool_choice=config.tool_choice, max_output_tokens=config.max_output_tokens),
    }
    session = merged(session, config.session, changes)
    return _transcription_session(session) if session.get("type") == "transcription" else session


def _transcription_session(session: dict[str, Any]) -> dict[str, Any]:
    """What a session that only transcribes may hold (source: OpenAI schema)."""
    audio = session.get("audio")
    heard = {"input": audio["input"]} if isinstance(audio, Mapping) and "input" in audio else {}
    return {"type": "transcription", "audio": heard, **({"include": session["include"]} if "include" in session else {})}


def beta_session(config: RealtimeConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the beta's session object, for Azure Voice Live: flat, without the default voice."""
    session = _flat(config, UNSET if config.voice == DEFAULT_VOICE else config.voice)
    session |= _beta_fields(config)
    return merged(session, config.session, changes)


def xai_session(config: RealtimeConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return xAI's session object: voice and turn detection at the top, formats nested (flat ones are ignored in silence)."""
    audio = _xai_audio(config)
    audio["input"]["transcription"] = _xai_transcription(config.transcription)
    session = _flat(config, config.voice) | _xai_extras(config) | {"audio": audio}
    if config.resumption:
        session["resumption"] = {"enabled": True}
    return merged(session, config.session, changes)


def gateway_session(config: RealtimeConfig, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the gateway is sent: the reference's value for a reference config, more only for what that does not have."""
    session = _flat(config, config.voice)
    if is_gpt(config.model):
        session |= {"modalities": ["text", "audio"]} | _beta_fields(config)
    else:
        session |= _xai_extras(config)
        session |= {
            "input_audio_transcription": _transcription(config.transcription, GATEWAY_TRANSCRIPTION),
            "audio": _xai_audio(config),
        }
    return merged(session, config.session, changes)


def _flat(config: RealtimeConfig, voice: Any) -> dict[str, Any]:
    """What stands at the top of every shape but GA's."""
    session = without_unset(
        voice=voice, instructions=config.instructions, turn_detection=_turn_detection(config.turn_detection)
    )
    session["tools"] = tools_as_dicts(config.tools)
    if config.model:
        session["model"] = config.model
    return session


def _xai_audio(config: RealtimeConfig) -> dict[str, Any]:
    """The formats, nested, at a rate that xAI has, and the speed."""
    rate = xai_rate(config.sample_rate)
    heard = {"format": _format(config.output_format, rate), **without_unset(speed=config.speed)}
    return {"input": {"format": _format(config.input_format, rate)}, "output": heard}


def _xai_extras(config: RealtimeConfig) -> dict[str, Any]:
    """What xAI has in its own way, and fields of OpenAI's beta that it tolerates and echoes (recorded)."""
    return without_unset(turn_detection=_xai_turn_detection(config.turn_detection)) | _beta_extras(config)


def _beta_extras(config: RealtimeConfig) -> dict[str, Any]:
    return without_unset(
        modalities=config.modalities,
        tool_choice=config.tool_choice,
        temperature=config.temperature,
        max_response_output_tokens=config.max_output_tokens,
    )


def _beta_fields(config: RealtimeConfig) -> dict[str, Any]:
    return {
        "input_audio_format": config.input_format,
        "output_audio_format": config.output_format,
        "input_audio_transcription": _transcription(config.transcription, BETA_TRANSCRIPTION),
        **_beta_extras(config),
        **without_unset(speed=config.speed),
    }
