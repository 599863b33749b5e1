"""The HTTP side of the server: which path is answered by what, who is let in, and how a WebSocket becomes a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import quote, unquote

from qai_realtime_sync.offline.http_server import HTTPException, Request, Response
from qai_realtime_sync.offline.items import new_id
from qai_realtime_sync.offline.line import NoUpgradeError

if TYPE_CHECKING:
    from qai_realtime_sync.offline.server import RealtimeServer

__all__ = ["Front"]

_SECRET_SECONDS = 600
_SIGNED_SECONDS = 900
_PROTOCOL_KEYS = ("openai-insecure-api-key.", "xai-client-secret.", "token-")
_KEY_HEADERS = ("X-API-Key", "xi-api-key", "x-goog-api-key")
_KEY_PARAMETERS = ("token", "key", "access_token", "conversation_signature")
_LARGEST_BODY = 1024 * 1024


class Front:
    """The WSGI application of one server: a table of routes, each a method that returns a response."""

    def __init__(self, server: RealtimeServer) -> None:
        self._server = server

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """Answer one request; a WebSocket is served here until it is over."""
        request = Request(environ)
        request.max_content_length = _LARGEST_BODY
        if request.method == "GET" and self._server.dialect_of(request.path):
            refused = self._websocket(request, environ)
            if refused is None:
                raise ConnectionError("the WebSocket is over; there is no HTTP answer")  # werkzeug drops the connection then
            answer = refused
        else:
            answer = self._answer(request)
        answer.headers["X-QAI-Request-Id"] = new_id("req")
        if request.method == "POST":
            self._server.ledger.note(request.path, answer.status_code, request.headers.get("Idempotency-Key", ""))
        return answer(environ, start_response)

    def _answer(self, request: Request) -> Response:
        handler = self.routes.get((request.method, request.path))
        if handler is None:
            return _refusal(404, "not_found", f"There is nothing at {request.method} {request.path}.")
        try:
            return handler(self, request)
        except HTTPException as error:  # a body that is too large, for one
            return _refusal(error.code or 400, "invalid_request", error.description or error.name)

    # -- WebSocket -----------------------------------------------------------------------------------------------------------

    def _websocket(self, request: Request, environ: dict[str, Any]) -> Response | None:
        if request.headers.get("Upgrade", "").lower() != "websocket" or not request.headers.get("Sec-WebSocket-Key"):
            answer = _refusal(426, "upgrade_required", "This address speaks WebSocket: connect with ws:// or wss://.")
            answer.headers["Upgrade"] = "websocket"
            return answer
        refusal = self._server.refusal(request.path, request.args.to_dict())
        if refusal is not None:
            answer = _refusal(refusal.status, refusal.code, refusal.message)
            answer.headers.update(refusal.headers)
            return answer
        offered = [name.strip() for name in request.headers.get("Sec-WebSocket-Protocol", "").split(",") if name.strip()]
        chosen = "realtime" if "realtime" in offered else offered[0] if offered else ""
        ledger = self._server.ledger
        entry = ledger.look_up(_credential(request, offered))
        admitted, proxied = not entry.refusal, request.path.startswith("/qai/")
        # xAI and the gateway refuse the upgrade; the others accept it, and say what is wrong in a close frame.
        if not admitted and (proxied or self._server.dialect_of(request.path) == "xai"):
            return _unauthorised(entry.refusal)
        if admitted and proxied and not entry.session_id and not ledger.pay_minute():
            return _no_money()
        beta = bool(request.headers.get("OpenAI-Beta"))
        try:
            self._server.converse(
                environ,
                path=request.path,
                model=request.args.get("model", ""),
                conversation_id=request.args.get("conversation_id", ""),
                subprotocol=chosen,
                admitted=admitted,
                beta=beta,
                query=request.args.to_dict(),
                session_id=entry.session_id,
            )
        except NoUpgradeError as error:
            return _refusal(400, "invalid_request", f"This is no WebSocket upgrade: {error}")
        return None

    # -- REST ----------------------------------------------------------------------------------------------------------------

    def _status(self, request: Request) -> Response:
        server = self._server
        lines = [
            "qai-realtime-sync local server",
            server.description,
            f"dialect: {server.dialect}",
            f"conversations: {sum(1 for one in server.conversations if not one['closed'])} open, {len(server.conversations)} in all",
            f"connect to {server.ws_url}",
        ]
        return Response("\n".join(lines) + "\n", mimetype="text/plain")

    def _journal(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        return _json(
            {
                "journal": self._server.journal,
                "conversations": self._server.conversations,
                "sessions": self._server.ledger.sessions(),
            }
        )

    def _ledger(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        ledger = self._server.ledger
        return _json({"balance_ticks": ledger.balance, "sessions": ledger.sessions(), "requests": ledger.requests()})

    def _client_secret(self, request: Request) -> Response:
        """Mint a secret as OpenAI and xAI do: ``{"expires_after": {"seconds"}, "session"}`` → ``{"value", "expires_at", "session"}``."""
        if not self._allowed(request):
            return _unauthorised()
        body = _body(request)
        if body is None:
            return _refusal(400, "invalid_request_error", "The body must be a JSON object.")
        after = body.get("expires_after")
        seconds = after.get("seconds") if isinstance(after, dict) else None
        if seconds is None:
            seconds = _SECRET_SECONDS
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 10 <= seconds <= 7200:
            return _refusal(400, "invalid_request_error", "'expires_after.seconds' must be a number from 10 to 7200.")
        value, expires_at = self._server.ledger.mint(seconds)
        answer: dict[str, Any] = {"value": value, "expires_at": expires_at}
        written = body.get("session")
        if self._server.dialect == "openai":
            answer["session"] = {
                **({"type": "realtime", "model": "gpt-realtime"} | (written if isinstance(written, dict) else {})),
                "object": "realtime.session",
                "id": new_id("sess"),
            }
        return _json(answer)

    def _mint(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        body = _body(request)
        if body is None:
            return _refusal(400, "invalid_request", "The body must be a JSON object.")
        server, ledger = self._server, self._server.ledger
        if not server.mints.allow():
            answer = _refusal(429, "RATE_LIMITED_PER_KEY", "Too many sessions in a minute; the server was started with --mint-rate-limit.")
            answer.headers["Retry-After"] = str(server.mints.retry_after())
            return answer
        provider = body.get("provider")
        session_id = ledger.open_session("elevenlabs" if provider == "elevenlabs" else "xai")
        if session_id is None:
            return _no_money()
        if provider == "elevenlabs":
            return self._charged({**self._signed(request, session_id), "provider": provider, "session_id": session_id})
        life = ledger.tariff.token_life
        token, expires_at = ledger.mint(life, session_id=session_id)
        return self._charged(
            {
                "ephemeral_token": token,
                "url": server.base_ws_url + "/v1/realtime",
                "session_id": session_id,
                "model": body.get("model") or "grok-voice-latest",
                "voice": body.get("voice") or "Sal",
                "expires_in": int(life) if life == int(life) else life,
                "expires_at": expires_at,
            }
        )

    def _charged(self, answer: dict[str, Any], ticks: int | None = None) -> Response:
        """Say what it cost (a minute, if nothing else) and, where it is counted, what is left."""
        ledger = self._server.ledger
        response = _json(answer)
        response.headers["X-QAI-Cost-Ticks"] = str(ledger.tariff.ticks_per_minute if ticks is None else ticks)
        if ledger.balance is not None:
            response.headers["X-QAI-Balance-After"] = str(ledger.balance)
        return response

    def _signed(self, request: Request, session_id: str = "") -> dict[str, Any]:
        signature = self._server.ledger.mint(_SIGNED_SECONDS, "cvtkn", session_id)[0]
        agent = quote(request.args.get("agent_id", "agent_local"), safe="")
        path = f"/v1/convai/conversation?agent_id={agent}&conversation_signature={signature}"
        return {"signed_url": self._server.base_ws_url + path}

    def _signed_url(self, request: Request) -> Response:
        """Sign the address of a private agent, as ElevenLabs does."""
        return _json(self._signed(request)) if self._allowed(request) else _unauthorised()

    def _refresh(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        session_id = (_body(request) or {}).get("session_id")
        if not isinstance(session_id, str) or not session_id:
            return _refusal(400, "invalid_request", "'session_id' is missing.")
        ledger = self._server.ledger
        refusal = ledger.refresh(session_id)
        if refusal == "INSUFFICIENT_BALANCE":
            return _no_money()
        if refusal:
            return _refusal(404, refusal, "There is no such session, or it has ended.")
        return _json({"ephemeral_token": ledger.mint(ledger.tariff.token_life, session_id=session_id)[0]})

    def _end(self, request: Request) -> Response:
        if not self._allowed(request):
            return _unauthorised()
        body = _body(request) or {}
        session_id, seconds = body.get("session_id"), body.get("duration_seconds")
        if not isinstance(session_id, str) or not session_id:
            return _refusal(400, "invalid_request", "'session_id' is missing.")
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
            return _refusal(400, "invalid_request", "'duration_seconds' must be an integer of 0 or more.")
        ticks = self._server.ledger.end(session_id, seconds)
        if ticks is None:
            return _refusal(404, "not_found", "There is no such session, or it has ended.")
        return self._charged({"status": "ended"}, ticks)

    def _allowed(self, request: Request) -> bool:
        return self._server.ledger.admits(_credential(request, []), minted=False)

    routes: ClassVar[Mapping[tuple[str, str], Callable[[Front, Request], Response]]] = {
        ("GET", "/"): _status,
        ("GET", "/journal"): _journal,
        ("GET", "/ledger"): _ledger,
        ("GET", "/v1/convai/conversation/get-signed-url"): _signed_url,
        ("POST", "/v1/realtime/client_secrets"): _client_secret,
        ("POST", "/qai/v1/realtime/session"): _mint,
        ("POST", "/qai/v1/realtime/refresh"): _refresh,
        ("POST", "/qai/v1/realtime/end"): _end,
    }


def _credential(request: Request, subprotocols: list[str]) -> str:
    """Return the key of a request: ``X-API-Key`` first, as the gateway reads it, then the bearer, the query, a subprotocol of a browser."""
    key = next((request.headers[name] for name in _KEY_HEADERS if request.headers.get(name)), "")
    scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
    if not key and scheme.lower() in ("bearer", "token"):  # Gemini's short-lived tokens are the latter
        key = bearer.strip()
    key = key or next((request.args[name] for name in _KEY_PARAMETERS if request.args.get(name)), "")
    for name in subprotocols:
        for prefix in _PROTOCOL_KEYS:
            if not key and name.startswith(prefix):
                key = unquote(name[len(prefix) :])
    return key


def _body(request: Request) -> dict[str, Any] | None:
    data = request.get_data()
    if not data:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status=status, mimetype="application/json")


def _refusal(status: int, code: str, message: str) -> Response:
    return _json({"error": {"message": message, "type": code, "code": code}}, status)


def _unauthorised(code: str = "invalid_key") -> Response:
    if code == "EPHEMERAL_EXPIRED":
        return _refusal(401, code, "The token has expired; refresh the session, or mint a new one.")
    return _refusal(401, "invalid_key", "The key is not valid for this server; it was started with --key.")


def _no_money() -> Response:
    return _refusal(402, "INSUFFICIENT_BALANCE", "The balance does not pay for another minute.")
