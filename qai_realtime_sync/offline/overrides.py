"""What a client of an ElevenLabs agent may say about one conversation: its overrides and dynamic variables, checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import attrs

from qai_realtime_sync.offline.items import RefusedError

__all__ = ["EVENTS", "Wanted", "wanted"]

# On unless a client names others (source: the vendor's message schema).
DEFAULT_EVENTS = frozenset(
    "audio interruption agent_response user_transcript tentative_user_transcript conversation_initiation_metadata ping".split()
)
EVENTS = DEFAULT_EVENTS | frozenset(
    "agent_response_correction agent_response_complete agent_response_metadata agent_chat_response_part agent_reasoning_response_part "
    "client_tool_call agent_tool_request agent_tool_response agent_tool_response_full_payload mcp_tool_call mcp_connection_status "
    "vad_score context_usage asr_initiation_metadata guardrail_triggered queue_status rich_content agent_typing "
    "internal_turn_probability internal_tentative_agent_response client_error".split()
)
# Cannot be switched off: without them there is no conversation.
_ALWAYS = frozenset({"conversation_initiation_metadata", "ping", "client_tool_call", "error"})
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


@attrs.frozen
class Wanted:
    """One conversation as its client wants it; what it does not say is the agent's."""

    prompt: str = ""
    first_message: str = ""
    text_only: bool = False
    speed: float = 1.0
    events: frozenset[str] = DEFAULT_EVENTS | _ALWAYS | {"agent_response_correction"}


def wanted(message: Mapping[str, Any], prompt: str, locked: bool = False) -> Wanted:
    """Read a ``conversation_initiation_client_data`` for an agent with this prompt; a ``locked`` one allows no override.

    Raises: RefusedError with the ``error_type``.
    """
    override = _part(message, "conversation_config_override", "")
    if locked:
        for name, part in override.items():
            _only(part if isinstance(part, Mapping) else {}, (), name)
    _only(override, ("agent", "asr", "tts", "conversation", "turn"), "conversation_config_override")
    agent = _part(override, "agent", "agent")
    _only(agent, ("first_message", "language", "prompt", "native_mcp_server_ids"), "agent")
    asked = _part(agent, "prompt", "agent.prompt")
    _only(asked, ("prompt", "llm", "tool_ids", "native_mcp_server_ids", "knowledge_base"), "agent.prompt")
    _only(_part(override, "asr", "asr"), ("keywords",), "asr")
    tts = _part(override, "tts", "tts")
    _only(tts, ("voice_id", "model_id", "stability", "speed", "similarity_boost"), "tts")
    for name in ("stability", "similarity_boost"):
        _number(tts, name, 0.0, 0.0, 1.0)
    conversation = _part(override, "conversation", "conversation")
    _only(conversation, ("text_only", "client_events"), "conversation")
    text_only = conversation.get("text_only") or False
    if not isinstance(text_only, bool):
        raise _refused("conversation.text_only must be true or false")
    variables = _part(message, "dynamic_variables", "dynamic_variables")
    return Wanted(
        prompt=_filled(_text(asked, "prompt", "agent.prompt.prompt") or prompt, variables),
        first_message=_filled(_text(agent, "first_message", "agent.first_message"), variables),
        text_only=text_only,
        speed=_number(tts, "speed", 1.0, 0.7, 5.0),
        events=_events(conversation.get("client_events")),
    )


def _events(given: object) -> frozenset[str]:
    if given is None:
        return Wanted().events
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise _refused("conversation.client_events must be a list of names")
    unknown = sorted(set(given) - EVENTS)
    if unknown:
        raise _refused(f"conversation.client_events: unknown event {unknown[0]!r}")
    return frozenset(given) | _ALWAYS


def _part(given: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = given.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _refused(f"{where or name} must be an object")
    return value


def _only(given: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in given:
        if name not in names:
            raise _refused(f"Override for field '{where}.{name}' is not allowed by config.")


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise _refused(f"{where} must be text")
    return value or ""


def _number(given: Mapping[str, Any], name: str, usual: float, least: float, most: float) -> float:
    value = given.get(name)
    if value is None:
        return usual
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise _refused(f"tts.{name} must be a number from {least:g} to {most:g}")
    return float(value)


def _filled(text: str, variables: Mapping[str, Any]) -> str:
    """Put the variables where ``{{name}}`` stands. Raises: RefusedError for one that was not given."""

    def value(place: re.Match[str]) -> str:
        name = place.group(1)
        if name not in variables:
            raise RefusedError("missing_dynamic_variable", f"Missing required dynamic variables in first message or prompt: {{'{name}'}}")
        return str(variables[name])

    return _VARIABLE.sub(value, text)


def _refused(message: str) -> RefusedError:
    return RefusedError("override_error", message)
