"""Raw fields of the caller over a session object that the library made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qai_realtime_sync.config import UNSET, Tool

__all__ = ["merged", "tools_as_dicts", "without_unset"]


def merged(session: Mapping[str, Any], *layers: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return ``session`` with the layers over it, the last one winning; nothing given is changed.

    A mapping merges into a mapping key by key, everything else replaces, ``None`` too. Two mappings whose ``type`` differs are
    two different things: the new one replaces the old one whole, so no field of another kind is left behind.
    """
    result = dict(session)
    for layer in layers:
        for key, value in (layer or {}).items():
            old = result.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping) and _same_kind(old, value):
                result[key] = merged(old, value)
            else:
                result[key] = dict(value) if isinstance(value, Mapping) else value
    return result


def _same_kind(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "type" not in new or old.get("type", new["type"]) == new["type"]


def tools_as_dicts(tools: list[Any]) -> list[dict[str, Any]]:
    """Return tools as the OpenAI family spells them; dicts are the caller's and pass untouched."""
    return [tool.to_dict() if isinstance(tool, Tool) else tool for tool in tools]


def without_unset(**fields: Any) -> dict[str, Any]:
    """Return the fields that were said: all but `UNSET`."""
    return {name: value for name, value in fields.items() if value is not UNSET}
