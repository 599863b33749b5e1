"""The gateway's REST calls: what is sent, what is read, what is replayed, and that no secret comes out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses
import urllib3

from qai_realtime_sync.errors import ApiError, ConfigError, ConnectError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.rest import DEFAULT_BASE_URL, ResponseInfo, RestClient, canonical_code

KEY = "qai_k_very_secret"
BASE = "https://gateway.test"
SESSION = f"{BASE}/qai/v1/realtime/session"
REFRESH = f"{BASE}/qai/v1/realtime/refresh"
END = f"{BASE}/qai/v1/realtime/end"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine decides about these tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in (
            "QAI_API_KEY",
            "QAI_BASE_URL",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "NETRC",
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def gateway() -> Iterator[responses.RequestsMock]:
    """Answer requests instead of a network; every answer that a test prepares must be used."""
    with responses.RequestsMock() as mock:
        yield mock


@pytest.fixture
def waits() -> list[float]:
    """The seconds a client waited, without waiting."""
    return []


@pytest.fixture
def rest(waits: list[float]) -> RestClient:
    """A client whose waits take no time."""
    return RestClient(KEY, base_url=BASE, wait=waits.append)


def sent(mock: responses.RequestsMock, index: int = 0) -> Any:
    """Return the JSON body of a request."""
    return json.loads(mock.calls[index].request.body)


@contextlib.contextmanager
def raw_server(talk: Callable[[socket.socket, bytes], None]) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one connection on loopback with ``talk(connection, request)``; give the address and what came in."""
    got: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                request = connection.recv(65_536)
                got.append(request)
                with contextlib.suppress(OSError):
                    talk(connection, request)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="raw-server", daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", got
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)
            assert not thread.is_alive()


# -- what is sent ------------------------------------------------------------------------------------------------------------


def test_a_session_is_asked_for_with_an_empty_object(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """Without arguments the body of `session` is `{}`, with both credentials and as JSON."""
    gateway.post(SESSION, json={})
    rest.create_session()
    request = gateway.calls[0].request
    assert sent(gateway) == {}
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["X-API-Key"] == KEY


def test_the_body_of_the_caller_goes_out_as_it_is(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """The caller's fields stand beside `provider`, untouched."""
    gateway.post(SESSION, json={})
    rest.create_session("elevenlabs", voice="Eve", tools=[{"name": "x", "parameters": None}])
    assert sent(gateway) == {"voice": "Eve", "tools": [{"name": "x", "parameters": None}], "provider": "elevenlabs"}


@pytest.mark.parametrize(("seconds", "whole"), [(12.0, "12"), (12.01, "13"), (0, "0"), (61, "61"), (0.2, "1")])
def test_a_duration_is_whole_seconds_rounded_up(
    gateway: responses.RequestsMock, rest: RestClient, seconds: float, whole: str
) -> None:
    """`duration_seconds` is a JSON integer, never `12.0`, and a begun second counts."""
    gateway.post(END, json={"status": "ended"})
    rest.end_session("vs_1", seconds)
    assert gateway.calls[0].request.body == f'{{"session_id": "vs_1", "duration_seconds": {whole}}}'.encode()


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), True, "12", None])
def test_an_impossible_duration_is_refused(rest: RestClient, seconds: Any) -> None:
    """What is no number of seconds from 0 is an error of the program, before anything is sent."""
    with pytest.raises(ConfigError, match="duration_seconds"):
        rest.end_session("vs_1", seconds)


def test_headers_of_the_caller_are_added(gateway: responses.RequestsMock) -> None:
    """`X-Quantum-App` and the like go with every request."""
    gateway.post(SESSION, json={})
    RestClient(KEY, base_url=BASE, headers={"X-Quantum-App": "till", "X-Empty": ""}).create_session()
    assert gateway.calls[0].request.headers["X-Quantum-App"] == "till"


@pytest.mark.parametrize("name", ["Authorization", "authorization", "X-API-KEY", "idempotency-key", "Content-Type"])
def test_reserved_headers_are_refused(name: str) -> None:
    """A header that the client sets itself cannot be replaced, whatever its case."""
    with pytest.raises(ConfigError, match="leave it out") as caught:
        RestClient(KEY, headers={name: "x"})
    assert caught.value.code == "invalid_header"


@pytest.mark.parametrize(
    ("name", "value"),
    [("X-A", "a\r\nX-B: b"), ("X-A\r\n", "a"), ("", "a"), ("X A", "a"), ("X-A", "жук"), ("X-A", 1), ("X-A", " a")],
)
def test_headers_that_cannot_be_sent_are_refused(name: str, value: Any) -> None:
    """No line break gets into a header, by name or by value."""
    with pytest.raises(ConfigError) as caught:
        RestClient(KEY, headers={name: value})
    assert caught.value.code == "invalid_header"


@pytest.mark.parametrize(
    ("key", "why"),
    [("", "no API key was given"), ("qai_k\n", "a line break"), (" qai", "a blank at"), ("qai_ключ", "character"), (5, "not int")],
)
def test_the_error_says_what_is_wrong_with_a_key(key: Any, why: str) -> None:
    """One reason, not a list of all that there are."""
    with pytest.raises(ConfigError, match=why):
        RestClient(key)


@pytest.mark.parametrize("key", ["", " ", "qai_k\n", "\rqai", "qai_ключ", " qai", "qai\x00", "qai_k\x7f", 5])
def test_a_key_that_no_header_can_carry_is_refused(key: Any) -> None:
    """Such a key is an error before any I/O, and the message does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        RestClient(key)
    assert caught.value.code == "invalid_api_key"
    assert "ключ" not in str(caught.value)


@pytest.mark.parametrize("base_url", [BASE, BASE + "/", BASE + "//"])
def test_trailing_slashes_do_not_double(gateway: responses.RequestsMock, base_url: str) -> None:
    """A base URL with a slash at its end gives the same address as one without."""
    gateway.post(SESSION, json={})
    RestClient(KEY, base_url=base_url).create_session()
    assert gateway.calls[0].request.url == SESSION


def test_a_prefix_of_the_base_url_is_kept(gateway: responses.RequestsMock) -> None:
    """A gateway behind a path is reached under that path."""
    gateway.post(f"{BASE}/proxy/qai/v1/realtime/session", json={})
    RestClient(KEY, base_url=f"{BASE}/proxy/").create_session()
    assert [call.request.url for call in gateway.calls] == [f"{BASE}/proxy/qai/v1/realtime/session"]


@pytest.mark.parametrize(
    "base_url",
    ["ftp://x", "wss://x", "gateway.test", "https://", "https://a b", "https://x:port", "", 5, "https://x?a=1"],
)
def test_an_address_that_cannot_work_is_refused(base_url: Any) -> None:
    """Only http and https addresses without query are taken."""
    with pytest.raises(ConfigError) as caught:
        RestClient(KEY, base_url=base_url)
    assert caught.value.code == "invalid_base_url"


def test_a_password_in_the_address_is_refused_and_not_shown() -> None:
    """Credentials in the base URL are refused, and the message keeps them to itself."""
    with pytest.raises(ConfigError) as caught:
        RestClient(KEY, base_url="https://user:hunter2@gateway.test/")
    assert "hunter2" not in str(caught.value)
    assert "gateway.test" in str(caught.value)


def test_a_key_does_not_travel_in_the_clear() -> None:
    """Plain http to another machine needs `allow_insecure`; loopback does not."""
    with pytest.raises(ConfigError, match="allow_insecure") as caught:
        RestClient(KEY, base_url="http://gateway.test")
    assert caught.value.code == "insecure_base_url"
    RestClient(KEY, base_url="http://gateway.test", allow_insecure=True)
    for host in ("localhost", "127.0.0.1:8080", "[::1]:80", "app.localhost"):
        RestClient(KEY, base_url=f"http://{host}")


def test_key_and_address_come_from_the_environment_at_the_first_call(
    gateway: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The constructor reads no environment; the first call does, if nothing was given."""
    rest = RestClient()
    monkeypatch.setenv("QAI_API_KEY", "qai_from_env")
    monkeypatch.setenv("QAI_BASE_URL", BASE + "/")
    gateway.post(SESSION, json={})
    rest.create_session()
    assert gateway.calls[0].request.headers["X-API-Key"] == "qai_from_env"


def test_without_any_key_nothing_is_sent(gateway: responses.RequestsMock) -> None:
    """No key given and none in the environment is an error that names QAI_API_KEY."""
    with pytest.raises(ConfigError, match="QAI_API_KEY"):
        RestClient().create_session()
    assert len(gateway.calls) == 0


def test_the_default_address_is_the_gateways(gateway: responses.RequestsMock) -> None:
    """Without a base URL the vendor's address is used."""
    gateway.post(f"{DEFAULT_BASE_URL}/qai/v1/realtime/session", json={})
    RestClient(KEY).create_session()
    assert gateway.calls[0].request.url.startswith("https://api.quantumencoding.ai/")


def test_a_body_that_is_not_json_is_refused(rest: RestClient) -> None:
    """Values that JSON cannot hold are the program's error."""
    for value in (float("nan"), object(), b"x"):
        with pytest.raises(ConfigError) as caught:
            rest.create_session(voice=value)
        assert caught.value.code == "invalid_body"


@pytest.mark.parametrize("session_id", ["", None, 5])
def test_an_empty_session_id_is_refused(rest: RestClient, session_id: Any) -> None:
    """`refresh` and `end` need the id of a session."""
    for call in (rest.refresh_session, lambda given: rest.end_session(given, 1)):
        with pytest.raises(ConfigError, match="session_id"):
            call(session_id)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), "5", True])
def test_an_impossible_timeout_is_refused(timeout: Any) -> None:
    """A timeout is a finite number of seconds above 0."""
    with pytest.raises(ConfigError, match="timeout"):
        RestClient(KEY, timeout=timeout)


# -- what is read ------------------------------------------------------------------------------------------------------------


def test_a_session_of_xai(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """The reference answer: the URL to dial is `url`, the token is in no text form, the session id is visible."""
    answer = {
        "session_id": "vs_1",
        "ephemeral_token": "xai-ephemeral-123",
        "url": "wss://api.x.ai/v1/realtime",
        "model": "grok-realtime-beta",
        "voice": "Sal",
        "expires_in": 300,
        "expires_at": 1,
    }
    gateway.post(SESSION, json=answer)
    session = rest.create_session()
    assert session.ws_url == "wss://api.x.ai/v1/realtime"
    assert session.ephemeral_token == "xai-ephemeral-123"
    assert (session.model, session.voice, session.expires_in, session.expires_at) == ("grok-realtime-beta", "Sal", 300.0, 1.0)
    assert "xai-ephemeral-123" not in repr(session) + str(session)
    assert "vs_1" in repr(session)


def test_a_session_of_elevenlabs(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """The reference answer: the URL to dial is `signed_url`, and it is masked."""
    url = "wss://api.elevenlabs.io/v1/convai/conversation?token=tok_987"
    gateway.post(SESSION, json={"session_id": "vs_2", "signed_url": url, "provider": "elevenlabs"})
    session = rest.create_session("elevenlabs")
    assert session.ws_url == url
    assert session.provider == "elevenlabs"
    assert session.ephemeral_token == ""
    assert "tok_987" not in repr(session)


@pytest.mark.parametrize(
    "body",
    [
        {"ephemeral_token": "T", "value": "no"},
        {"ephemeral_token": "", "client_secret": {"value": "T"}},
        {"client_secret": "T"},
        {"client_secret": {"value": None}, "value": "T"},
        {"ephemeral_token": 5, "value": "T"},
    ],
)
def test_the_spellings_of_a_token(gateway: responses.RequestsMock, rest: RestClient, body: dict[str, Any]) -> None:
    """The token is read from any of its four names, in order, for a new session and for a refresh."""
    gateway.post(SESSION, json=body)
    gateway.post(REFRESH, json=body)
    assert rest.create_session().ephemeral_token == "T"
    assert rest.refresh_session("vs_1") == "T"
    assert sent(gateway, 1) == {"session_id": "vs_1"}


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        (None, "wss://api.x.ai/v1/realtime"),
        ("xai", "wss://api.x.ai/v1/realtime"),
        ("openai", "wss://api.openai.com/v1/realtime"),
        ("elevenlabs", ""),
    ],
)
def test_a_token_without_an_address_gets_its_providers(
    gateway: responses.RequestsMock, rest: RestClient, provider: str | None, url: str
) -> None:
    """Where the answer names no address, the provider's own holds; ElevenLabs has none without a signed URL."""
    gateway.post(SESSION, json={"ephemeral_token": "T"})
    assert rest.create_session(provider).ws_url == url


def test_an_answer_of_openais_form(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """The date in `client_secret` is the session's end when there is none at the top."""
    gateway.post(SESSION, json={"client_secret": {"value": "ek_1", "expires_at": 1700}, "model": "m", "expires_in": None})
    session = rest.create_session("openai")
    assert (session.ephemeral_token, session.expires_at, session.expires_in) == ("ek_1", 1700.0, None)


def test_missing_and_wrong_fields_are_empty(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """A field of the wrong type counts as missing; every field is optional."""
    gateway.post(SESSION, json={"ephemeral_token": None, "url": 5, "session_id": ["x"], "expires_at": "soon", "expires_in": True})
    session = rest.create_session()
    assert (session.ephemeral_token, session.session_id, session.expires_at, session.expires_in) == ("", "", None, None)


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e999", "NaN", "-Infinity"], ids=lambda number: number[:9])
def test_a_time_that_no_clock_has_is_missing(gateway: responses.RequestsMock, rest: RestClient, number: str) -> None:
    """The session was paid for, so it is handed out all the same; of two dates the one that is one counts."""
    body = f'{{"ephemeral_token": "T", "expires_in": {number}, "expires_at": {number}, "client_secret": {{"expires_at": 1700}}}}'
    gateway.post(SESSION, body=body, content_type="application/json")
    session = rest.create_session()
    assert (session.ephemeral_token, session.expires_in, session.expires_at) == ("T", None, 1700.0)


def test_a_refresh_without_a_token_is_an_error(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """A refresh whose answer has no token cannot be used, and says so with the request id."""
    gateway.post(REFRESH, json={"ok": True}, headers={"X-QAI-Request-Id": "req_9"})
    with pytest.raises(ApiError, match="no token") as caught:
        rest.refresh_session("vs_1")
    assert (caught.value.code, caught.value.status_code, caught.value.request_id) == ("invalid_response", 200, "req_9")


def test_cost_and_balance_are_kept(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """`last_response` has the numbers of the last answer, also of a refusal; what is no number counts as 0."""
    assert rest.last_response == ResponseInfo()
    headers = {
        "X-QAI-Request-Id": "req_1",
        "X-QAI-Cost-Ticks": "12000",
        "X-QAI-Balance-After": "-7",
        "X-QAI-Model": "m",
        "X-QAI-Cache": "hit",
    }
    gateway.post(SESSION, json={}, headers=headers)
    rest.create_session()
    assert rest.last_response == ResponseInfo(request_id="req_1", cost_ticks=12000, balance_after=-7, model="m", cache="hit")
    gateway.post(REFRESH, status=500, json={}, headers={"X-QAI-Cost-Ticks": "1.5", "X-QAI-Balance-After": "lots"})
    with pytest.raises(ApiError):
        rest.refresh_session("vs_1")
    assert rest.last_response == ResponseInfo()


@pytest.mark.parametrize(
    "answer", [{"json": {"status": "ended"}}, {"body": b""}, {"body": b"", "status": 204}, {"body": b"<ok>"}]
)
def test_the_answer_of_end_is_ignored(gateway: responses.RequestsMock, rest: RestClient, answer: dict[str, Any]) -> None:
    """Whatever a successful `end` answers, the session is ended."""
    gateway.post(END, **answer)
    assert rest.end_session("vs_1", 1) is None  # type: ignore[func-returns-value]


def test_ending_an_unknown_session_is_no_error(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """A 404 of `end` means that the session is over, which was the wish; other refusals are errors."""
    gateway.post(END, status=404, json={"error": "not_found"})
    rest.end_session("vs_1", 1)
    gateway.post(END, status=403, json={"error": "forbidden"})
    with pytest.raises(ApiError):
        rest.end_session("vs_1", 1)


# -- refusals ----------------------------------------------------------------------------------------------------------------

PAGE = "<html><body>token=tok_123</body></html>"


@pytest.mark.parametrize(
    ("status", "body", "code", "message"),
    [
        (400, {"error": {"message": "M", "type": "T", "code": "C"}}, "C", "M"),
        (400, {"error": {"message": "M", "type": "T", "code": ""}}, "T", "M"),
        (400, {"error": {"message": "M", "type": None}}, "Bad Request", "M"),
        (400, {"error": {"code": "C"}, "message": "outer"}, "C", "outer"),
        (400, {"error": "invalid_request", "message": "model is required"}, "invalid_request", "model is required"),
        (401, {"error": "unauthorized"}, "unauthorized", '{"error":"unauthorized"}'),
        (401, {"error": "", "message": "M"}, "Unauthorized", "M"),
        (500, {"detail": "d", "token": "abc"}, "Internal Server Error", '{"detail":"d","token":"<redacted>"}'),
        (500, PAGE, "Internal Server Error", f"the answer holds {len(PAGE)} bytes that are not JSON"),
        (500, [1], "Internal Server Error", "JSON of an unknown form"),
        (302, PAGE, "Found", "not followed"),
        (200, {"error": "insufficient_balance", "message": "M"}, "insufficient_balance", "M"),
        (201, {"error": {"code": "C", "message": "M"}}, "C", "M"),
        (200, {"error": ["odd"]}, "invalid_response", "unknown form"),
        (200, PAGE, "invalid_response", "not JSON"),
        (200, "", "invalid_response", "0 bytes"),
        (200, [1], "invalid_response", "unknown form"),
        (599, {"error": {}}, "status 599", "{}"),
    ],
)
def test_every_envelope_becomes_an_api_error(
    gateway: responses.RequestsMock, rest: RestClient, status: int, body: Any, code: str, message: str
) -> None:
    """Nested, flat, flat without a message, not JSON, and a success that is none: each is an ApiError with its own status."""
    answer = {"body": body} if isinstance(body, str) else {"json": body}
    gateway.post(SESSION, status=status, headers={"X-QAI-Request-Id": "req_1"}, **answer)
    with pytest.raises(ApiError) as caught:
        rest.create_session()
    error = caught.value
    assert (error.status_code, error.code, error.request_id) == (status, code, "req_1")
    assert message in error.message
    assert "tok_123" not in str(error)


def test_the_text_of_a_refusal(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """The reference's text form: status, code, message and request id."""
    gateway.post(
        SESSION,
        status=400,
        json={"error": "invalid_request", "message": "model is required"},
        headers={"X-QAI-Request-Id": "req_1"},
    )
    with pytest.raises(ApiError) as caught:
        rest.create_session()
    assert str(caught.value) == "qai: 400 invalid_request: model is required (request_id=req_1)"


def test_a_null_error_in_a_success_is_no_error(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """`"error": null` beside a token is a success."""
    gateway.post(SESSION, json={"error": None, "ephemeral_token": "T"})
    assert rest.create_session().ephemeral_token == "T"


def test_deep_json_is_no_crash(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """JSON nested beyond what Python reads is an answer that cannot be understood."""
    gateway.post(SESSION, body="[" * 200_000)
    with pytest.raises(ApiError) as caught:
        rest.create_session()
    assert caught.value.code == "invalid_response"


@pytest.mark.parametrize(
    ("code", "canonical"),
    [
        ("balance_zero", "INSUFFICIENT_BALANCE"),
        ("insufficient_funds", "INSUFFICIENT_BALANCE"),
        ("invalid_key", "KEY_NOT_FOUND"),
        ("unauthorized", "authentication_error"),
        ("rate_limit", "rate_limited"),
        ("upstream_error", "provider_error"),
        ("missing_fields", "INVALID_REQUEST"),
        ("conflict", "invalid_state"),
        ("unavailable", "SERVICE_UNAVAILABLE"),
        ("type_not_found", "NOT_FOUND"),
        ("EPHEMERAL_EXPIRED", "EPHEMERAL_EXPIRED"),
        ("Balance_Zero", "Balance_Zero"),
        ("something_new", "something_new"),
    ],
)
def test_older_spellings_of_a_code_are_known(code: str, canonical: str) -> None:
    """An alias gives the newest spelling; case counts; an unknown code keeps its text."""
    assert canonical_code(code) == canonical


# -- replays -----------------------------------------------------------------------------------------------------------------


def test_a_429_is_replayed_with_the_same_idempotency_key(
    gateway: responses.RequestsMock, rest: RestClient, waits: list[float]
) -> None:
    """429 with `Retry-After: 1`, then 200: two requests with one key; the next logical call has another."""
    gateway.post(SESSION, status=429, json={"error": "rate_limited"}, headers={"Retry-After": "1"})
    gateway.post(SESSION, json={"session_id": "vs_1"})
    gateway.post(SESSION, json={})
    assert rest.create_session().session_id == "vs_1"
    rest.create_session()
    keys = [call.request.headers["Idempotency-Key"] for call in gateway.calls]
    assert keys[0] == keys[1] != keys[2]
    assert len(keys[0]) == 36
    assert waits == [1.0]


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, [0.5, 1.0, 2.0]),
        ("5", [5.0, 5.0, 5.0]),
        ("0", [0.0, 0.0, 0.0]),
        ("3600", [30.0, 30.0, 30.0]),
        ("Fri, 20 Nov 2026 08:00:00 GMT", [0.5, 1.0, 2.0]),
        ("1.5", [0.5, 1.0, 2.0]),
        ("-1", [0.5, 1.0, 2.0]),
    ],
)
def test_three_replays_and_how_long_they_wait(
    gateway: responses.RequestsMock, rest: RestClient, waits: list[float], retry_after: str | None, expected: list[float]
) -> None:
    """After the first attempt come three replays: after `Retry-After` in whole seconds, at most 30, else 0.5, 1 and 2 s."""
    for _ in range(4):
        gateway.post(END, status=429, json={"error": "x"}, headers={"Retry-After": retry_after} if retry_after else {})
    with pytest.raises(ApiError) as caught:
        rest.end_session("vs_1", 1)
    assert caught.value.is_rate_limit
    assert waits == expected
    assert len(gateway.calls) == 4


@pytest.mark.parametrize("status", [400, 401, 402, 403, 408, 500, 502, 503, 504])
def test_nothing_else_is_replayed(gateway: responses.RequestsMock, rest: RestClient, waits: list[float], status: int) -> None:
    """These calls move money: any other refusal is final, with one request sent."""
    gateway.post(SESSION, status=status, json={"error": "x"}, headers={"Retry-After": "7"})
    with pytest.raises(ApiError) as caught:
        rest.create_session()
    assert caught.value.retry_after == 7.0
    assert len(gateway.calls) == 1
    assert waits == []


def test_a_broken_connection_is_not_replayed(gateway: responses.RequestsMock, rest: RestClient, waits: list[float]) -> None:
    """A connection that breaks may have charged already: one request, an error."""
    gateway.post(SESSION, body=requests.ConnectionError("reset by peer"))
    with pytest.raises(ConnectError):
        rest.create_session()
    assert len(gateway.calls) == 1
    assert waits == []


@pytest.mark.parametrize(
    "message",
    [
        "Content Moderation hit",
        "CONTENT_POLICY",
        "a safety_block",
        "Invalid Argument",
        "invalid_request",
        "Status 400: it was Rejected",
    ],
)
def test_some_bodies_stop_at_once(gateway: responses.RequestsMock, rest: RestClient, waits: list[float], message: str) -> None:
    """A 429 whose body says that a replay cannot help is final, whatever the case of the words."""
    gateway.post(SESSION, status=429, json={"error": "x", "message": message})
    with pytest.raises(ApiError):
        rest.create_session()
    assert waits == []


def test_half_of_the_words_does_not_stop(gateway: responses.RequestsMock, rest: RestClient, waits: list[float]) -> None:
    """`status 400` alone, without `rejected`, is replayed."""
    gateway.post(SESSION, status=429, json={"error": "x", "message": "status 400"})
    gateway.post(SESSION, json={})
    rest.create_session()
    assert waits == [0.5]


def test_a_call_with_a_timeout_does_not_wait_past_it(gateway: responses.RequestsMock, waits: list[float]) -> None:
    """A replay that could only come after the call's timeout is not waited for."""
    now = [100.0]

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds

    rest = RestClient(KEY, base_url=BASE, clock=lambda: now[0], wait=wait)
    for _ in range(2):
        gateway.post(END, status=429, json={"error": "x"}, headers={"Retry-After": "1"})
    with pytest.raises(ApiError):
        rest.end_session("vs_1", 5, timeout=1.5)
    assert waits == [1.0]


def test_closing_ends_a_wait(gateway: responses.RequestsMock) -> None:
    """`close()` from another thread wakes a call that waits for its replay, and the refusal is raised."""
    asked = threading.Event()

    def slow_down(_: requests.PreparedRequest) -> tuple[int, dict[str, str], str]:
        asked.set()
        return 429, {"Retry-After": "30"}, '{"error": "rate_limited"}'

    gateway.add_callback(responses.POST, SESSION, slow_down)
    rest = RestClient(KEY, base_url=BASE)
    caught: list[ApiError] = []

    def call() -> None:
        try:
            rest.create_session()
        except ApiError as error:
            caught.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert asked.wait(10)
    rest.close()
    caller.join(10)
    assert not caller.is_alive()
    assert [error.status_code for error in caught] == [429]


def test_a_closed_client_sends_nothing(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """After the `with` block every call raises, and says to make a new client."""
    with rest as same:
        assert same is rest
    with pytest.raises(NotConnectedError, match="make a new one") as caught:
        rest.create_session()
    assert caught.value.code == "closed"


# -- the network -------------------------------------------------------------------------------------------------------------


def test_a_slow_answer_meets_one_deadline() -> None:
    """A server that sends a byte now and then does not hold a call longer than its timeout."""
    dripping = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b" " * 500:
            connection.sendall(bytes([byte]))
            if dripping.wait(0.05):
                return

    with raw_server(drip) as (url, _):
        with pytest.raises(RealtimeTimeoutError, match="raise timeout") as caught:
            RestClient(KEY, base_url=url, timeout=0.5).create_session()
        dripping.set()
    assert isinstance(caught.value, TimeoutError)


def test_a_busy_answer_meets_the_same_deadline() -> None:
    """A server that never stops sending single bytes never makes a read wait, and is cut off all the same."""

    def flood(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n")
        for _ in range(900_000):
            connection.sendall(b" ")

    with raw_server(flood) as (url, _), pytest.raises(RealtimeTimeoutError):
        RestClient(KEY, base_url=url, timeout=0.1).create_session()


def test_a_silent_server_meets_the_timeout_of_the_call() -> None:
    """The timeout of one call is shorter than the client's, and holds."""
    silence = threading.Event()
    with raw_server(lambda connection, _: silence.wait(10) and None) as (url, _):
        with pytest.raises(RealtimeTimeoutError):
            RestClient(KEY, base_url=url).end_session("vs_1", 1, timeout=0.2)
        silence.set()


def test_an_endless_answer_is_cut_off() -> None:
    """An answer of more than a mebibyte is refused before it is in memory."""

    def flood(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b" " * 65_536)

    with raw_server(flood) as (url, _), pytest.raises(ConnectError, match="larger than"):
        RestClient(KEY, base_url=url).create_session()


def test_a_redirect_is_not_followed() -> None:
    """A redirect is an error: the key goes to the address it was meant for, and to no other."""

    def redirect(connection: socket.socket, _: bytes) -> None:
        connection.sendall(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n")

    with raw_server(redirect) as (url, got):
        with pytest.raises(ApiError) as caught:
            RestClient(KEY, base_url=url).create_session()
    assert caught.value.status_code == 307
    assert len(got) == 1


def test_nobody_there_is_a_connect_error() -> None:
    """A refused connection says so in words."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectError, match="refused"):
        RestClient(KEY, base_url=f"http://127.0.0.1:{port}").create_session()


def test_no_tls_is_a_connect_error() -> None:
    """A server that does not speak TLS is named, with code `tls_failed`."""
    with raw_server(lambda connection, _: connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as (url, _):
        with pytest.raises(ConnectError) as caught:
            RestClient(KEY, base_url=url.replace("http:", "https:")).create_session()
    assert caught.value.code == "tls_failed"


def test_a_missing_ca_bundle_is_the_programs_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA bundle that is not there is named, whether given or from the environment."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with raw_server(lambda *_: None) as (url, _):
        for verify in (True, "/nowhere/ca.pem"):
            with pytest.raises(ConfigError) as caught:
                RestClient(KEY, base_url=url.replace("http:", "https:"), verify=verify).create_session()
            assert caught.value.code == "invalid_ca_bundle"


def answer_ok(connection: socket.socket, _: bytes) -> None:
    """Answer with an empty object and a cookie."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 2\r\n\r\n{}")


def test_loopback_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment does not stand between a program and its own machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with raw_server(answer_ok) as (url, got):
        RestClient(KEY, base_url=url).create_session()
    assert got[0].startswith(b"POST /qai/v1/realtime/session HTTP/1.1\r\n")


def test_other_machines_are_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy of the environment is used, unless the program says there is none."""
    with raw_server(answer_ok) as (url, got):
        monkeypatch.setenv("http_proxy", url)
        RestClient(KEY, base_url="http://gateway.invalid", allow_insecure=True).create_session()
    assert got[0].startswith(b"POST http://gateway.invalid/qai/v1/realtime/session HTTP/1.1\r\n")
    with pytest.raises(ConnectError):
        RestClient(KEY, base_url="http://gateway.invalid", allow_insecure=True, proxy="", timeout=5).create_session()


def test_a_proxy_can_be_given() -> None:
    """A proxy that is given applies to loopback too, and one that fails is named without its password."""
    with raw_server(answer_ok) as (url, got):
        RestClient(KEY, base_url="http://127.0.0.1:1", proxy=url).create_session()
    assert got[0].startswith(b"POST http://127.0.0.1:1/")
    with pytest.raises(ConnectError) as caught:
        RestClient(KEY, base_url=BASE, proxy="http://user:hunter2@127.0.0.1:1").create_session()
    assert caught.value.code == "proxy_failed"
    assert "hunter2" not in str(caught.value)


def test_a_socks_proxy_without_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PySocks is not installed, a SOCKS proxy is the program's error, with the line that installs it."""

    def refuse(*_: object, **__: object) -> None:
        raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")

    monkeypatch.setattr("requests.adapters.SOCKSProxyManager", refuse)
    with pytest.raises(ConfigError, match=r"pip install 'qai-realtime-sync\[proxy\]'") as caught:
        RestClient(KEY, base_url=BASE, proxy="socks5://127.0.0.1:1").create_session()
    assert caught.value.code == "missing_dependency"


def test_a_socks_proxy_is_asked() -> None:
    """With PySocks the proxy is spoken to in its own words: version 5, then the methods."""
    pytest.importorskip("socks", reason="needs PySocks")
    with raw_server(lambda connection, _: connection.sendall(b"\x05\xff")) as (url, got):
        with pytest.raises(ConnectError):
            RestClient(KEY, base_url="http://127.0.0.1:1", proxy=url.replace("http:", "socks5:"), timeout=5).create_session()
    assert got[0][:1] == b"\x05"


@pytest.mark.parametrize(
    ("problem", "expected"),
    [(OSError("boom"), ConnectError), (TimeoutError("late"), RealtimeTimeoutError), (ZeroDivisionError("bug"), ZeroDivisionError)],
)
def test_what_a_session_of_the_caller_raises(problem: Exception, expected: type[Exception]) -> None:
    """Errors of the network are translated; a bug in the caller's own session stays what it is."""

    class Own(requests.Session):
        def post(self, *_: Any, **__: Any) -> Any:
            raise problem

    with Own() as own, pytest.raises(expected):
        RestClient(KEY, base_url=BASE, session=own).create_session()


def test_netrc_does_not_replace_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Credentials in netrc are ignored, also with a session of the caller's that trusts the environment."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with raw_server(answer_ok) as (url, got):
        RestClient(KEY, base_url=url).create_session()
    with requests.Session() as own, raw_server(answer_ok) as (url, also):
        RestClient(KEY, base_url=url, session=own).create_session()
    for request in (got[0], also[0]):
        assert f"Authorization: Bearer {KEY}\r\n".encode() in request
        assert b"Basic" not in request


def test_cookies_are_not_kept() -> None:
    """A cookie of one answer does not go with the next request."""
    with raw_server(answer_ok) as (url, _):
        rest = RestClient(KEY, base_url=url)
        rest.create_session()
    with raw_server(answer_ok) as (url, got):
        rest = RestClient(KEY, base_url=url)
        rest.create_session()
    assert b"Cookie" not in got[0]


def test_a_session_of_the_caller_is_used_and_left_open(gateway: responses.RequestsMock) -> None:
    """The caller's own session sends the request, and stays the caller's to close."""
    closed = []

    class Own(requests.Session):
        def close(self) -> None:
            closed.append(True)
            super().close()

    gateway.post(SESSION, json={})
    with Own() as own:
        with RestClient(KEY, base_url=BASE, session=own) as rest:
            rest.create_session()
        assert not closed


# -- TLS of the caller's own -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[tuple[str, list[Any]]]:
    """Serve one request over TLS; give the address, and what was seen: the client's certificate and the protocol it asked for."""
    seen: list[Any] = []

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as wrapped:
            seen.extend((wrapped.getpeercert(), wrapped.selected_alpn_protocol()))
            request = b""
            while not request.endswith(b"{}"):
                piece = wrapped.recv(65_536)
                if not piece:
                    return
                request += piece
            wrapped.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 22\r\n\r\n{"session_id": "vs_1"}')

    def serve() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.settimeout(10)
            with connection, contextlib.suppress(OSError):
                talk(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="tls-server", daemon=True)
        thread.start()
        try:
            yield f"https://127.0.0.1:{listener.getsockname()[1]}", seen
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join(15)


@pytest.fixture(scope="module")
def authority() -> Any:
    """A certificate authority that nobody else trusts."""
    return pytest.importorskip("trustme", reason="needs trustme").CA()


def serving_context(authority: Any, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


def trusting_context(authority: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def test_a_context_of_the_caller_says_whom_to_trust(authority: Any) -> None:
    """Its authority is trusted, and without it the same server is not."""
    with tls_server(serving_context(authority)) as (url, _):
        assert RestClient(KEY, base_url=url, ssl_context=trusting_context(authority)).create_session().session_id == "vs_1"
    for context in (ssl.create_default_context(), None):
        with tls_server(serving_context(authority)) as (url, seen):
            with pytest.raises(ConnectError) as caught:
                RestClient(KEY, base_url=url, ssl_context=context).create_session()
        assert caught.value.code == "tls_failed"
        assert seen == []


@pytest.mark.parametrize("environment", ["", "/nowhere/ca.pem"])
def test_a_session_of_the_caller_says_whom_to_trust(
    authority: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    """Its own `verify` counts, also before a bundle of the environment, unless another is given; a context would not reach it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", environment)
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with requests.Session() as own:
        own.verify = str(bundle)
        with tls_server(serving_context(authority)) as (url, _):
            assert RestClient(KEY, base_url=url, session=own).create_session().session_id == "vs_1"
        own.verify = "/nowhere/ca.pem"
        with tls_server(serving_context(authority)) as (url, _):
            assert RestClient(KEY, base_url=url, session=own, verify=str(bundle)).create_session().session_id == "vs_1"
        with pytest.raises(ConfigError, match="ssl_context= does not reach a session of your own"):
            RestClient(KEY, base_url=BASE, session=own, ssl_context=trusting_context(authority))


def test_a_context_of_the_caller_trusts_nobody_else(authority: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of the environment, or of `verify`, is not added to it."""
    bundle = tmp_path / "bundle.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for verify in (True, str(bundle)):
        with tls_server(serving_context(authority)) as (url, _):
            with pytest.raises(ConnectError) as caught:
                RestClient(KEY, base_url=url, ssl_context=nobody, verify=verify).create_session()
        assert caught.value.code == "tls_failed"
    assert nobody.get_ca_certs() == []


@pytest.mark.parametrize("strict", [True, False])
def test_a_context_of_the_caller_is_left_as_it_was(authority: Any, strict: bool) -> None:
    """Whatever it says of authorities, verification and protocols holds, and it may be used elsewhere afterwards."""
    context = trusting_context(authority)
    if not strict:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    names = ("verify_mode", "check_hostname", "options", "verify_flags", "minimum_version", "maximum_version")
    before = [getattr(context, name) for name in names], context.get_ca_certs(), context.get_ciphers()
    warned = contextlib.nullcontext() if strict else pytest.warns(urllib3.exceptions.InsecureRequestWarning)
    with tls_server(serving_context(authority)) as (url, seen), warned:  # type: ignore[attr-defined]
        RestClient(KEY, base_url=url, ssl_context=context).create_session()
    assert seen[1] is None, "ALPN was set in the caller's context"
    assert ([getattr(context, name) for name in names], context.get_ca_certs(), context.get_ciphers()) == before


def test_the_name_counts_if_the_context_says_so(authority: Any) -> None:
    """A certificate for another name is refused, unless the context does not look at names."""
    careless = trusting_context(authority)
    careless.check_hostname = False
    for context, refused in ((trusting_context(authority), True), (careless, False)):
        with tls_server(serving_context(authority, "other.example")) as (url, _):
            rest = RestClient(KEY, base_url=url, ssl_context=context)
            if refused:
                with pytest.raises(ConnectError) as caught:
                    rest.create_session()
                assert caught.value.code == "tls_failed"
            else:
                assert rest.create_session().session_id == "vs_1"


def test_a_certificate_of_the_client_is_shown(authority: Any) -> None:
    """A gateway that wants one gets the context's, and refuses who has none."""
    wanting = serving_context(authority)
    authority.configure_trust(wanting)
    wanting.verify_mode = ssl.CERT_REQUIRED
    context = trusting_context(authority)
    authority.issue_cert("client@example.com").configure_cert(context)
    with tls_server(wanting) as (url, seen):
        RestClient(KEY, base_url=url, ssl_context=context).create_session()
    assert seen[0]["subjectAltName"] == (("email", "client@example.com"),)
    with tls_server(wanting) as (url, _):
        with pytest.raises(ConnectError):
            RestClient(KEY, base_url=url, ssl_context=trusting_context(authority)).create_session()


def test_a_context_holds_behind_a_proxy_too(authority: Any) -> None:
    """Through CONNECT the same context decides about the gateway behind it."""
    with tls_server(serving_context(authority)) as (url, _):
        port = int(url.rpartition(":")[2])

        def tunnel(connection: socket.socket, request: bytes) -> None:
            with socket.create_connection(("127.0.0.1", port)) as behind:
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_pass_on, args=(behind, connection))
                back.start()
                _pass_on(connection, behind)
                back.join(10)

        with raw_server(tunnel) as (proxy, got):
            rest = RestClient(KEY, base_url=url, proxy=proxy, ssl_context=trusting_context(authority))
            assert rest.create_session().session_id == "vs_1"
    assert got[0].startswith(b"CONNECT 127.0.0.1:")
    assert KEY.encode() not in got[0]


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_a_minting_client_hands_its_context_to_both_sides(authority: Any) -> None:
    """REST and WebSocket trust the same authority: the client's own context serves both."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    from qai_realtime_sync import RealtimeClient
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, tls=True) as server:
        context = ssl.create_default_context(cadata=server.certificate)
        with RealtimeClient(KEY, base_url=server.url, mint=True, ssl_context=context) as client:
            assert client.is_connected
        assert [one["ended"] for one in server.ledger.sessions()] == [1]


# -- secrets -----------------------------------------------------------------------------------------------------------------


def test_no_error_holds_the_key(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """Neither text, nor attributes, nor pickle, nor the chain of an error holds the key."""
    gateway.post(SESSION, body=requests.ConnectionError(f"could not reach with Bearer {KEY}"))
    gateway.post(SESSION, status=401, json={"error": {"message": f"the key {KEY} is wrong, Bearer abc", "code": "invalid_key"}})
    for _ in range(2):
        with pytest.raises((ConnectError, ApiError)) as caught:
            rest.create_session()
        error = caught.value
        assert error.__cause__ is None
        assert error.__context__ is None
        shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error)) + repr(pickle.dumps(error))
        assert KEY not in shown
        assert "Bearer abc" not in shown


def test_a_refusal_can_be_pickled(gateway: responses.RequestsMock, rest: RestClient) -> None:
    """An ApiError survives a pickle with all it says, for task queues."""
    gateway.post(SESSION, status=402, json={"error": "balance_zero", "message": "M"}, headers={"X-QAI-Request-Id": "r"})
    with pytest.raises(ApiError) as caught:
        rest.create_session()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.status_code, copy.code) == (str(caught.value), 402, "balance_zero")


def test_no_log_holds_a_secret(gateway: responses.RequestsMock, rest: RestClient, caplog: pytest.LogCaptureFixture) -> None:
    """With every logger at DEBUG neither key nor token is written, and a replay is told."""
    caplog.set_level(logging.DEBUG)
    gateway.post(SESSION, status=429, json={"error": "x"})
    gateway.post(SESSION, json={"ephemeral_token": "tok_456", "session_id": "vs_1"})
    rest.create_session()
    assert KEY not in caplog.text
    assert "tok_456" not in caplog.text
    assert "replay 1 of 3" in caplog.text


def test_no_text_form_of_the_client_holds_the_key(rest: RestClient) -> None:
    """Neither the client nor any of its attributes shows the key, and it cannot be pickled."""
    assert KEY not in repr(rest) + repr(vars(rest))
    with pytest.raises(TypeError, match="make a new one"):
        pickle.dumps(rest)


# -- processes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_may_use_its_parents_client() -> None:
    """Nothing is shared over a fork: the child's call goes over a connection of its own."""
    with raw_server(answer_ok) as (url, _):
        rest = RestClient(KEY, base_url=url)
        rest.create_session()
    with raw_server(answer_ok) as (url, got):
        rest = RestClient(KEY, base_url=url)
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                rest.create_session()
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(got) == 1
