"""A session of the OpenAI family as a client writes it, in any of its shapes, and what it means for the conversation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.offline.items import Detection, RefusedError, Settings
from qai_realtime_sync.offline.parameters import FUNCTION_TOOL, check_session, refuse_unknown

__all__ = ["FAMILY_RATES", "WireSession", "audio_format", "written_format"]

FAMILY_RATES = (8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000)  # xAI; OpenAI has 24000 only
_FLAT_FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_EAGERNESS = {"low": 1500, "medium": 700, "auto": 700, "high": 300}  # ms of silence, instead of a model that knows sentences
_KNOWN = frozenset(
    "type id object model instructions voice modalities output_modalities tools tool_choice max_output_tokens "
    "max_response_output_tokens temperature speed "
    "audio input_audio_format output_audio_format input_audio_transcription input_audio_noise_reduction turn_detection "
    "tracing truncation prompt include "
    "reasoning parallel_tool_calls expires_at client_secret resumption replace input_audio_sampling_rate".split()
)


@attrs.define
class WireSession:
    """The values of a session in one shape; ``extra`` is what this server echoes without using it.

    ``strict`` refuses unknown fields and honours the flat audio formats, as OpenAI does; without it they are ignored, as at xAI.
    ``ga`` refuses the names of OpenAI's beta too, and what is unknown inside ``audio``. Without ``answers`` it only transcribes.
    """

    strict: bool
    ga: bool = False
    rates: tuple[int, ...] = FAMILY_RATES
    model: str = ""
    instructions: str = ""
    voice: Any = "ara"
    modalities: list[str] = attrs.field(factory=lambda: ["audio"])
    tools: list[dict[str, Any]] = attrs.field(factory=list)
    tool_choice: Any = "auto"
    max_output_tokens: Any = "inf"
    speed: float = 1.0
    input_format: dict[str, Any] = attrs.field(factory=lambda: {"type": "audio/pcm", "rate": 24000})
    output_format: dict[str, Any] = attrs.field(factory=lambda: {"type": "audio/pcm", "rate": 24000})
    transcription: dict[str, Any] | None = None
    noise_reduction: dict[str, Any] | None = None
    turn_detection: dict[str, Any] | None = None
    binary_input: bool = False
    binary_output: bool = False
    resumption: bool = False
    answers: bool = True
    extra: dict[str, Any] = attrs.field(factory=dict)

    def updated(self, update: object) -> WireSession:
        """Return this session with a client's ``session`` object put over it. Raises: RefusedError; then nothing has changed."""
        if not isinstance(update, Mapping):
            raise RefusedError("invalid_type", "'session' must be an object.", param="session")
        if self.ga:
            check_session(update)
        elif self.strict:
            for name in update:
                if name not in _KNOWN:
                    raise RefusedError("unknown_parameter", f"Unknown parameter: 'session.{name}'.", param=f"session.{name}")
        new = attrs.evolve(self, extra=dict(self.extra))
        for name, value in update.items():
            reader = _READERS.get(name)
            if reader is not None:
                reader(new, value, f"session.{name}")
            elif name not in ("type", "id", "object", "expires_at", "client_secret"):
                new.extra[name] = value
        return new

    def settings(self, default_threshold: float) -> Settings:
        """Return what the conversation must know. Raises: RefusedError."""
        return Settings(
            instructions=self.instructions,
            detection=_detection(self.turn_detection, default_threshold, self.strict, self.answers),
            input_format=audio_format(self.input_format, self.rates, "session.audio.input.format"),
            output_format=audio_format(self.output_format, self.rates, "session.audio.output.format"),
            spoken="audio" in self.modalities,
            tools=self.tools,
            tool_choice=self.tool_choice,
            speed=self.speed,
            max_output_tokens=tokens_of(self.max_output_tokens, "session.max_output_tokens"),
        )


def audio_format(value: object, rates: tuple[int, ...], param: str) -> AudioFormat:
    """Return the format that ``{"type": "audio/pcm", "rate": 24000}`` and its kin name. Raises: RefusedError."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind == "audio/pcm" and isinstance(value, Mapping):
        rate = value.get("rate", 24000)
        if isinstance(rate, bool) or rate not in rates:
            raise RefusedError(
                "invalid_value",
                f"Invalid value: {rate!r}. Supported rates are: {', '.join(map(str, rates))}.",
                param=f"{param}.rate",
            )
        return AudioFormat("pcm16", int(rate))
    if kind in ("audio/pcmu", "audio/pcma"):
        return AudioFormat("g711_ulaw" if kind == "audio/pcmu" else "g711_alaw", 8000)
    raise RefusedError(
        "invalid_value",
        f"Invalid value: {kind!r}. Supported values are: 'audio/pcm', 'audio/pcmu', and 'audio/pcma'.",
        param=f"{param}.type",
    )


def written_format(value: object, rates: tuple[int, ...], param: str) -> dict[str, Any]:
    """Return a format as it is echoed, from the object of today or the word of the beta. Raises: RefusedError."""
    named = _FLAT_FORMATS.get(value, {"type": value}) if isinstance(value, str) else value
    audio_format(named, rates, param)
    assert isinstance(named, Mapping)
    return {"rate": 24000, **named} if named["type"] == "audio/pcm" else dict(named)


def tokens_of(value: object, param: str) -> int | None:
    """Return a limit of tokens, ``None`` for ``"inf"`` or null. Raises: RefusedError."""
    if value is None or value == "inf":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:
        raise RefusedError("invalid_value", f"Invalid value: {value!r}. Expected an integer from 1 to 4096, or 'inf'.", param=param)
    return value


def _detection(value: dict[str, Any] | None, default_threshold: float, semantic: bool, answers: bool) -> Detection | None:
    kind = value.get("type") if value else None
    if value is None or kind is None:
        return None
    if kind not in ("server_vad", "semantic_vad") or (kind == "semantic_vad" and not semantic):
        raise RefusedError(
            "invalid_value", f"Invalid value: {kind!r}. Supported values are: 'server_vad'.", param="session.turn_detection.type"
        )
    silence = _EAGERNESS.get(str(value.get("eagerness", "auto")), 700) if kind == "semantic_vad" else 500
    idle = value.get("idle_timeout_ms")
    return Detection(
        threshold=_number(value, "threshold", default_threshold, 0.0, 1.0),
        prefix_padding_ms=round(_number(value, "prefix_padding_ms", 300, 0, 10000)),
        silence_duration_ms=round(_number(value, "silence_duration_ms", silence, 0, 10000)),
        idle_timeout_ms=None if idle is None or not answers else round(_number(value, "idle_timeout_ms", 0, 1, 600000)),
        create_response=answers and value.get("create_response") is not False,
        interrupt_response=value.get("interrupt_response") is not False,
    )


def _number(values: Mapping[str, Any], name: str, default: float, least: float, most: float) -> float:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise RefusedError(
            "invalid_value",
            f"Invalid value: {value!r}. Expected a number from {least:g} to {most:g}.",
            param=f"session.turn_detection.{name}",
        )
    return float(value)


# -- readers: one for each field a client may write ---------------------------------------------------------------------------


def _wrong(param: str, expected: str) -> RefusedError:
    return RefusedError("invalid_type", f"Invalid type for '{param}': expected {expected}.", param=param)


def _instructions(new: WireSession, value: object, param: str) -> None:
    if value is not None and not isinstance(value, str):
        raise _wrong(param, "a string")
    new.instructions = value or ""


def _voice(new: WireSession, value: object, param: str) -> None:
    if value is not None:
        new.voice = value


def _type(new: WireSession, value: object, param: str) -> None:
    if new.ga:  # elsewhere there is no such field
        new.answers = value != "transcription"


def _model(new: WireSession, value: object, param: str) -> None:
    if isinstance(value, str) and value and not (new.strict and new.model):  # at OpenAI the URL has decided
        new.model = value


def modalities_of(value: object, param: str) -> list[str]:
    """Return a list of ``text`` and ``audio``. Raises: RefusedError."""
    if not isinstance(value, list) or not value or not set(map(str, value)) <= {"text", "audio"}:
        raise RefusedError(
            "invalid_value", f"Invalid modalities: {value!r}. Supported combinations are: ['text'] and ['audio'].", param=param
        )
    return [str(one) for one in value]


def one_modality(value: object, param: str) -> None:
    """Raise RefusedError for sound and text at once, which OpenAI does not make any more."""
    if isinstance(value, list) and len(value) > 1:
        raise RefusedError(
            "invalid_value", f"Invalid modalities: {value!r}. Supported combinations are: ['text'] and ['audio'].", param=param
        )


def _modalities(new: WireSession, value: object, param: str) -> None:
    if value is not None:
        new.modalities = modalities_of(value, param)


def _output_modalities(new: WireSession, value: object, param: str) -> None:
    if new.strict:
        one_modality(value, param)
    _modalities(new, value, param)


def tools_of(value: object, param: str, *, ga: bool = False) -> list[dict[str, Any]]:
    """Return declared tools in the flat shape; the nested one that xAI echoes is read too, but not with ``ga``. Raises: RefusedError."""
    if not isinstance(value, list):
        raise _wrong(param, "an array")
    tools = []
    for at, tool in enumerate(value):
        if not isinstance(tool, dict):
            raise _wrong(f"{param}[{at}]", "an object")
        nested = tool.get("function")
        flat = {"type": "function", **nested} if isinstance(nested, dict) and not ga else tool
        if ga and flat.get("type") == "function":
            refuse_unknown(flat, FUNCTION_TOOL, f"{param}[{at}]")
        if flat.get("type", "function") == "function" and not (isinstance(flat.get("name"), str) and flat["name"]):
            raise RefusedError(
                "missing_required_parameter", f"Missing required parameter: '{param}[{at}].name'.", param=f"{param}[{at}].name"
            )
        tools.append(flat)
    return tools


def _tools(new: WireSession, value: object, param: str) -> None:
    new.tools = [] if value is None else tools_of(value, param, ga=new.ga)


def _tool_choice(new: WireSession, value: object, param: str) -> None:
    if value is not None and value not in ("auto", "none", "required") and not isinstance(value, dict):
        raise RefusedError("invalid_value", f"Invalid value: {value!r}. Supported values are: 'none', 'auto', and 'required'.", param=param)
    new.tool_choice = value or "auto"


def _max_output_tokens(new: WireSession, value: object, param: str) -> None:
    new.max_output_tokens = "inf" if value is None else value


def _speed(new: WireSession, value: object, param: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.25 <= value <= 1.5:
        raise RefusedError("invalid_value", f"Invalid value: {value!r}. Expected a number from 0.25 to 1.5.", param=param)
    new.speed = float(value)


def _turn_detection(new: WireSession, value: object, param: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise _wrong(param, "an object or null")
    new.turn_detection = value


def _transcription(new: WireSession, value: object, param: str) -> None:
    if value is not None and not isinstance(value, dict):
        raise _wrong(param, "an object or null")
    new.transcription = value


def _noise_reduction(new: WireSession, value: object, param: str) -> None:
    new.noise_reduction = value if isinstance(value, dict) else None


def _flat_format(new: WireSession, value: object, param: str) -> None:
    # xAI ignores the flat formats in silence and stays at 24 kHz; so does this server there.
    if not new.strict or value is None:
        return
    if not isinstance(value, str) or value not in _FLAT_FORMATS:
        raise RefusedError("invalid_value", f"Invalid value: {value!r}. Supported values are: {', '.join(_FLAT_FORMATS)}.", param=param)
    if param.endswith("input_audio_format"):
        new.input_format = dict(_FLAT_FORMATS[value])
    else:
        new.output_format = dict(_FLAT_FORMATS[value])


def _audio(new: WireSession, value: object, param: str) -> None:
    if value is None:
        return
    if not isinstance(value, dict):
        raise _wrong(param, "an object")
    for side in ("input", "output"):
        part = value.get(side)
        if part is None:
            continue
        if not isinstance(part, dict):
            raise _wrong(f"{param}.{side}", "an object")
        if new.ga and isinstance(part.get("format"), str):
            raise _wrong(f"{param}.{side}.format", "an object")
        if isinstance(part.get("format"), (dict, str)):
            filled = written_format(part["format"], new.rates, f"{param}.{side}.format")
            new.input_format, new.output_format = (filled, new.output_format) if side == "input" else (new.input_format, filled)
        if isinstance(part.get("transport"), str):
            binary = part["transport"] == "binary"
            new.binary_input, new.binary_output = (binary, new.binary_output) if side == "input" else (new.binary_input, binary)
        for name, one in part.items():
            reader = _AUDIO_READERS.get((side, name))
            if reader is not None:
                reader(new, one, f"{param}.{side}.{name}")


def _resumption(new: WireSession, value: object, param: str) -> None:
    new.resumption = isinstance(value, dict) and value.get("enabled") is True
    new.extra["resumption"] = value


_AUDIO_READERS = {
    ("input", "transcription"): _transcription,
    ("input", "noise_reduction"): _noise_reduction,
    ("input", "turn_detection"): _turn_detection,
    ("output", "voice"): _voice,
    ("output", "speed"): _speed,
}
_READERS = {
    "type": _type,
    "instructions": _instructions,
    "voice": _voice,
    "model": _model,
    "modalities": _modalities,
    "output_modalities": _output_modalities,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "max_output_tokens": _max_output_tokens,
    "max_response_output_tokens": _max_output_tokens,
    "speed": _speed,
    "turn_detection": _turn_detection,
    "input_audio_transcription": _transcription,
    "input_audio_noise_reduction": _noise_reduction,
    "input_audio_format": _flat_format,
    "output_audio_format": _flat_format,
    "audio": _audio,
    "resumption": _resumption,
}
