"""How each service spells events, commands and configuration; `choose` finds the class by name, or by what is known of it."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from qai_realtime_sync.dialects.base import Dialect
from qai_realtime_sync.dialects.elevenlabs import ElevenLabs
from qai_realtime_sync.dialects.gemini import Gemini
from qai_realtime_sync.dialects.openai import OpenAI
from qai_realtime_sync.dialects.openai_session import is_gpt
from qai_realtime_sync.dialects.xai import XAI
from qai_realtime_sync.errors import ConfigError

__all__ = ["DIALECTS", "Dialect", "by_address", "choose", "names"]

DIALECTS: Final[dict[str, type[Dialect]]] = {
    "xai": XAI,
    "gateway": XAI,
    "openai": OpenAI,
    "elevenlabs": ElevenLabs,
    "gemini": Gemini,
}
"""Every dialect by its names; the gateway speaks xAI's."""

_PROVIDERS: Final[dict[str, type[Dialect]]] = DIALECTS | {
    "grok": XAI,
    "qai": XAI,
    "google": Gemini,
    "vertex": Gemini,
    "azure": OpenAI,
    "azure_openai": OpenAI,
    "azure_voice_live": OpenAI,
}

# What an address ends or begins with: (end of the host, part of the path) -> class; "" fits all.
_ADDRESSES: Final[tuple[tuple[str, str, type[Dialect]], ...]] = (
    ("", "/qai/v1/realtime/elevenlabs", ElevenLabs),
    ("", "/qai/v1/realtime", XAI),
    ("quantumencoding.ai", "", XAI),
    ("x.ai", "", XAI),
    ("openai.com", "", OpenAI),
    ("openai.azure.com", "", OpenAI),
    ("cognitiveservices.azure.com", "", OpenAI),
    ("services.ai.azure.com", "", OpenAI),
    ("elevenlabs.io", "", ElevenLabs),
    ("generativelanguage.googleapis.com", "", Gemini),
    ("aiplatform.googleapis.com", "", Gemini),
    ("", "/voice-live/", OpenAI),
    ("", "/v1/convai/", ElevenLabs),
    ("", "BidiGenerateContent", Gemini),
)


def names() -> tuple[str, ...]:
    """Return the names that `choose` takes, besides ``"auto"``."""
    return tuple(DIALECTS)


def choose(
    dialect: str | type[Dialect] = "auto", provider: str = "", url: str = "", model: str = "", *, gateway: bool = False
) -> type[Dialect]:
    """Return a dialect's class, given by class or name; ``"auto"`` looks at provider, then address, then model, else takes xAI.

    ``gateway``: through the gateway's proxy, which speaks xAI's dialect for OpenAI's models too. A model says something only
    by how it begins: ``gpt-`` is OpenAI's. Raises: `ConfigError` for a name that does not exist.
    """
    if isinstance(dialect, type) and issubclass(dialect, Dialect):
        return dialect
    if not isinstance(dialect, str) or dialect not in ("auto", *DIALECTS):
        raise ConfigError(f"there is no dialect {dialect!r}; use one of: auto, {', '.join(DIALECTS)}", code="unknown_dialect")
    if dialect != "auto":
        return DIALECTS[dialect]
    found = _PROVIDERS.get(provider.lower()) or by_address(url) or (OpenAI if is_gpt(model) else XAI)
    return XAI if gateway and found is OpenAI else found


def by_address(url: str) -> type[Dialect] | None:
    """Return the dialect of the service that is known to live at this address."""
    try:
        split = urlsplit(url)
        host, path = split.hostname or "", split.path
    except ValueError:
        return None
    for end, part, dialect in _ADDRESSES:
        if (not end or host == end or host.endswith(("." + end, "-" + end))) and part in path:
            return dialect
    return None
