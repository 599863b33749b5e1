"""``qai-realtime session``: the gateway's REST calls, one JSON line each."""

from __future__ import annotations

import argparse
import json
from typing import Any

from qai_realtime_sync.cli.terminal import json_line
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.rest import RestClient
from qai_realtime_sync.rest.exchange import Answer

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime session create --voice eve"
_END = "qai-realtime session end sess_1 --seconds 61.5"
_NOT_FOUND = 404
_REDACTED = "<redacted, use --show-token>"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the three calls."""
    calls = parser.add_subparsers(title="calls", metavar="CALL", required=True)
    create: Any = calls.add_parser("create", help="mint a session; the first minute is charged")
    create.add_argument("--provider", metavar="NAME", help="like elevenlabs (default: the gateway's usual one)")
    create.add_argument("--voice", help="the voice of the assistant")
    create.add_argument("--body", metavar="JSON", help="further fields of the request, a JSON object")
    create.set_defaults(call=_create)
    refresh: Any = calls.add_parser("refresh", help="get a new token for a session")
    refresh.add_argument("session_id")
    refresh.set_defaults(call=_refresh)
    end: Any = calls.add_parser("end", help="end a session and settle its bill")
    end.add_argument("session_id")
    end.add_argument("--seconds", type=float, required=True, help="how long it lasted")
    end.set_defaults(call=_end)
    for call, example in ((create, EXAMPLE), (refresh, "qai-realtime session refresh sess_1"), (end, _END)):
        call.example = example
        call.add_argument("--url", help="address (default: QAI_BASE_URL, else the gateway)")
        call.add_argument("--key", help="API key (default: QAI_API_KEY, unseen by others)")
        call.add_argument("--timeout", type=float, default=30.0, help="seconds for the whole call (default: %(default)g)")
        call.add_argument("--show-token", action="store_true", help="print tokens and signed addresses, a right to enter")
        call.add_argument("--json", action="store_true", help="one line of JSON, which it is anyway")


def run(arguments: argparse.Namespace) -> int:
    """Make the call and print its answer as one line of JSON; return 0. Raises: `RealtimeError`."""
    rest = _Calls(arguments.key, base_url=arguments.url, timeout=arguments.timeout)
    with rest:
        answer = arguments.call(rest, arguments)
        info = rest.last_response
    told = {
        "cost_ticks": info.cost_ticks if rest.has("X-QAI-Cost-Ticks") else None,
        "balance_after": info.balance_after if rest.has("X-QAI-Balance-After") else None,
        "request_id": info.request_id,
    }
    json_line({"name": "result", "command": "session", "ok": True, "exit_code": 0, **answer, **told})
    return 0


class _Calls(RestClient):
    """Keeps the last answer, because a zero that the gateway told is not one that it did not tell."""

    answer: Answer | None = None

    def _attempt(self, name: str, payload: bytes, key: str, end: float) -> Answer:
        self.answer = super()._attempt(name, payload, key, end)
        return self.answer

    def has(self, header: str) -> bool:
        """Whether the last answer had this header."""
        return self.answer is not None and header in self.answer.headers


def _create(rest: _Calls, arguments: argparse.Namespace) -> dict[str, Any]:
    body = _json_object(arguments.body)
    if arguments.voice:
        body["voice"] = arguments.voice
    session = rest.create_session(arguments.provider, timeout=arguments.timeout, **body)
    return {
        "session_id": session.session_id,
        "provider": session.provider,
        "model": session.model,
        "voice": session.voice,
        "url": _address(session.url, arguments.show_token),
        "signed_url": _address(session.signed_url, arguments.show_token),
        "ephemeral_token": _secret(session.ephemeral_token, arguments.show_token),
        "expires_in": session.expires_in,
        "expires_at": session.expires_at,
    }


def _refresh(rest: _Calls, arguments: argparse.Namespace) -> dict[str, Any]:
    token = rest.refresh_session(arguments.session_id, timeout=arguments.timeout)
    return {"session_id": arguments.session_id, "ephemeral_token": _secret(token, arguments.show_token)}


def _end(rest: _Calls, arguments: argparse.Namespace) -> dict[str, Any]:
    rest.end_session(arguments.session_id, arguments.seconds, timeout=arguments.timeout)
    is_known = rest.answer is None or rest.answer.status != _NOT_FOUND
    return {"session_id": arguments.session_id, "status": "ended" if is_known else "unknown to the gateway"}


def _json_object(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise ConfigError(f"--body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--body must be a JSON object, like '{{\"prompt\": \"Be brief.\"}}', not {type(value).__name__}")
    return value


def _secret(value: str, show: bool) -> str:
    return value if show or not value else _REDACTED


def _address(value: str, show: bool) -> str:
    """An address may carry its right in the query."""
    base, mark, _ = value.partition("?")
    return value if show or not mark else f"{base}?{_REDACTED}"
