"""The parameters that OpenAI knows today (GA), as trees of names: one that is not among them refuses the whole event.

Source: OpenAI schema; the beta's names are gone since 2026-05-12, and only the gateway's path still takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from qai_realtime_sync.offline.items import RefusedError

__all__ = ["FUNCTION_TOOL", "RESPONSE", "RESPONSE_WITH_BETA", "check_session", "refuse_unknown"]

Tree: TypeAlias = Mapping[str, "Tree | None"]  # None: what is below is not looked at


def _names(text: str, **below: Tree) -> Tree:
    return {**dict.fromkeys(text.split()), **below}


_FORMAT: Final = _names("type rate")
_VAD: Final = _names(
    "type threshold prefix_padding_ms silence_duration_ms idle_timeout_ms eagerness create_response interrupt_response"
)
_INPUT: Final = _names(
    "",
    format=_FORMAT,
    noise_reduction=_names("type strength"),
    transcription=_names("model language languages prompt keywords delay"),
    turn_detection=_VAD,
)
_READ_ONLY: Final = "id object expires_at"  # taken and not looked at: a client may send back what it was shown
_SESSION: Final = _names(
    f"type model instructions output_modalities max_output_tokens tools tool_choice parallel_tool_calls reasoning tracing truncation "
    f"prompt include {_READ_ONLY}",
    audio=_names("", input=_INPUT, output=_names("voice speed", format=_FORMAT)),
)
_TRANSCRIPTION_SESSION: Final = _names(f"type include {_READ_ONLY}", audio=_names("", input=_INPUT))
RESPONSE: Final = _names(
    "instructions output_modalities tools tool_choice parallel_tool_calls max_output_tokens metadata prompt reasoning conversation input",
    audio=_names("", output=_names("voice", format=_FORMAT)),
)
RESPONSE_WITH_BETA: Final[Tree] = {**RESPONSE, **_names("modalities voice output_audio_format max_response_output_tokens temperature")}
FUNCTION_TOOL: Final = _names("type name description parameters")


def refuse_unknown(given: Mapping[str, Any], known: Tree, param: str) -> None:
    """Raise RefusedError for the first name that is not in the tree, as OpenAI words it."""
    for name, value in given.items():
        if name not in known:
            raise RefusedError("unknown_parameter", f"Unknown parameter: '{param}.{name}'.", param=f"{param}.{name}")
        below = known[name]
        if below is not None and isinstance(value, Mapping):
            refuse_unknown(value, below, f"{param}.{name}")


def check_session(update: Mapping[str, Any]) -> None:
    """Raise RefusedError for a session that GA refuses: an unknown name, a missing or wrong type."""
    kind = update.get("type")
    refuse_unknown(update, _TRANSCRIPTION_SESSION if kind == "transcription" else _SESSION, "session")
    if "type" not in update:
        raise RefusedError("missing_required_parameter", "Missing required parameter: 'session.type'.", param="session.type")
    if kind not in ("realtime", "transcription"):
        raise RefusedError(
            "invalid_value", f"Invalid value: {kind!r}. Supported values are: 'realtime' and 'transcription'.", param="session.type"
        )
