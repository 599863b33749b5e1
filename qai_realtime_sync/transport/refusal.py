"""What a service means that answers an upgrade with anything but 101: read into an `ApiError` that holds no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from qai_realtime_sync.errors import ApiError
from qai_realtime_sync.transport.answers import Answer

__all__ = ["cleaned", "refusal", "secrets_of"]

# Codes where no envelope can be read (source: the gateway's Swift SDK).
_CODES: Final = {401: "authentication_error", 402: "insufficient_balance", 502: "upstream_error", 503: "service_unavailable"}
_HARMLESS: Final = frozenset({"model", "agent_id", "conversation_id"})  # a message that names them helps, and they open nothing alone
_OTHER_CODE: Final = "websocket_upgrade"

_HINTS: Final = {
    400: "The address or the configuration is not what it expects.",
    401: "Check the API key or token: it may be missing, wrong or expired.",
    402: "The account has no balance left.",
    403: "The key or token is not allowed to do this.",
    404: "Check the address: nothing is there.",
    407: "A proxy in between wants credentials.",
    426: "It wants another protocol version.",
    429: "Too many requests: wait, then try again.",
    502: "The service behind the gateway failed: try again later.",
    503: "The service is not available or not configured: try again later.",
}

_SHOWN = 300  # characters of a service's text in a message
_LOOKS_SECRET = re.compile(
    r"(?i:\bbearer)\s+(?=\S*\d)\S{16,}|\b(?:qai|sk|xai|ek)[_-][\w-]{6,}|\beyJ[\w-]{8,}[\w.-]*"
    r"|(?<=[?&])[\w-]*(?i:token|key|secret|signature|sig)[\w-]*=[^&\s\"']+"
)
_SECRET_NAME = re.compile(r"(?i)auth|key|token|secret|cookie|signature|credential")


def secrets_of(resource: str, headers: Iterable[tuple[str, str]], subprotocols: Iterable[str]) -> list[str]:
    """What we sent that must not come back in a message: credentials in headers, query and subprotocols; longest first."""
    found = {value for name, value in parse_qsl(urlsplit(resource).query) if name not in _HARMLESS}
    for name, value in headers:
        if _SECRET_NAME.search(name):
            found.update((value, value.partition(" ")[2]))
    found.update(subprotocols)
    return sorted((value for value in found if len(value) >= 8), key=len, reverse=True)


def refusal(answer: Answer, body: bytes, shown: str, secrets: Iterable[str] = ()) -> ApiError:
    """The error for a refused upgrade of the address ``shown`` (source: gateway, errors; nested, flat and no envelope)."""
    text = body.decode("utf-8", "replace").strip()
    code, message = _read_envelope(text)
    if 300 <= answer.status < 400:
        code, message = _OTHER_CODE, _redirect(answer)
    elif not message:
        message = _summary(answer, text, shown, known=bool(code))
    return ApiError(
        cleaned(message, secrets),
        status_code=answer.status,
        code=cleaned(code, secrets) or _CODES.get(answer.status, _OTHER_CODE),
        request_id=cleaned(answer.headers.get("x-qai-request-id", ""), secrets),
        retry_after=_seconds(answer.headers.get("retry-after", "")),
    )


def _read_envelope(text: str) -> tuple[str, str]:
    """Code and message of ``{"error": {"code", "type", "message"}}`` or ``{"error": "code", "message"}``; ``""`` = missing."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(value, dict):
        return "", ""
    error = value.get("error")
    if isinstance(error, dict):
        return _first_text(error.get("code"), error.get("type")), _first_text(error.get("message"), value.get("message"))
    return _first_text(error, value.get("code")), _first_text(value.get("message"))


def _first_text(*values: object) -> str:
    return next((value.strip() for value in values if isinstance(value, str) and value.strip()), "")


def _summary(answer: Answer, text: str, shown: str, *, known: bool) -> str:
    status = f"{answer.status} {answer.reason}".strip()
    message = f"{shown} answered {status} instead of opening a WebSocket."
    if not known and (said := _plain_text(answer, text)):
        message = f"{message} It says: {said}"
    hint = _HINTS.get(answer.status, "")
    return f"{message} {hint}".strip()


def _plain_text(answer: Answer, text: str) -> str:
    """What of a body without an envelope may be shown: plain text, or the ``mode`` of a gateway that wants direct connections."""
    if text.startswith("{"):
        try:
            mode = json.loads(text).get("mode")
        except (ValueError, RecursionError):
            return ""
        return f"mode {mode}: ask it for a session by REST and connect to the address it names." if isinstance(mode, str) else ""
    if text.startswith("<") or "html" in answer.headers.get("content-type", "").lower():
        return ""
    return text


def _redirect(answer: Answer) -> str:
    location = urlsplit(answer.headers.get("location", ""))
    where = f" to {location.scheme}://{location.hostname}{location.path}" if location.scheme and location.hostname else ""
    return (
        f"The service redirects{where} ({answer.status}). Redirects are not followed, because the credentials would go along: "
        "connect to the final address instead."
    )


def cleaned(text: str, secrets: Iterable[str]) -> str:
    """One line of printable text without credentials, not too long."""
    for secret in secrets:
        text = text.replace(secret, "<redacted>")
    text = _LOOKS_SECRET.sub("<redacted>", text)
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _seconds(value: str) -> float | None:
    """Retry-After in whole seconds; its date form is not read."""
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 9 else None
