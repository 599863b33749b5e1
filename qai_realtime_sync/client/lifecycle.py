"""The states of one conversation and when to try again; pure, without clock, thread or I/O."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import attrs

from qai_realtime_sync.client.waiting import is_seconds
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectError, ConnectionClosedError, RealtimeTimeoutError
from qai_realtime_sync.events import StateChanged
from qai_realtime_sync.fields import FrozenByFields

__all__ = ["Backoff", "Lifecycle", "ReconnectPolicy", "policy_of", "worth_retrying"]

_NEXT: Final[dict[str, frozenset[str]]] = {
    "idle": frozenset({"connecting", "closed"}),
    "connecting": frozenset({"handshaking", "backoff", "closing", "closed", "failed"}),
    "handshaking": frozenset({"open", "backoff", "closing", "closed", "failed"}),
    "open": frozenset({"backoff", "closing", "closed", "failed"}),
    "backoff": frozenset({"connecting", "closing", "closed", "failed"}),
    "closing": frozenset({"closed", "failed"}),
    "closed": frozenset(),
    "failed": frozenset(),
}

_RETRY_STATUS: Final = frozenset({408, 425, 429})
_FINAL_CODES: Final = frozenset({"tls_verification", "cancelled", "invalid_base_url", "invalid_header"})


class Lifecycle:
    """Which state the conversation is in; `to` makes a numbered transition, or nothing if the table has no such arrow."""

    def __init__(self) -> None:
        self.state = "idle"
        self._number = 0

    @property
    def is_over(self) -> bool:
        """True in the two last states."""
        return not _NEXT[self.state]

    def to(self, new: str) -> StateChanged | None:
        """Go to ``new`` and return the event that tells it; ``None`` if that is not possible from here (it is over, or closing)."""
        if new not in _NEXT[self.state]:
            return None
        old, self.state = self.state, new
        self._number += 1
        return StateChanged(old=old, new=new, number=self._number)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class ReconnectPolicy(FrozenByFields):
    """How hard to try after a loss.

    The first try comes at once, the later ones after a random time up to ``base`` × 2ⁿ seconds, at most ``cap``. It gives up after
    ``attempts`` tries or ``seconds`` since the loss; both counts start anew after ``healthy`` seconds of an open connection. A
    ``Retry-After`` of the service is honoured up to ``longest_retry_after`` seconds. ``math.inf`` is no limit, for all but ``base``.

    Raises: `ConfigError` for what is no number, or less than 0.
    """

    attempts: int = 10
    seconds: float = 120.0
    base: float = 0.5
    cap: float = 20.0
    healthy: float = 10.0
    longest_retry_after: float = 60.0

    def __attrs_post_init__(self) -> None:
        if not _is_limit(self.attempts) or (self.attempts != math.inf and not isinstance(self.attempts, int)):
            raise ConfigError(f"attempts must be a whole number, 0 or more, not {self.attempts!r}")
        for name in ("seconds", "base", "cap", "healthy", "longest_retry_after"):
            value = getattr(self, name)
            if not _is_limit(value) or (name == "base" and value == math.inf):
                raise ConfigError(f"{name} must be a number of seconds, 0 or more, not {value!r}")


def _is_limit(value: object) -> bool:
    return value == math.inf or (is_seconds(value) and value >= 0)


def policy_of(value: bool | ReconnectPolicy) -> ReconnectPolicy | None:
    """Read the ``reconnect`` argument of a client: True = the usual policy, False = never. Raises: `ConfigError`."""
    if isinstance(value, ReconnectPolicy):
        return value
    if isinstance(value, bool):
        return ReconnectPolicy() if value else None
    raise ConfigError(f"reconnect must be True, False or a ReconnectPolicy, not {type(value).__name__}")


class Backoff:
    """Counts the tries since a loss and says how long to wait before the next one. ``random`` returns a number from 0 to 1."""

    def __init__(self, policy: ReconnectPolicy, random: Callable[[], float]) -> None:
        self._policy = policy
        self._random = random
        self.attempts = 0
        self.lost_at: float | None = None

    def lost(self, now: float, opened_at: float | None) -> None:
        """A connection that had been open since ``opened_at`` (``None`` = never) was lost at ``now``."""
        healthy = opened_at is not None and now - opened_at >= self._policy.healthy
        if healthy or self.lost_at is None:
            self.attempts = 0
            self.lost_at = now

    def next_delay(self, now: float, retry_after: float | None = None) -> float | None:
        """Seconds to wait before the next try, which is counted; ``None`` when the budget is spent."""
        since = 0.0 if self.lost_at is None else now - self.lost_at
        if self.attempts >= self._policy.attempts or since >= self._policy.seconds:
            return None
        self.attempts += 1
        delay = 0.0
        if self.attempts > 1:
            # The exponent is bounded: a huge power would be an overflow, and the cap holds long before.
            delay = self._random() * min(self._policy.cap, self._policy.base * 2 ** min(self.attempts - 2, 16))
        if retry_after is not None:
            delay = max(delay, min(retry_after, self._policy.longest_retry_after))
        return delay


def worth_retrying(error: BaseException) -> bool:
    """Tell whether an attempt to connect that failed with ``error`` may do better next time (source: hazards of refused upgrades)."""
    if isinstance(error, ApiError):
        return error.status_code in _RETRY_STATUS or error.status_code >= 500
    if isinstance(error, (ConnectError, RealtimeTimeoutError, ConnectionClosedError)):
        return error.code not in _FINAL_CODES
    return False
