"""What the gateway answers: sessions, tokens, costs, and refusals in five envelopes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.config import RealtimeSession
from qai_realtime_sync.errors import ApiError
from qai_realtime_sync.rest.exchange import Answer

__all__ = ["ResponseInfo", "canonical_code", "is_final", "read_info", "read_json", "read_session", "read_token", "refusal"]

_SECRET_IN_TEXT: Final = re.compile(
    r"\b(?:qai|ek|sk)_[\w-]+|\b(?:xai|sk)-[\w-]{12,}|(?<=Bearer )\S+|(?<=[?&])[^\s\"'&]+=[^\s\"'&]+"
)
_SECRET_FIELD: Final = re.compile(r"token|secret|value|key|url|authorization|password", re.IGNORECASE)

# Where a token without an address is good for (source: gateway REST; any provider it does not know mints an xAI token).
_DEFAULT_URLS: Final = {"openai": "wss://api.openai.com/v1/realtime", "elevenlabs": ""}
_XAI_URL: Final = "wss://api.x.ai/v1/realtime"

# Each line: the code of the newest gateway, then its older spellings (source: gateway, typed codes).
_ALIASES: Final = """
    KEY_NOT_FOUND invalid_key
    authentication_error unauthorized auth_error
    PERMISSION_DENIED forbidden permission_error
    INSUFFICIENT_BALANCE insufficient_balance insufficient_funds balance_zero
    BILLING_PORTAL_NO_HISTORY no_billing_history
    rate_limited rate_limit_exceeded rate_limit
    provider_error upstream_error
    INVALID_REQUEST invalid_request invalid_request_error bad_request missing_fields
    FIELD_TOO_LONG field_too_long
    INVALID_ATTACHMENT invalid_attachment
    ATTACHMENT_TOO_LARGE attachment_too_large
    UNSUPPORTED_CAPABILITY capability_error
    invalid_state conflict
    INTERNAL_ERROR internal_error
    SERVICE_UNAVAILABLE service_unavailable unavailable
    STRIPE_API_ERROR stripe_error
    NOT_FOUND not_found scan_not_found type_not_found
    RECIPE_BOX_PAYWALL recipe_box_paywall
"""
_CANONICAL: Final = {alias: words[0] for words in map(str.split, _ALIASES.strip().splitlines()) for alias in words}


def canonical_code(code: str) -> str:
    """Return the gateway's newest spelling of an `ApiError.code`; a code without other spellings comes back as it is."""
    return _CANONICAL.get(code, code)


@attrs.frozen(kw_only=True)
class ResponseInfo:
    """What the gateway said beside the last answer: money in ticks (10 000 000 000 = 1 USD), 0 or ``""`` if it said nothing."""

    request_id: str = ""
    cost_ticks: int = 0
    balance_after: int = 0
    model: str = ""
    cache: str = ""


def read_json(content: bytes) -> object:
    """Return the JSON value, or ``None`` if it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def refusal(answer: Answer, value: object, key: str) -> ApiError:
    """Return the error for an answer that is none; ``value`` is its JSON, ``key`` the API key, which is cut out of every text."""
    code, message = _read_envelope(answer.status, answer.reason, answer.content, value)
    retry_after = answer.headers.get("Retry-After", "").strip()
    return ApiError(
        _clean(message, key),
        status_code=answer.status,
        code=_clean(code, key),
        request_id=answer.headers.get("X-QAI-Request-Id", ""),
        retry_after=float(retry_after) if re.fullmatch("[0-9]{1,9}", retry_after) else None,
    )


def _read_envelope(status: int, reason: str, content: bytes, answer: object) -> tuple[str, str]:
    """Return code and message of a refusal (source: gateway, five envelopes)."""
    reason = reason or _status_name(status)
    error = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(answer, dict) and isinstance(error, dict):
        code = next((text for text in map(_text, (error.get("code"), error.get("type"))) if text), reason)
        return code, _text(error.get("message")) or _text(answer.get("message")) or _body(answer)
    if isinstance(answer, dict) and status >= 300 or isinstance(error, str):
        return _text(error) or reason, _text(answer.get("message")) or _body(answer)  # type: ignore[attr-defined]
    size = f"{len(content)} bytes that are not JSON" if answer is None else "JSON of an unknown form"
    if status < 300:
        return "invalid_response", f"the answer holds {size}; check that base_url is the gateway's"
    if status < 400:
        return reason, "the answer is a redirect, which is not followed with an API key; check base_url"
    return reason, f"the answer holds {size}; something in front of the gateway may have sent it"


def _status_name(status: int) -> str:
    import http.client

    return http.client.responses.get(status, f"status {status}")


def _body(answer: object) -> str:
    """Return an error's body as short text, without the values of fields that may be secret."""
    return json.dumps(_masked(answer), separators=(",", ":"), ensure_ascii=False)[:300]


def _masked(value: object) -> object:
    if isinstance(value, dict):
        return {key: "<redacted>" if _SECRET_FIELD.search(key) else _masked(part) for key, part in value.items()}
    return [_masked(part) for part in value] if isinstance(value, list) else value


def _clean(text: str, key: str) -> str:
    return _SECRET_IN_TEXT.sub("<redacted>", text.replace(key, "<redacted>"))


def is_final(content: bytes) -> bool:
    """Tell whether the body says that a replay cannot help (source: gateway SDKs, "stop at once")."""
    body = content.lower()
    words = (b"content moderation", b"content_policy", b"safety_block", b"invalid argument", b"invalid_request")
    return any(word in body for word in words) or (b"status 400" in body and b"rejected" in body)


def read_info(headers: Mapping[str, str]) -> ResponseInfo:
    """Return what the headers say; a number that is none counts as 0 (source: gateway)."""

    def number(name: str) -> int:
        value = headers.get(name, "").strip()
        return int(value) if re.fullmatch(r"-?[0-9]{1,30}", value) else 0

    return ResponseInfo(
        request_id=headers.get("X-QAI-Request-Id", ""),
        cost_ticks=number("X-QAI-Cost-Ticks"),
        balance_after=number("X-QAI-Balance-After"),
        model=headers.get("X-QAI-Model", ""),
        cache=headers.get("X-QAI-Cache", ""),
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _seconds(*values: object) -> float | None:
    """Return the first number that is one: JSON also says infinities, NaN, and integers beyond every float."""
    for value in values:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                seconds = float(value)
            except OverflowError:
                continue
            if math.isfinite(seconds):
                return seconds
    return None


def read_token(answer: Mapping[str, Any]) -> str:
    """Return the token by any of its names (source: gateway, and the gateway that answers with OpenAI's body)."""
    secret = answer.get("client_secret")
    nested = secret.get("value") if isinstance(secret, dict) else secret
    return next((text for text in map(_text, (answer.get("ephemeral_token"), nested, answer.get("value"))) if text), "")


def read_session(answer: Mapping[str, Any], asked: str) -> RealtimeSession:
    """Return the session of an answer; ``asked`` is the provider in the request. What is missing is ``""``."""
    secret = answer.get("client_secret")
    provider = _text(answer.get("provider")) or asked
    signed_url = _text(answer.get("signed_url"))
    return RealtimeSession(
        url=_text(answer.get("url")) or ("" if signed_url else _DEFAULT_URLS.get(provider, _XAI_URL)),
        ephemeral_token=read_token(answer),
        signed_url=signed_url,
        session_id=_text(answer.get("session_id")),
        provider=provider,
        model=_text(answer.get("model")),
        voice=_text(answer.get("voice")),
        expires_at=_seconds(answer.get("expires_at"), secret.get("expires_at") if isinstance(secret, dict) else None),
        expires_in=_seconds(answer.get("expires_in")),
    )
