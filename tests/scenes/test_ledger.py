"""Minted sessions against the local server: what it charges, what it refuses, what expires, and that its ledger comes out even."""

from __future__ import annotations

import json
import logging
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from qai_realtime_sync import AudioDelta, RealtimeClient, RealtimeConfig, ReconnectPolicy, transport
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectionClosedError
from qai_realtime_sync.events import Closed, Reconnected, Reconnecting, ResponseDone
from qai_realtime_sync.rest import RestClient

pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")

from qai_realtime_sync.offline import RealtimeServer, Script
from tests.faults.proxy import RST, FaultProxy

KEY = "qai_ledger"
PATIENCE = 15.0
MINUTE = 500_000_000  # ticks


@pytest.fixture
def serve() -> Iterator[Callable[..., RealtimeServer]]:
    """Start light servers that want a key; they are stopped at the end."""
    running: list[RealtimeServer] = []

    def start(**options: Any) -> RealtimeServer:
        running.append(RealtimeServer(light=True, key=KEY, **options).start())
        return running[-1]

    yield start
    for server in running:
        server.stop()


def minting(server: RealtimeServer, config: RealtimeConfig | None = None, **options: Any) -> RealtimeClient:
    """A client that mints its sessions at this server."""
    return RealtimeClient(KEY, config, base_url=server.url, mint=True, **{"provider": "xai", "connect_timeout": PATIENCE, **options})


def rest_of(server: RealtimeServer) -> RestClient:
    return RestClient(KEY, base_url=server.url, timeout=PATIENCE)


def settle(client: RealtimeClient) -> None:
    """Wait until a client is over and has paid."""
    assert client._call.over.wait(PATIENCE)
    billing = client._call.billing
    assert billing is not None
    assert billing.wait(PATIENCE)


# -- REST on a real port -----------------------------------------------------------------------------------------------------------


def test_a_session_on_a_real_port(serve: Callable[..., RealtimeServer]) -> None:
    """Minted with the reference's fields: address to dial, a token in no text form, an id that is visible."""
    server = serve()
    session = rest_of(server).create_session(model="grok-voice-latest")
    assert session.ws_url == server.base_ws_url + "/v1/realtime"
    assert session.ephemeral_token
    assert session.ephemeral_token not in repr(session) + str(session)
    assert session.session_id in repr(session)
    assert (session.model, session.voice, session.expires_in) == ("grok-voice-latest", "Sal", 300.0)


def test_a_session_of_elevenlabs_on_a_real_port(serve: Callable[..., RealtimeServer]) -> None:
    """The address to dial is the signed one, and it is masked."""
    server = serve()
    session = rest_of(server).create_session("elevenlabs", voice="Eve")
    assert session.ws_url.startswith(server.base_ws_url + "/v1/convai/conversation?")
    assert session.provider == "elevenlabs"
    assert session.ephemeral_token == ""
    assert "signature" not in repr(session)


def test_a_duration_arrives_in_whole_seconds(serve: Callable[..., RealtimeServer]) -> None:
    """12.0 arrives as 12, 12.2 as 13."""
    server = serve()
    rest = rest_of(server)
    for seconds in (12.0, 12.2):
        rest.end_session(rest.create_session().session_id, seconds)
    told = [session["duration_seconds"] for session in server.ledger.sessions()]
    assert told == [12, 13]
    assert [type(seconds) for seconds in told] == [int, int]


def test_a_refreshed_token_opens_the_door(serve: Callable[..., RealtimeServer]) -> None:
    """It is another one than before, and both are good while they live."""
    server = serve()
    rest = rest_of(server)
    session = rest.create_session()
    token = rest.refresh_session(session.session_id)
    assert token != session.ephemeral_token
    for each in (token, session.ephemeral_token):
        RealtimeClient.direct(session.ws_url, each, dialect="xai").connect().close()
    (told,) = server.ledger.sessions()
    assert (told["refreshed"], told["connections"]) == (1, 2)


def test_an_unknown_session_is_a_404_that_end_tolerates(serve: Callable[..., RealtimeServer]) -> None:
    """`refresh` of it raises, `end` of it does not, also the second time."""
    rest = rest_of(serve())
    with pytest.raises(ApiError) as caught:
        rest.refresh_session("vs_nobody")
    assert caught.value.is_not_found
    rest.end_session("vs_nobody", 1)
    session_id = rest.create_session().session_id
    rest.end_session(session_id, 1)
    rest.end_session(session_id, 1)
    with pytest.raises(ApiError):
        rest.refresh_session(session_id)


def test_a_wrong_key_is_refused_with_a_request_id(serve: Callable[..., RealtimeServer]) -> None:
    """401 in the gateway's envelope, with what to quote to support."""
    with pytest.raises(ApiError) as caught:
        RestClient("qai_wrong", base_url=serve().url).create_session()
    error = caught.value
    assert (error.status_code, error.code, error.is_auth) == (401, "invalid_key", True)
    assert error.request_id.startswith("req")
    assert str(error) == f"qai: 401 invalid_key: {error.message} (request_id={error.request_id})"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("session", "[1]"),
        ("session", "{"),
        ("refresh", "{}"),
        ("end", '{"session_id": "vs_1", "duration_seconds": 12.0}'),
        ("end", '{"session_id": "vs_1", "duration_seconds": -1}'),
        ("end", '{"session_id": "vs_1", "duration_seconds": true}'),
        ("end", '{"duration_seconds": 1}'),
    ],
)
def test_a_wrong_body_is_a_400_in_the_gateways_envelope(serve: Callable[..., RealtimeServer], path: str, body: str) -> None:
    """Code, type and message under `error`, and a request id beside it."""
    server = serve()
    answer = requests.post(f"{server.url}/qai/v1/realtime/{path}", data=body, headers={"X-API-Key": KEY}, timeout=20)
    assert answer.status_code == 400
    assert answer.headers["X-QAI-Request-Id"].startswith("req")
    error = answer.json()["error"]
    assert error["code"] == error["type"] == "invalid_request"
    assert error["message"]


@pytest.mark.parametrize("path", ["/", "/ledger", "/nowhere", "/qai/v1/realtime", "/v1/realtime"])
def test_every_answer_has_a_request_id(serve: Callable[..., RealtimeServer], path: str) -> None:
    """Whatever was asked, and whoever asked."""
    answer = requests.get(serve().url + path, timeout=20)
    assert answer.headers["X-QAI-Request-Id"].startswith("req")


def test_a_balance_that_does_not_pay_a_minute_is_a_402_at_minting(serve: Callable[..., RealtimeServer]) -> None:
    """Two minutes of money are two sessions; a third is refused, and so is a refresh and a call through the proxy."""
    server = serve(balance_ticks=2 * MINUTE)
    rest = rest_of(server)
    session = rest.create_session()
    assert (rest.last_response.cost_ticks, rest.last_response.balance_after) == (MINUTE, MINUTE)
    rest.create_session()
    for call in (rest.create_session, lambda: rest.refresh_session(session.session_id)):
        with pytest.raises(ApiError) as caught:
            call()
        assert (caught.value.status_code, caught.value.code) == (402, "INSUFFICIENT_BALANCE")
        assert caught.value.is_insufficient_balance
    with pytest.raises(ApiError) as caught:
        RealtimeClient(KEY, base_url=server.url).connect()
    assert (caught.value.status_code, caught.value.code) == (402, "INSUFFICIENT_BALANCE")
    assert caught.value.request_id


def test_end_charges_the_longer_time_less_the_first_minute(serve: Callable[..., RealtimeServer]) -> None:
    """125 s are three begun minutes, of which one was paid at minting; the balance may fall below nothing."""
    server = serve(balance_ticks=2 * MINUTE)
    rest = rest_of(server)
    rest.end_session(rest.create_session().session_id, 125)
    assert (rest.last_response.cost_ticks, rest.last_response.balance_after) == (2 * MINUTE, -MINUTE)


def test_too_many_sessions_are_a_429_with_retry_after(serve: Callable[..., RealtimeServer]) -> None:
    """The second minting in a (shortened) minute waits as long as it is told, and comes with the same key."""
    server = serve(mint_rate_limit=1, minute=1.0)
    waited: list[float] = []
    gone_by = threading.Event()

    def wait(seconds: float) -> None:
        waited.append(seconds)
        gone_by.wait(seconds)

    rest = RestClient(KEY, base_url=server.url, wait=wait)
    rest.create_session()
    rest.create_session()
    assert waited == [1.0]
    first, refused, replayed = server.ledger.requests()
    assert [one["status"] for one in (first, refused, replayed)] == [200, 429, 200]
    assert refused["idempotency_key"] == replayed["idempotency_key"] != first["idempotency_key"]
    assert len(server.ledger.sessions()) == 2


def test_an_expired_token_is_refused_at_the_upgrade(serve: Callable[..., RealtimeServer]) -> None:
    """401 EPHEMERAL_EXPIRED; a refresh gives one that is good."""
    server = serve(token_life=2.0)
    rest = rest_of(server)
    session = rest.create_session()
    threading.Event().wait(2.1)
    with pytest.raises(ApiError) as caught:
        RealtimeClient.direct(session.ws_url, session.ephemeral_token, dialect="xai").connect()
    assert (caught.value.status_code, caught.value.code) == (401, "EPHEMERAL_EXPIRED")
    token = rest.refresh_session(session.session_id)
    RealtimeClient.direct(session.ws_url, token, dialect="xai").connect().close()


def test_a_server_without_a_key_knows_its_expired_tokens() -> None:
    """Anybody may enter, but not with a token that is over."""
    with RealtimeServer(light=True, token_life=0.05) as server:
        session = RestClient("any", base_url=server.url).create_session()
        threading.Event().wait(0.1)
        with pytest.raises(ApiError) as caught:
            RealtimeClient.direct(session.ws_url, session.ephemeral_token, dialect="xai").connect()
        assert caught.value.code == "EPHEMERAL_EXPIRED"


def test_the_ledger_is_read_over_http_too(serve: Callable[..., RealtimeServer]) -> None:
    """Another process sees what a test in this one sees; the key is wanted."""
    server = serve(balance_ticks=MINUTE)
    minting(server).connect().close()
    assert requests.get(server.url + "/ledger", timeout=20).status_code == 401
    told = requests.get(server.url + "/ledger", headers={"X-API-Key": KEY}, timeout=20).json()
    assert told["sessions"] == server.ledger.sessions()
    assert told["balance_ticks"] == 0
    (session,) = told["sessions"]
    assert set(session) >= {"id", "minted_at", "refreshed", "ended", "duration_seconds", "connections", "provider"}
    assert (session["ended"], session["duration_seconds"], session["connections"]) == (1, 1, 1)
    assert [one["path"].rpartition("/")[2] for one in told["requests"]] == ["session", "end"]


@pytest.mark.parametrize(
    "option",
    [{"token_life": 0}, {"token_life": "5"}, {"minute": -1}, {"balance_ticks": 0.5}, {"balance_ticks": -1}, {"mint_rate_limit": True}],
)
def test_an_impossible_tariff_is_refused(option: dict[str, Any]) -> None:
    """It is told by the constructor, with the option's name."""
    (name,) = option
    with pytest.raises(ConfigError, match=name):
        RealtimeServer(light=True, **option)


# -- money and tokens in a running call ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mint", [True, False])
def test_a_call_ends_when_the_money_does(serve: Callable[..., RealtimeServer], mint: bool) -> None:
    """The gateway's words come in the close frame, mean quota, and are not worth a reconnect; a minted session is ended all the same."""
    server = serve(balance_ticks=3 * MINUTE, minute=0.2)
    client = RealtimeClient(KEY, base_url=server.url, mint=mint, provider="xai").connect()
    closed = client.wait(PATIENCE)
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.meaning, closed.by) == ("insufficient balance", "quota", "service")
    client.close()
    if mint:
        (session,) = server.ledger.sessions()
        assert (session["ended"], session["connections"], session["paid_minutes"] >= 3) == (1, 1, True)
    else:
        assert server.ledger.balance == 0


def tell_a_story(server_options: dict[str, Any], serve: Callable[..., RealtimeServer]) -> RealtimeServer:
    """A server that speaks for about seven seconds when it is asked for a story."""
    script = Script()
    script.on_text("story").say("Once upon a time there was a long story, " + "and it went on and on, " * 4 + "until it ended.")
    return serve(script=script, pace=1.0, **server_options)


def test_a_conversation_longer_than_three_tokens_goes_on_without_a_gap(serve: Callable[..., RealtimeServer]) -> None:
    """The server would cut a call whose token is not refreshed: over more than three lives all sound arrives, on one connection."""
    life = 2.0
    server = tell_a_story({"token_life": life, "cut_expired": True}, serve)
    client = minting(server)
    arrived: list[tuple[float, int]] = []
    lost: list[object] = []
    client.on(AudioDelta, lambda event: arrived.append((time.monotonic(), len(event.audio))))
    client.on(Reconnecting, lost.append)
    with client:
        started = time.monotonic()
        client.send_text("Tell me a story")
        done = client.wait_for(ResponseDone, 2 * PATIENCE)
        took = time.monotonic() - started
        assert done.status == "completed"
        (item,) = [item for item in server.conversations[0]["items"] if item["role"] == "assistant"]
        heard_ms = sum(size for _, size in arrived) / 48
        assert heard_ms == pytest.approx(item["generated_ms"], abs=1.0), "sound is missing"
        assert heard_ms / 1000 > 3 * life
        gaps = [later - earlier for (earlier, _), (later, _) in zip(arrived, arrived[1:])]
        assert max(gaps) < 2.0, f"{max(gaps):.2f} s of silence"
    (session,) = server.ledger.sessions()
    assert lost == []
    assert session["refreshed"] >= 3
    assert (session["ended"], session["connections"]) == (1, 1)
    sys.stdout.write(
        f"\n{took:.2f} s = {took / life:.1f} token lives, {session['refreshed']} refreshes, {session['connections']} connection, "
        f"{heard_ms:.0f} of {item['generated_ms']:.0f} ms heard, longest pause between two pieces {max(gaps) * 1000:.0f} ms\n"
    )


def test_without_a_refresh_such_a_call_is_cut(serve: Callable[..., RealtimeServer]) -> None:
    """The same server ends the call of a client that only has the first token, when that expires."""
    server = tell_a_story({"token_life": 2.0, "cut_expired": True}, serve)
    session = rest_of(server).create_session()
    client = RealtimeClient.direct(session.ws_url, session.ephemeral_token, dialect="xai").connect()
    client.send_text("Tell me a story")
    closed = client.wait(PATIENCE)
    assert isinstance(closed, Closed)
    assert (closed.reason, closed.meaning) == ("ephemeral token expired", "auth")


def test_without_that_option_a_running_call_outlives_its_token(serve: Callable[..., RealtimeServer]) -> None:
    """A token is looked at when the call is opened: by default nobody is cut off."""
    server = tell_a_story({"token_life": 2.0}, serve)
    session = rest_of(server).create_session()
    with RealtimeClient.direct(session.ws_url, session.ephemeral_token, dialect="xai") as client:
        client.send_text("Tell me a story")
        assert client.wait_for(ResponseDone, PATIENCE).status == "completed"


def test_a_signed_address_is_minted_anew_after_a_loss(serve: Callable[..., RealtimeServer]) -> None:
    """ElevenLabs: what the loss left is ended first, then another is minted; each is ended once, each had one connection."""
    server = serve()
    client = minting(server, provider="elevenlabs", reconnect=ReconnectPolicy(base=0.01, cap=0.01))
    with client:
        first = client.session.session_id
        connection = client._call.connection
        assert connection is not None
        connection.abort()
        client.wait_for(Reconnected, PATIENCE)
        assert client.session.session_id != first
    told = server.ledger.sessions()
    assert [(one["provider"], one["ended"], one["connections"]) for one in told] == [("elevenlabs", 1, 1)] * 2
    assert [one["path"].rpartition("/")[2] for one in server.ledger.requests()] == ["session", "end", "session", "end"]


# -- a hundred conversations --------------------------------------------------------------------------------------------------------

EACH = 10


def closes(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """By close()."""
    minting(server).connect().close()


def closes_twice(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """By close() from two threads, and once more."""
    client = minting(server).connect()
    threads = [threading.Thread(target=client.close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()


def ends_by_an_error(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """The service reports a fatal error and hangs up."""
    client = minting(short, reconnect=False).connect()
    closed = client.wait(PATIENCE)
    assert closed is not None
    assert closed.meaning == "session_cap"
    settle(client)


def handler_raises(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """A handler raises, and that ends the conversation."""
    client = minting(server, on_handler_error="close")

    @client.on("response_created")
    def fail(event: object) -> None:
        raise ValueError("a bug of the program")

    client.connect()
    client.send_text("Hello")
    assert client.wait(PATIENCE) is not None
    settle(client)


def line_is_lost(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """The line breaks in the middle, without a word."""
    with FaultProxy(server.port) as line:

        def dial(url: str, **rest: Any) -> Any:
            return transport.connect(url.replace(f":{server.port}", f":{line.port}"), **rest)

        client = minting(server, reconnect=False, dialer=dial).connect()
        line.end_all(RST)
        closed = client.wait(PATIENCE)
        assert closed is not None
        assert closed.meaning == "lost"
        settle(client)


def upgrade_is_refused(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """The service does not take the token that the gateway has given."""

    def dial(url: str, *, headers: dict[str, str], **rest: Any) -> Any:
        return transport.connect(url, headers={**headers, "Authorization": "Bearer ek_of_somebody_else"}, **rest)

    client = minting(server, dialer=dial)
    with pytest.raises(ApiError) as caught:
        client.connect()
    assert caught.value.code == "invalid_key"
    settle(client)


def token_is_expired(server: RealtimeServer, short: RealtimeServer, stale: RealtimeServer) -> None:
    """The token is over before it is shown."""
    elapsed = threading.Event()

    def dial(url: str, **rest: Any) -> Any:
        elapsed.wait(0.2)
        return transport.connect(url, **rest)

    client = minting(stale, dialer=dial)
    with pytest.raises(ApiError) as caught:
        client.connect()
    assert caught.value.code == "EPHEMERAL_EXPIRED"
    settle(client)


IN_PROCESS = (closes, closes_twice, ends_by_an_error, handler_raises, line_is_lost, upgrade_is_refused, token_is_expired)

PROGRAM = """
    import sys, threading
    from qai_realtime_sync import RealtimeClient

    def open_one():
        return RealtimeClient(sys.argv[1], base_url=sys.argv[2], mint=True, provider="xai", connect_timeout=30.0).connect()

    clients = [open_one() for _ in range(5)]
    print("open", flush=True)
    {leave}
"""
LEAVINGS = {
    "Ctrl-C": "threading.Event().wait(60)",
    "sys.exit": "sys.exit(3)",
    "exception in main": "raise RuntimeError('a bug of the program')",
}


def leave_processes(server: RealtimeServer) -> None:
    """Six processes with five conversations each: two end by Ctrl-C, two by sys.exit, two by an exception."""
    running = []
    try:
        for way, leave in [*LEAVINGS.items()] * 2:
            program = textwrap.dedent(PROGRAM).format(leave=leave)
            command = [sys.executable, "-c", program, KEY, server.url]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            running.append((way, process))
        for way, process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n", way
            if way == "Ctrl-C":
                process.send_signal(signal.SIGINT)
        for way, process in running:
            try:
                _, errors = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                # A signal that comes in the very moment before a lock is waited for is seen by CPython only with the next one.
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=30)
            assert process.returncode == {"Ctrl-C": -signal.SIGINT, "sys.exit": 3, "exception in main": 1}[way], errors
    finally:
        for _, process in running:
            process.kill()
            process.communicate()


def test_a_hundred_conversations_that_end_in_ten_ways(serve: Callable[..., RealtimeServer], caplog: pytest.LogCaptureFixture) -> None:
    """Ten conversations end in each of ten ways: a hundred sessions, each ended exactly once, in whole seconds."""
    caplog.set_level(logging.ERROR, "qai_realtime_sync")
    server, short, stale = serve(), serve(session_cap=2.0), serve(token_life=0.1)
    servers = (server, short, stale)
    counted: dict[str, int] = {}

    def count(way: str) -> None:
        counted[way] = sum(len(one.ledger.sessions()) for one in servers) - sum(counted.values())

    for way in IN_PROCESS:
        threads = [threading.Thread(target=way, args=servers) for _ in range(EACH)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count(way.__name__)
    leave_processes(server)
    count("processes")
    sessions = [session for one in servers for session in one.ledger.sessions()]
    assert counted == {**{way.__name__: EACH for way in IN_PROCESS}, "processes": 3 * EACH}
    assert len(sessions) == 100
    assert [one["id"] for one in sessions if one["ended"] != 1] == []
    assert all(type(one["duration_seconds"]) is int and one["duration_seconds"] >= 1 for one in sessions)
    assert not [record for record in caplog.records if "session" in record.getMessage()]
    sys.stdout.write(f"\n{counted}: {len(sessions)} sessions, {sum(one['ended'] for one in sessions)} ends\n")


def test_with_a_dead_network_every_session_is_named(serve: Callable[..., RealtimeServer], caplog: pytest.LogCaptureFixture) -> None:
    """Ten conversations whose gateway is gone when they end: the ledger has no end, and the log names each of the ten, once."""
    server = serve()
    clients = [minting(server, reconnect=False).connect() for _ in range(10)]
    ids = {client.session.session_id for client in clients}
    with caplog.at_level(logging.ERROR, "qai_realtime_sync"):
        server.stop()
        for client in clients:
            settle(client)
    assert [one["ended"] for one in server.ledger.sessions()] == [0] * 10
    lines = [record.getMessage() for record in caplog.records if "could not be ended" in record.getMessage()]
    assert len(lines) == 10
    assert {session_id for session_id in ids for line in lines if session_id in line} == ids


# -- the server as a process --------------------------------------------------------------------------------------------------------


def test_the_options_reach_the_server_process(tmp_path: pathlib.Path) -> None:
    """`serve --token-life … --balance-ticks …` is the same server in a process of its own, and its ledger is read over HTTP."""
    options = "--light --key k --token-life 7 --cut-expired --balance-ticks 900 --ticks-per-minute 400 --minute 30 --mint-rate-limit 9"
    command = [sys.executable, "-m", "qai_realtime_sync", "serve", *options.split()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    try:
        assert process.stdout is not None
        url = next(line.split()[-1] for line in process.stdout if line.startswith("listening on"))
        rest = RestClient("k", base_url=url)
        session = rest.create_session()
        assert session.expires_in == 7.0
        assert (rest.last_response.cost_ticks, rest.last_response.balance_after) == (400, 500)
        rest.end_session(session.session_id, 61)
        told = json.loads(requests.get(url + "/ledger", headers={"X-API-Key": "k"}, timeout=20).text)
        assert told["balance_ticks"] == 500 - 2 * 400
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_call_that_ends_before_it_is_ready_raises(serve: Callable[..., RealtimeServer]) -> None:
    """A call whose money is gone at once never opens, and says why."""
    server = serve(balance_ticks=MINUTE, minute=0.001)
    client = minting(server, reconnect=False)
    try:
        client.connect()
    except (ConnectionClosedError, ApiError) as error:
        assert "insufficient balance" in str(error)
    else:
        closed = client.wait(PATIENCE)
        assert closed is not None
        assert closed.reason == "insufficient balance"
    settle(client)
    assert [one["ended"] for one in server.ledger.sessions()] == [1]
