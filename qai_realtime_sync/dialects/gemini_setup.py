"""A configuration as Gemini's ``setup`` (source: the vendor's SDK types, recorded sessions)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from qai_realtime_sync.config import DEFAULT_VOICE, UNSET, RealtimeConfig, Tool, Transcription, TurnDetection
from qai_realtime_sync.dialects.merge import merged, without_unset

__all__ = ["DEFAULT_MODEL", "free_tools", "instruction", "setup", "tools"]

DEFAULT_MODEL: Final = "gemini-3.8-live"
_SENSITIVITY: Final = {"high": "END_SENSITIVITY_HIGH", "low": "END_SENSITIVITY_LOW"}


def setup(config: RealtimeConfig, changes: Mapping[str, Any] | None, *, vertex: bool, handle: str) -> dict[str, Any]:
    """Return the first message's content: transcripts are asked for, because they do not come by themselves."""
    value: dict[str, Any] = {"model": _model(config.model, vertex), "generationConfig": _generation(config)}
    if config.instructions:
        value["systemInstruction"] = instruction(config)
    if config.tools:
        value["tools"] = tools(config)
    activity = _realtime_input(config.turn_detection)
    if activity:
        value["realtimeInputConfig"] = activity
    if config.transcription is not None:
        given = config.transcription
        language = given.language if isinstance(given, Transcription) else ""
        value["inputAudioTranscription"] = {"languageCodes": [language]} if language else {}
    if value["generationConfig"]["responseModalities"] == ["AUDIO"]:
        value["outputAudioTranscription"] = {}
    if handle or config.resumption:
        value["sessionResumption"] = {"handle": handle} if handle else {}
    return merged(value, config.session, changes)


def _model(model: str, vertex: bool) -> str:
    name = model or DEFAULT_MODEL
    return name if "/" in name else f"{'publishers/google/models' if vertex else 'models'}/{name}"


def _generation(config: RealtimeConfig) -> dict[str, Any]:
    audio = config.modalities is UNSET or "audio" in config.modalities
    value: dict[str, Any] = {"responseModalities": ["AUDIO"] if audio else ["TEXT"]}
    if config.voice not in (UNSET, DEFAULT_VOICE):
        value["speechConfig"] = {"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": config.voice}}}
    value |= without_unset(temperature=config.temperature)
    if isinstance(config.max_output_tokens, int):
        value["maxOutputTokens"] = config.max_output_tokens
    return value


def _realtime_input(detection: Any) -> dict[str, Any]:
    """Turn detection; what the service does not know (threshold, create_response, idle time) is left out."""
    if detection is None:
        return {"automaticActivityDetection": {"disabled": True}}
    if not isinstance(detection, TurnDetection):
        return {}
    automatic = without_unset(prefixPaddingMs=detection.prefix_padding_ms, silenceDurationMs=detection.silence_duration_ms)
    if detection.eagerness in _SENSITIVITY:
        automatic["endOfSpeechSensitivity"] = _SENSITIVITY[str(detection.eagerness)]
    value: dict[str, Any] = {"automaticActivityDetection": automatic} if automatic else {}
    if detection.interrupt_response is False:
        value["activityHandling"] = "NO_INTERRUPTION"
    return value


def instruction(config: RealtimeConfig) -> dict[str, Any]:
    """Return the system instruction."""
    return {"parts": [{"text": config.instructions or ""}]}


# -- tools -------------------------------------------------------------------------------------------------------------------


def tools(config: RealtimeConfig) -> list[dict[str, Any]]:
    """Return the tools: function tools become declarations of one entry, dicts in Gemini's own shape pass untouched."""
    declarations: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for tool in config.tools:
        given = tool.to_dict() if isinstance(tool, Tool) else tool
        if given.get("type") == "function":
            declarations.append(_declaration(given))
        else:
            others.append(given)
    return ([{"functionDeclarations": declarations}] if declarations else []) + others


def _declaration(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function; an object without properties is refused by the service, so such parameters are left out."""
    function = tool.get("function", tool)
    given = function if isinstance(function, Mapping) else tool
    value = {key: given[key] for key in ("name", "description", "behavior") if given.get(key)}
    parameters = given.get("parameters")
    if isinstance(parameters, Mapping) and parameters.get("properties"):
        value["parameters"] = _schema(parameters)
    return value


def _schema(schema: Any) -> Any:
    """JSON Schema as Gemini wants it: types in upper case, ``null`` as ``nullable``, no ``additionalProperties`` (recorded)."""
    if isinstance(schema, list):
        return [_schema(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    value: dict[str, Any] = {}
    for key, part in schema.items():
        if key in ("additionalProperties", "$schema"):
            continue
        if key == "type":
            value |= _type(part)
        elif key == "properties" and isinstance(part, Mapping):
            value[key] = {name: _schema(inner) for name, inner in part.items()}
        elif key in ("items", "anyOf"):
            value[key] = _schema(part)
        else:
            value[key] = part
    return value


def _type(given: Any) -> dict[str, Any]:
    kinds = [kind.upper() for kind in (given if isinstance(given, list) else [given]) if isinstance(kind, str)]
    named = [kind for kind in kinds if kind != "NULL"]
    nullable = {"nullable": True} if len(named) < len(kinds) else {}
    return {"type": named[0], **nullable} if named else nullable


def free_tools(value: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of tools in a setup, or in an update of its context, that the model does not wait for."""
    found = set()
    given = value.get("tools") or ()
    for tool in (given,) if isinstance(given, Mapping) else given:
        for declaration in (tool.get("functionDeclarations") or ()) if isinstance(tool, Mapping) else ():
            if isinstance(declaration, Mapping) and declaration.get("behavior") == "NON_BLOCKING":
                found.add(str(declaration.get("name")))
    return frozenset(found)
