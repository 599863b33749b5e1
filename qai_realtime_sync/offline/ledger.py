"""Who may connect, and what was minted, refreshed, ended and paid: keys, short-lived secrets, billed sessions and a balance."""

from __future__ import annotations

import collections
import hmac
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import attrs

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.items import new_id

__all__ = ["Entry", "Ledger", "RateLimit", "Tariff"]

_MOST_SECRETS: Final = 10_000
_MOST_REQUESTS: Final = 10_000


def _check_seconds(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{attribute.name} must be a number of seconds above 0, not {value!r}", code=f"invalid_{attribute.name}")


def _check_ticks(_: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ConfigError(f"{attribute.name} must be a whole number from 0, not {value!r}", code=f"invalid_{attribute.name}")


@attrs.frozen(kw_only=True)
class Tariff:
    """What a session costs and how long its tokens live.

    ``balance_ticks`` is what the account has, ``None`` = enough for ever; ``ticks_per_minute`` the price of a begun minute; ``minute``
    how many seconds a minute of the bill and of the rate limits has, so that a test need not wait for real ones; ``token_life`` is in
    seconds; ``cut_expired`` ends a running call when its token was not refreshed in time; ``mint_rate_limit`` is how many sessions may
    be minted in a minute.
    """

    token_life: float = attrs.field(default=300.0, validator=_check_seconds)
    cut_expired: bool = False
    balance_ticks: int | None = attrs.field(default=None, validator=_check_ticks)
    ticks_per_minute: int = attrs.field(default=500_000_000, validator=_check_ticks)
    minute: float = attrs.field(default=60.0, validator=_check_seconds)
    mint_rate_limit: int | None = attrs.field(default=None, validator=_check_ticks)


@attrs.frozen
class Entry:
    """Whether a credential opens the door: ``refusal`` is ``""``, or the gateway's code; ``session_id`` whose token it is, if any's."""

    refusal: str = ""
    session_id: str = ""


@attrs.define
class _Session:
    id: str
    provider: str
    minted_at: float
    token_until: float = 0.0
    refreshed: int = 0
    ended: int = 0  # how often the client asked for it
    duration_seconds: int | None = None
    connections: int = 0
    paid_minutes: int = 1


class Ledger:
    """Keys, sessions and money of one server; safe for several threads. ``key`` ``None`` lets anybody in, with or without a key."""

    def __init__(self, key: str | None = None, tariff: Tariff | None = None, clock: Callable[[], float] = time.time) -> None:
        self.tariff = tariff if tariff is not None else Tariff()
        self._key, self._clock = key, clock
        self._lock = threading.Lock()  # guards the four below
        self._secrets: dict[str, tuple[float, str]] = {}  # secret -> its end, and whose it is
        self._sessions: dict[str, _Session] = {}
        self._balance = self.tariff.balance_ticks
        self._requests: collections.deque[dict[str, Any]] = collections.deque(maxlen=_MOST_REQUESTS)

    # -- who may come in -----------------------------------------------------------------------------------------------------

    def admits(self, credential: str, *, minted: bool = True) -> bool:
        """Return whether this key opens the door; ``minted`` admits short-lived secrets too."""
        entry = self.look_up(credential)
        return not entry.refusal and (minted or self._key is None or self._is_key(credential))

    def look_up(self, credential: str) -> Entry:
        """Tell what a credential is good for: a short-lived secret until its end, the key always."""
        with self._lock:
            found = self._secrets.get(credential)
        if found is not None:
            until, session_id = found
            return Entry("" if until > self._clock() else "EPHEMERAL_EXPIRED", session_id)
        return Entry("" if self._key is None or self._is_key(credential) else "invalid_key")

    def _is_key(self, credential: str) -> bool:
        return self._key is not None and hmac.compare_digest(credential.encode(), self._key.encode())

    def mint(self, seconds: float, prefix: str = "ek", session_id: str = "") -> tuple[str, int]:
        """Return a new secret and the unix time of its end."""
        secret, until = f"{prefix}_{secrets.token_urlsafe(24)}", self._clock() + seconds
        with self._lock:
            self._secrets[secret] = until, session_id
            while len(self._secrets) > _MOST_SECRETS:
                del self._secrets[next(iter(self._secrets))]
            session = self._sessions.get(session_id)
            if session is not None:
                session.token_until = until
        return secret, int(until)

    # -- sessions ------------------------------------------------------------------------------------------------------------

    def open_session(self, provider: str) -> str | None:
        """Return the id of a new session, its first minute paid; ``None`` if there is no money for that."""
        with self._lock:
            if not self._take(1):
                return None
            session = _Session(new_id("vs"), provider, self._clock())
            self._sessions[session.id] = session
        return session.id

    def refresh(self, session_id: str) -> str:
        """Note a refresh; return ``""``, or the code of the refusal: no such session, it has ended, or no minute can be paid."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or session.ended:
                return "not_found"
            if not self._affords(1):
                return "INSUFFICIENT_BALANCE"
            session.refreshed += 1
            return ""

    def end(self, session_id: str, duration_seconds: int) -> int | None:
        """Settle: charge the longer of the clock and the client's duration, less what was paid; return the ticks.

        ``None`` if there is no such session, or it was ended before. The balance may fall below 0.
        """
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None:
                return None
            session.ended += 1
            if session.ended > 1:
                return None
            session.duration_seconds = duration_seconds
            seconds = max(self._clock() - session.minted_at, duration_seconds)
            due = max(0, math.ceil(seconds / self.tariff.minute) - session.paid_minutes)
            session.paid_minutes += due
            ticks = due * self.tariff.ticks_per_minute
            if self._balance is not None:
                self._balance -= ticks
            return ticks

    def connected(self, session_id: str) -> None:
        """A WebSocket was opened with a token of this session."""
        with self._lock:
            if session_id in self._sessions:
                self._sessions[session_id].connections += 1

    def token_until(self, session_id: str) -> float:
        """Return when the newest token of a session expires (unix seconds)."""
        with self._lock:
            session = self._sessions.get(session_id)
            return session.token_until if session is not None else math.inf

    def sessions(self) -> list[dict[str, Any]]:
        """Return a copy of all sessions, oldest first: id, provider, minted_at (unix), refreshed (how often), ended (how often the client
        asked for it), duration_seconds (as the client said, ``None`` = not ended), connections (WebSockets opened), paid_minutes."""
        with self._lock:
            return [attrs.asdict(session) for session in self._sessions.values()]

    # -- money ---------------------------------------------------------------------------------------------------------------

    @property
    def balance(self) -> int | None:
        """Ticks left, ``None`` = enough for ever."""
        return self._balance

    def paid_until(self, session_id: str) -> float:
        """Return when the paid time of a session is over (unix seconds); never, once it was settled."""
        with self._lock:
            session = self._sessions[session_id]
            if session.ended:
                return math.inf
            return session.minted_at + session.paid_minutes * self.tariff.minute

    def pay_minute(self, session_id: str = "") -> bool:
        """Pay the next minute, of a session or of a call through the proxy; False if there is no money for it."""
        with self._lock:
            session = self._sessions.get(session_id)
            if session is not None and session.ended:
                return True  # it was settled meanwhile
            if not self._take(1):
                return False
            if session is not None:
                session.paid_minutes += 1
            return True

    def _affords(self, minutes: int) -> bool:
        return self._balance is None or self._balance >= minutes * self.tariff.ticks_per_minute

    def _take(self, minutes: int) -> bool:
        if not self._affords(minutes):
            return False
        if self._balance is not None:
            self._balance -= minutes * self.tariff.ticks_per_minute
        return True

    # -- what was asked ------------------------------------------------------------------------------------------------------

    def note(self, path: str, status: int, idempotency_key: str) -> None:
        """Note a REST call."""
        with self._lock:
            self._requests.append({"path": path, "status": status, "idempotency_key": idempotency_key})

    def requests(self) -> list[dict[str, Any]]:
        """Return a copy of the REST calls so far, oldest first: path, status, idempotency_key."""
        with self._lock:
            return [dict(request) for request in self._requests]


class RateLimit:
    """At most ``most`` times in any ``seconds``, over all connections; safe for several threads."""

    def __init__(self, most: int | None, clock: Callable[[], float] = time.monotonic, *, seconds: float = 60.0) -> None:
        self._most, self._clock, self._seconds = most, clock, seconds
        self._lock = threading.Lock()  # guards _times
        self._times: collections.deque[float] = collections.deque()

    def allow(self) -> bool:
        """Take one, if there is one left."""
        if self._most is None:
            return True
        with self._lock:
            self._drop_old()
            if len(self._times) >= self._most:
                return False
            self._times.append(self._clock())
            return True

    def retry_after(self) -> int:
        """Return in how many whole seconds, at least 1, one is left again."""
        with self._lock:
            self._drop_old()
            left = self._seconds - (self._clock() - self._times[0]) if self._times else self._seconds
        return max(1, math.ceil(left))

    def report(self) -> list[dict[str, Any]]:
        """Return the state as OpenAI's ``rate_limits``."""
        with self._lock:
            self._drop_old()
            most = self._most if self._most is not None else 10_000
            reset = self._seconds - (self._clock() - self._times[0]) if self._times else 0.0
            return [
                {
                    "name": "requests",
                    "limit": most,
                    "remaining": max(0, most - len(self._times)),
                    "reset_seconds": round(reset, 3),
                }
            ]

    def _drop_old(self) -> None:
        while self._times and self._clock() - self._times[0] >= self._seconds:
            self._times.popleft()
