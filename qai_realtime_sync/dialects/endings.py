"""What the end of a connection means, by close code and by the words of its reason."""

from __future__ import annotations

from typing import Final

from qai_realtime_sync.seam import Ending

__all__ = ["AUTH", "BAD_REQUEST", "CAP", "GOING_AWAY", "LOST", "NORMAL", "POLICY", "QUOTA", "by_words", "meaning_of"]

NORMAL: Final = Ending(meaning="normal", retry=False)
AUTH: Final = Ending(meaning="auth", retry=False)
QUOTA: Final = Ending(meaning="quota", retry=False)
CAP: Final = Ending(meaning="session_cap", retry=False)
POLICY: Final = Ending(meaning="policy", retry=False)
BAD_REQUEST: Final = Ending(meaning="bad_request", retry=False)
GOING_AWAY: Final = Ending(meaning="going_away", retry=True)
LOST: Final = Ending(meaning="lost", retry=True)

# The codes of RFC 6455, section 7.4.1, and what the vendors' own clients retry (source: openai/openai-python).
_CODES: Final[dict[int | None, Ending]] = {
    None: LOST,
    1000: NORMAL,
    1001: GOING_AWAY,
    1002: BAD_REQUEST,
    1003: BAD_REQUEST,
    1005: LOST,
    1006: LOST,
    1007: BAD_REQUEST,
    1008: POLICY,
    1009: BAD_REQUEST,
    1010: BAD_REQUEST,
    1011: LOST,
    1012: GOING_AWAY,
    1013: LOST,
    1014: LOST,
    1015: LOST,
    3000: AUTH,  # OpenAI: invalid_api_key (source); also the code registered for "unauthorized"
    3003: AUTH,  # registered for "forbidden"
    4001: AUTH,
    4003: AUTH,
}

# The gateway and Gemini say why in the reason only, and with changing codes.
_WORDS: Final[tuple[tuple[str, Ending], ...]] = (
    ("insufficient balance", QUOTA),
    ("insufficient_balance", QUOTA),
    ("insufficient_funds", QUOTA),
    ("insufficient_quota", QUOTA),
    ("balance_zero", QUOTA),
    ("spend_cap", QUOTA),
    ("budget", QUOTA),
    ("quota", QUOTA),
    ("resource_exhausted", QUOTA),
    ("billing_hard_limit", QUOTA),
    ("session duration limit", CAP),
    ("session_expired", CAP),
    ("max_duration", CAP),
    ("maximum duration", CAP),
    ("maximum session", CAP),
    ("session limit", CAP),
    ("invalid_api_key", AUTH),
    ("api key", AUTH),
    ("api_key", AUTH),
    ("unauthenticated", AUTH),
    ("unauthorized", AUTH),
    ("authentication", AUTH),
    ("auth token", AUTH),
    ("token expired", AUTH),
    ("expired token", AUTH),
    ("ephemeral_expired", AUTH),
    ("permission", AUTH),
    ("forbidden", AUTH),
)


def by_words(reason: str) -> Ending | None:
    """Return the meaning that the words of a reason give, ``None`` if they say nothing known."""
    lowered = reason.lower()
    return next((ending for words, ending in _WORDS if words in lowered), None)


def meaning_of(code: int | None, reason: str) -> Ending:
    """Return the meaning of a close: its words first, then its code; an unknown code of an application means it refused us."""
    return by_words(reason) or _CODES.get(code) or (BAD_REQUEST if code is not None and code >= 3000 else LOST)
