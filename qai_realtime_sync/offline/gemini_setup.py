"""A Gemini ``setup`` as a client writes it, and what it means for the conversation; camelCase and snake_case are both read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.offline.items import Detection, RefusedError, Settings

__all__ = ["Setup", "bad", "field", "instructions_of", "mapping", "read_setup", "tools_of"]

OUTPUT: Final = AudioFormat("pcm16", 24000)
INPUT: Final = AudioFormat("pcm16", 16000)
_MODEL = re.compile(r"(models|publishers/google/models|projects/.+/models)/gemini-[\w.-]+")
_FIELDS: Final = frozenset(
    "model generationConfig systemInstruction tools realtimeInputConfig sessionResumption contextWindowCompression "
    "inputAudioTranscription outputAudioTranscription proactivity historyConfig explicitVadSignal safetySettings labels "
    "avatarConfig".split()
)
_START: Final = {"START_SENSITIVITY_HIGH": 0.35, "START_SENSITIVITY_LOW": 0.7}
_END: Final = {"END_SENSITIVITY_HIGH": 300, "END_SENSITIVITY_LOW": 800}


@attrs.define
class Setup:
    """What one connection is set to."""

    settings: Settings
    transcribes_input: bool = False
    transcribes_output: bool = False
    manual: bool = False
    interrupts: bool = True
    signals: bool = False
    resumption: bool = False
    handle: str = ""
    free_tools: frozenset[str] = frozenset()


def bad(message: str, code: str = "1007") -> RefusedError:
    """Return the refusal of a wrong argument: there are no error messages, only close frames with a code and a text."""
    return RefusedError(code, message)


def field(given: Mapping[str, Any], name: str) -> Any:
    """Return a field by its name in camelCase, or as the vendor's Python client writes it."""
    return given[name] if name in given else given.get(snake(name))


def snake(name: str) -> str:
    """Return a name in snake_case."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda letter: "_" + letter.group(1).lower(), name)


def mapping(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return an object, empty if it is not there. Raises: RefusedError."""
    value = field(given, name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise bad(f"Invalid value at '{name}': expected an object.")
    return value


def read_setup(given: Mapping[str, Any]) -> Setup:
    """Read a setup. Raises: RefusedError."""
    for name in given:
        if name not in _FIELDS and name not in {snake(known) for known in _FIELDS}:
            raise bad(f"Invalid JSON payload received. Unknown name \"{name}\" at 'setup': Cannot find field.")
    model = given.get("model")
    if not isinstance(model, str) or not _MODEL.fullmatch(model):
        raise bad(f"{model} is not found for API version v1beta, or is not supported for bidiGenerateContent.", "1008")
    generation = mapping(given, "generationConfig")
    modalities = field(generation, "responseModalities")
    if modalities not in (None, ["AUDIO"], ["TEXT"]):
        raise bad("Request contains an invalid argument: responseModalities must be [\"AUDIO\"] or [\"TEXT\"].")
    activity = mapping(given, "realtimeInputConfig")
    automatic = mapping(activity, "automaticActivityDetection")
    resumption = field(given, "sessionResumption")
    tools, free = tools_of(field(given, "tools"))
    tokens = field(generation, "maxOutputTokens")
    setup = Setup(
        settings=Settings(
            instructions=instructions_of(field(given, "systemInstruction")),
            input_format=INPUT,
            output_format=OUTPUT,
            spoken=modalities != ["TEXT"],
            tools=tools,
            max_output_tokens=tokens if type(tokens) is int and tokens > 0 else None,
        ),
        transcribes_input=isinstance(field(given, "inputAudioTranscription"), Mapping),
        transcribes_output=isinstance(field(given, "outputAudioTranscription"), Mapping),
        manual=field(automatic, "disabled") is True,
        interrupts=field(activity, "activityHandling") != "NO_INTERRUPTION",
        signals=field(given, "explicitVadSignal") is True,
        resumption=isinstance(resumption, Mapping),
        handle=str(resumption.get("handle") or "") if isinstance(resumption, Mapping) else "",
        free_tools=free,
    )
    if not setup.manual:
        setup.settings.detection = _detection(automatic, setup.interrupts)
    return setup


def _detection(given: Mapping[str, Any], interrupts: bool) -> Detection:
    end = _END.get(str(field(given, "endOfSpeechSensitivity")), 500)
    return Detection(
        threshold=_START.get(str(field(given, "startOfSpeechSensitivity")), 0.5),
        prefix_padding_ms=_milliseconds(given, "prefixPaddingMs", 300),
        silence_duration_ms=_milliseconds(given, "silenceDurationMs", end),
        interrupt_response=interrupts,
    )


def _milliseconds(given: Mapping[str, Any], name: str, usual: int) -> int:
    value = field(given, name)
    if value is None:
        return usual
    if type(value) is not int or not 0 <= value <= 60_000:
        raise bad(f"Request contains an invalid argument: {name} must be a whole number of milliseconds.")
    return value


def instructions_of(given: object) -> str:
    """Return the text of a system instruction. Raises: RefusedError."""
    if given is None:
        return ""
    parts = given.get("parts") if isinstance(given, Mapping) else None
    if not isinstance(parts, list):
        raise bad("Request contains an invalid argument: systemInstruction needs parts.")
    return "\n".join(str(part.get("text") or "") for part in parts if isinstance(part, Mapping))


# -- tools -------------------------------------------------------------------------------------------------------------------


def tools_of(given: object) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Return the declared functions in the engine's words, and the names of those the model does not wait for. Raises: RefusedError."""
    if given is not None and not isinstance(given, list):
        raise bad("Invalid value at 'setup.tools': expected a list.")
    tools: list[dict[str, Any]] = []
    free = set()
    for entry in given or []:
        declarations = field(entry, "functionDeclarations") if isinstance(entry, Mapping) else None
        if declarations is not None and not isinstance(declarations, list):
            raise bad("Invalid value at 'setup.tools.function_declarations': expected a list.")
        for declaration in declarations or []:
            name = declaration.get("name") if isinstance(declaration, Mapping) else None
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.:-]{0,127}", name):
                raise bad("Request contains an invalid argument: Invalid function name.")
            parameters = declaration.get("parameters")
            if isinstance(parameters, Mapping) and not parameters.get("properties"):
                raise bad(f"parameters.properties of {name}: should be non-empty for OBJECT type")
            tools.append(
                {
                    "type": "function",
                    "name": name,
                    "description": declaration.get("description") or "",
                    "parameters": _schema(parameters) if isinstance(parameters, Mapping) else {"type": "object", "properties": {}},
                }
            )
            if declaration.get("behavior") == "NON_BLOCKING":
                free.add(name)
    return tools, frozenset(free)


def _schema(given: Any) -> Any:
    """A schema with the types that JSON Schema names."""
    if isinstance(given, list):
        return [_schema(part) for part in given]
    if not isinstance(given, Mapping):
        return given
    return {
        key: part.lower() if key == "type" and isinstance(part, str)
        else {name: _schema(inner) for name, inner in part.items()} if key == "properties" and isinstance(part, Mapping)
        else _schema(part)
        for key, part in given.items()
    }  # fmt: skip
