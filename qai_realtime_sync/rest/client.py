"""The gateway's three REST calls, and when one of them is replayed.

All three move money, so a call is replayed only after a 429, which comes before any charge; never after a 5xx or a broken
connection (source: gateway, retries).
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from qai_realtime_sync.config import RealtimeSession
from qai_realtime_sync.errors import ApiError, ConfigError, NotConnectedError
from qai_realtime_sync.rest.answers import ResponseInfo, is_final, read_info, read_json, read_session, read_token, refusal
from qai_realtime_sync.rest.checks import Credentials, checked_base_url, checked_headers, checked_session_id, checked_timeout
from qai_realtime_sync.rest.exchange import Answer, Exchange

if TYPE_CHECKING:
    import requests

__all__ = ["DEFAULT_BASE_URL", "RestClient"]

DEFAULT_BASE_URL: Final = "https://api.quantumencoding.ai"

_log = logging.getLogger(__name__)
_REPLAYS: Final = 3
_WAITS: Final = (0.5, 1.0, 2.0)
_LONGEST_WAIT: Final = 30.0


class RestClient:
    """The gateway's REST calls for realtime sessions. Use it from any thread; ``with RestClient(…) as rest:`` closes it.

    ``api_key`` and ``base_url``: ``None`` reads ``QAI_API_KEY`` and ``QAI_BASE_URL`` at the first call. ``headers`` go with every
    request (``{"X-Quantum-App": "my-app"}``). ``timeout``: seconds for each attempt, from connecting to the last byte.
    ``proxy``: a URL, ``""`` for none, ``None`` for the environment's, which never applies to this machine. ``verify``: ``True``,
    or the path of a CA bundle (``True`` also reads ``REQUESTS_CA_BUNDLE``). ``ssl_context``: an `ssl.SSLContext` instead of it.
    ``session``: a `requests.Session` of your own, with its own ``verify`` and ``cert`` instead of a context; you
    close it, and a slow answer is bounded between two of its bytes only. ``allow_insecure``: send the key over plain http to
    another machine. ``clock`` and ``wait`` stand in for the monotonic clock and for waiting.

    Redirects are not followed, cookies not kept, netrc not read. ``last_response`` tells cost and request id of the last answer.

    Raises: `ConfigError` for a key, header or address that cannot work, before anything is sent.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        proxy: str | None = None,
        verify: bool | str = True,
        ssl_context: Any = None,
        session: requests.Session | None = None,
        allow_insecure: bool = False,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self.last_response = ResponseInfo()
        self._credentials = None if api_key is None else Credentials(api_key)
        self._allow_insecure = allow_insecure
        self._base_url = None if base_url is None else checked_base_url(base_url, allow_insecure=allow_insecure)
        self._headers = checked_headers(headers or {})
        self._timeout = checked_timeout(timeout)
        if session is not None and ssl_context is not None:
            raise ConfigError("ssl_context= does not reach a session of your own: set its verify and cert, or leave one of the two out")
        self._exchange = Exchange(proxy=proxy, verify=verify, ssl_context=ssl_context, session=session, clock=clock)
        self._clock = clock
        self._closed = threading.Event()
        self._wait = wait or self._closed.wait

    def __repr__(self) -> str:
        return f"RestClient(base_url={self._base_url!r})"

    def __reduce__(self) -> str:
        raise TypeError("a RestClient holds an API key and is not pickled; make a new one where it is needed")

    def __enter__(self) -> RestClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End a wait for a replay, in whatever thread it is; calls from now on raise `NotConnectedError`.

        No connection is kept between calls, so there is nothing else to release.
        """
        self._closed.set()

    # -- the three calls -----------------------------------------------------------------------------------------------------

    def create_session(self, provider: str | None = None, *, timeout: float | None = None, **body: Any) -> RealtimeSession:
        """Mint a session and return where and with what token to connect; one minute of it is charged in advance.

        ``provider``: ``"elevenlabs"``, or ``None`` for the gateway's usual one; ``body`` (voice, prompt, tools …) is sent as it
        is. ``timeout``: seconds for the whole call, replays included.

        Raises: `ApiError`, `ConnectError`, `RealtimeTimeoutError`; `ConfigError` for a body that is not JSON.
        """
        return read_session(self._call("session", {**body, "provider": provider} if provider else body, timeout), provider or "")

    def refresh_session(self, session_id: str, *, timeout: float | None = None) -> str:
        """Return a new token for a session; a token lives 300 s (source: gateway SDKs), so ask after about four minutes.

        Raises: `ApiError` (code ``invalid_response`` if there is no token in the answer), `ConnectError`, `RealtimeTimeoutError`.
        """
        new = read_token(self._call("refresh", {"session_id": checked_session_id(session_id)}, timeout))
        if not new:
            raise ApiError(
                "the gateway refreshed the session but sent no token",
                status_code=200,
                code="invalid_response",
                request_id=self.last_response.request_id,
            )
        return new

    def end_session(self, session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None:
        """End a session and settle its bill; one that the gateway no longer knows (404) counts as ended.

        ``duration_seconds`` is rounded up to whole seconds. The gateway charges the longer of this and its own clock.

        Raises: `ApiError`, `ConnectError`, `RealtimeTimeoutError`; `ConfigError` for a duration below 0.
        """
        number = isinstance(duration_seconds, (int, float)) and not isinstance(duration_seconds, bool)
        if not number or not 0 <= duration_seconds < math.inf:
            raise ConfigError(f"duration_seconds must be a number of seconds from 0, not {duration_seconds!r}")
        body = {"session_id": checked_session_id(session_id), "duration_seconds": math.ceil(duration_seconds)}
        try:
            self._call("end", body, timeout, ignore_answer=True)
        except ApiError as error:
            if not error.is_not_found:
                raise

    # -- one logical call ----------------------------------------------------------------------------------------------------

    def _call(self, name: str, body: Mapping[str, Any], timeout: float | None, *, ignore_answer: bool = False) -> dict[str, Any]:
        try:
            payload = json.dumps(body, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as problem:
            raise ConfigError(f"the body of {name!r} cannot be written as JSON: {problem}", code="invalid_body") from None
        end = math.inf if timeout is None else self._clock() + checked_timeout(timeout)
        key = str(uuid.uuid4())  # the same on every replay, so that the gateway can tell a replay from a second order
        replay = 0
        while True:
            answer = self._attempt(name, payload, key, end)
            value = read_json(answer.content)
            if answer.status < 300 and isinstance(value, dict) and not value.get("error"):
                return value
            if answer.status < 300 and ignore_answer and not isinstance(value, dict):
                return {}
            error = refusal(answer, value, self._where()[1].key)
            if answer.status != 429 or replay == _REPLAYS or is_final(answer.content):
                raise error
            seconds = _WAITS[replay] if error.retry_after is None else min(error.retry_after, _LONGEST_WAIT)
            replay += 1
            if self._clock() + seconds >= end:
                raise error
            _log.info("the gateway asks to slow down (429): replay %d of %d of %r in %g s", replay, _REPLAYS, name, seconds)
            self._wait(seconds)
            if self._closed.is_set():
                raise error

    def _attempt(self, name: str, payload: bytes, key: str, end: float) -> Answer:
        if self._closed.is_set():
            raise NotConnectedError("this RestClient is closed; make a new one", code="closed")
        base_url, credentials = self._where()
        headers = {**self._headers, "Content-Type": "application/json", "Idempotency-Key": key}
        deadline = min(self._clock() + self._timeout, end)
        answer = self._exchange.post(f"{base_url}/qai/v1/realtime/{name}", payload, headers, credentials, deadline)
        self.last_response = read_info(answer.headers)
        return answer

    def _where(self) -> tuple[str, Credentials]:
        """Return address and credentials, from the environment where none were given."""
        if self._credentials is None:
            self._credentials = Credentials(os.environ.get("QAI_API_KEY", ""))
        if self._base_url is None:
            base_url = os.environ.get("QAI_BASE_URL") or DEFAULT_BASE_URL
            self._base_url = checked_base_url(base_url, allow_insecure=self._allow_insecure)
        return self._base_url, self._credentials
