"""Every error the library raises, grouped by who must act.

Only names that end in ``Error`` are exceptions, and every exception here is a `RealtimeError` with a machine-readable ``code``.
Exceptions of other libraries are translated once, where that library is used, and chained with ``from``.
No message holds a key, a token, a signed URL or the body of an answer that could hold one.
"""

from __future__ import annotations

__all__ = [
    "ApiError",
    "ConfigError",
    "ConnectError",
    "ConnectionClosedError",
    "ForkedClientError",
    "NotConnectedError",
    "OutboxFullError",
    "RealtimeError",
    "RealtimeTimeoutError",
    "UnsupportedCommandError",
]


class RealtimeError(Exception):
    """The base of all errors of this library.

    ``code`` is a short machine-readable word (of `ConnectionClosedError` the WebSocket close code); where the gateway's own SDKs
    report one for the same failure, it is the same word.
    """

    code: str | int | None = "error"

    def __init__(self, message: str = "", *, code: str = "") -> None:
        super().__init__(message)
        if code:
            self.code = code

    @property
    def message(self) -> str:
        """What happened, why, and what to do about it."""
        return str(self.args[0]) if self.args else ""


# -- you must act ------------------------------------------------------------------------------------------------------------


class ConfigError(RealtimeError, ValueError):
    """A value passed by the program is wrong; raised in the caller's thread, before any I/O."""

    code = "invalid_config"


class UnsupportedCommandError(RealtimeError):
    """The connected service has no word for this command; the message names the nearest alternative."""

    code = "unsupported_command"


class OutboxFullError(RealtimeError):
    """More is waiting to be sent than the outbox holds: the network takes it slower than the program produces it."""

    code = "outbox_full"


class NotConnectedError(RealtimeError):
    """The call needs an open conversation, and there is none: not connected yet, or closed."""

    code = "not_connected"


class ForkedClientError(RealtimeError):
    """The client was made in another process; a forked child must make its own."""

    code = "forked_client"


# -- the service said no -----------------------------------------------------------------------------------------------------

_RATE_LIMIT_CODES = frozenset(
    {"RATE_LIMITED_PER_KEY", "RATE_LIMITED_PER_IP", "QUOTA_EXCEEDED", "rate_limited", "rate_limit_exceeded", "rate_limit"}
)
_BALANCE_CODES = frozenset({"INSUFFICIENT_BALANCE", "insufficient_balance", "insufficient_funds", "balance_zero"})


class ApiError(RealtimeError):
    """The service refused: a REST answer or a WebSocket upgrade with an error status.

    ``status_code`` is the HTTP status, ``code`` the service's own word for the reason, ``request_id`` what to quote to support
    (``""`` if none was sent), ``retry_after`` the seconds the service asked to wait (``None`` = not said).
    """

    code: str = "api_error"

    def __init__(
        self,
        message: str = "",
        *,
        status_code: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.status_code = status_code
        self.request_id = request_id
        self.retry_after = retry_after

    def __str__(self) -> str:
        status = f"{self.status_code} " if self.status_code else ""  # an error told during the conversation has none
        text = f"qai: {status}{self.code}: {self.message}"
        return f"{text} (request_id={self.request_id})" if self.request_id else text

    @property
    def is_rate_limit(self) -> bool:
        """Too many requests, or a quota is used up: wait, then try again."""
        return self.status_code == 429 or self.code in _RATE_LIMIT_CODES

    @property
    def is_auth(self) -> bool:
        """The key or token is missing, wrong, expired or not allowed to do this."""
        return self.status_code in (401, 403)

    @property
    def is_not_found(self) -> bool:
        """The address or the session does not exist."""
        return self.status_code == 404

    @property
    def is_insufficient_balance(self) -> bool:
        """The account has no money left."""
        return self.status_code == 402 or self.code in _BALANCE_CODES


# -- the network failed ------------------------------------------------------------------------------------------------------


class ConnectError(RealtimeError):
    """No connection could be opened: DNS, TCP, proxy, TLS, or an upgrade that is not a WebSocket."""

    code = "connect_failed"


class ConnectionClosedError(RealtimeError):
    """The connection is over.

    ``code`` is the WebSocket close code, or ``None`` if the connection broke without one; ``reason`` is the text of the close
    frame; ``clean`` is true if both sides exchanged close frames.
    """

    code: int | None = None

    def __init__(self, message: str = "", *, code: int | None = None, reason: str = "", clean: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.clean = clean


# -- time ran out ------------------------------------------------------------------------------------------------------------


class RealtimeTimeoutError(RealtimeError, TimeoutError):
    """Something did not happen within the time the caller gave it."""

    code = "timeout"
