"""Making and connecting a client: what is wrong is told at once, in words that say what to do."""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.config import Tool
from qai_realtime_sync.errors import (
    ApiError,
    ConfigError,
    ConnectError,
    ConnectionClosedError,
    NotConnectedError,
    RealtimeTimeoutError,
)
from qai_realtime_sync.turns import Turn
from tests.servers import Talk, deaf, ready, refuse, service
from tests.transport.peer import Certificates


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("qai-")]


# -- making one ------------------------------------------------------------------------------------------------------------------


def test_making_a_client_starts_nothing_and_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor has no thread, no socket and no look at the environment, which is read by connect()."""
    monkeypatch.setenv("QAI_API_KEY", "qai_from_env")
    before = set(os.listdir("/proc/self/fd"))
    client = RealtimeClient()
    assert set(os.listdir("/proc/self/fd")) == before
    assert ours() == []
    assert client.state == "idle"
    assert not client.is_connected
    assert client.session_id == ""
    assert repr(client) == "<RealtimeClient idle>"
    assert client._call.options.api_key is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"voise": 1}, "RealtimeClient has no argument 'voise'; it has: .*ping_interval"),
        ({"base_ur": 1}, r"no argument 'base_ur' \(did you mean 'base_url'\?\); it has: api_key, config, base_url, .*allow_insecure$"),
        ({"voice": "Eve"}, r"no argument 'voice': it belongs in RealtimeConfig\(voice=\.\.\.\)"),
        ({"mint": "no"}, "mint must be True or False, not 'no'"),
        ({"allow_insecure": 1}, "allow_insecure must be True or False, not 1"),
        ({"ssl_context": "company.pem"}, r"ssl_context must be an ssl\.SSLContext, not str; for a file .*: ssl\.create_default"),
        ({"config": {"voice": "Eve"}}, "config must be a RealtimeConfig, not dict"),
        ({"api_key": b"qai_x"}, "api_key must be text, not bytes"),
        ({"base_url": 5}, "base_url must be text, not int"),
        ({"provider": None}, "provider must be text, not NoneType"),
        ({"on_handler_error": "ignore"}, "on_handler_error must be one of log, raise, close, not 'ignore'"),
        ({"overflow": "drop"}, "overflow must be 'error' or 'drop_oldest', not 'drop'"),
        ({"reconnect": "yes"}, "reconnect must be True, False or a ReconnectPolicy, not str"),
        ({"connect_timeout": 0}, "connect_timeout must be a number of seconds above 0, not 0"),
        ({"connect_timeout": "5"}, "connect_timeout must be a number of seconds above 0, not '5'"),
        ({"close_timeout": None}, "close_timeout must be a number of seconds above 0, not None"),
        ({"connect_timeout": math.inf}, "connect_timeout must be a number of seconds above 0, not inf"),
        ({"close_timeout": math.inf}, "close_timeout must be a number of seconds above 0, not inf"),
        ({"ping_interval": math.inf}, "ping_interval must be a number of seconds above 0, not inf; None turns it off"),
        ({"pong_timeout": 10**400}, "pong_timeout must be a number of seconds above 0, not 1000"),
        ({"silent_after": -math.inf}, "silent_after must be a number of seconds above 0, not -inf"),
        ({"min_speech": math.inf}, "min_speech must be a number of seconds, 0 or more, not inf"),
        ({"max_audio": math.inf}, "max_audio must be a number of seconds above 0, not inf"),
        ({"close_timeout": True}, "close_timeout must be a number of seconds above 0, not True"),
        ({"ping_interval": -1}, "ping_interval must be a number of seconds above 0, not -1"),
        ({"pong_timeout": float("nan")}, "pong_timeout must be a number of seconds above 0, not nan"),
        ({"min_speech": -0.1}, "min_speech must be a number of seconds, 0 or more, not -0.1"),
        ({"barge_in": "on"}, "barge_in must be True, False or None, not 'on'"),
        ({"max_commands": 0}, "max_commands must be a whole number above 0, not 0"),
        ({"tool_threads": 1.5}, "tool_threads must be a whole number above 0, not 1.5"),
        ({"tool_threads": True}, "tool_threads must be a whole number above 0, not True"),
        ({"headers": {"X-Tenant": 5}}, "headers must be a dict of text to text"),
        ({"headers": ["X-Tenant"]}, "headers must be a dict of text to text"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_argument_is_refused_when_the_client_is_made(options: dict[str, Any], words: str) -> None:
    """The message names the argument, what it may be, and what was given."""
    with pytest.raises(ConfigError, match=words):
        RealtimeClient(**options)


def test_what_may_be_none_may_be_none() -> None:
    """No connect timeout of its own, no pings, no say about barge-in."""
    client = RealtimeClient(connect_timeout=None, ping_interval=None, barge_in=None, headers=None)
    assert client.config == RealtimeConfig()


def test_silence_may_be_told_never() -> None:
    """A limit that nothing waits for may be infinite."""
    assert RealtimeClient(silent_after=math.inf)._call.options.silent_after == math.inf


def test_direct_needs_an_address() -> None:
    """An empty address, or none, is told with an example."""
    for url in ("", None):
        with pytest.raises(ConfigError, match="direct.. needs the address of the service, like wss://") as caught:
            RealtimeClient.direct(url)  # type: ignore[arg-type]
        assert caught.value.code == "invalid_base_url"


# -- the right to connect --------------------------------------------------------------------------------------------------------


def test_without_a_key_connect_says_where_to_put_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing key is told before anything is dialled, and the client may still be used after it was given."""
    monkeypatch.delenv("QAI_API_KEY", raising=False)
    with service() as peer:
        client = RealtimeClient(base_url=peer.base_url)
        with pytest.raises(ConfigError, match="set the environment variable QAI_API_KEY") as caught:
            client.connect()
        assert caught.value.code == "invalid_api_key"
        assert peer.server.accepted == 0
        assert client.state == "idle"
        monkeypatch.setenv("QAI_API_KEY", "qai_from_env")
        with client:
            assert peer.talk().peer.header("authorization") == "Bearer qai_from_env"


def test_address_and_key_come_from_the_environment_if_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """QAI_BASE_URL and QAI_API_KEY stand in; what the program gives wins."""
    with service() as peer:
        monkeypatch.setenv("QAI_BASE_URL", peer.base_url + "/")
        monkeypatch.setenv("QAI_API_KEY", "qai_from_env")
        with RealtimeClient("qai_given", headers={"X-Tenant": "7"}):
            talk = peer.talk()
            assert talk.peer.header("authorization") == "Bearer qai_given"
            assert talk.peer.header("x-tenant") == "7"
            assert b"/qai/v1/realtime" in talk.peer.request


def test_a_key_does_not_travel_unencrypted_off_this_machine() -> None:
    """http:// to another machine is refused, unless the program insists."""
    client = RealtimeClient("qai_x", base_url="http://192.0.2.1")
    with pytest.raises(ConfigError, match="not encrypted") as caught:
        client.connect()
    assert caught.value.code == "insecure_url"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "127.0.0.1:80", "http://127.0.0.1:99999", "http://127.0.0.1/ x"])
def test_an_address_that_cannot_be_dialled_is_a_mistake_of_the_program(url: str) -> None:
    """A wrong scheme, host or port is a ConfigError that says what an address looks like; no thread is left."""
    client = RealtimeClient("qai_x", base_url=url)
    with pytest.raises(ConfigError, match="https://"):
        client.connect()


def test_a_dialect_that_does_not_exist_is_refused() -> None:
    """The message lists those that do."""
    with pytest.raises(ConfigError, match="use one of: auto, xai"):
        RealtimeClient("qai_x", dialect="klingon", base_url="http://127.0.0.1:9").connect()


# -- connecting fails ------------------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_an_api_error_with_all_that_support_wants() -> None:
    """Status, code, words and request id of the refusal come through; Closed tells the same."""
    body = json.dumps({"error": {"code": "invalid_api_key", "message": "That key is not known."}})
    with service(refuse("401 Unauthorized", body, "x-qai-request-id: req_7")) as peer:
        client = peer.client()
        with pytest.raises(ApiError, match="That key is not known") as caught:
            client.connect()
        error = caught.value
        assert (error.status_code, error.code, error.request_id, error.is_auth) == (401, "invalid_api_key", "req_7", True)
        closed = client.wait(1.0)
        assert (closed.by, closed.meaning, closed.error) == ("service", "auth", error)
        assert client.state == "failed"
        assert ours() == []
        assert peer.server.accepted == 1, "a refusal is not tried again"


@pytest.mark.parametrize(("status", "meaning"), [(402, "quota"), (429, "quota"), (403, "auth"), (404, "bad_request"), (503, "lost")])
def test_the_first_connect_is_tried_once_whatever_the_refusal(status: int, meaning: str) -> None:
    """Reconnecting begins after the first success; the meaning of a refusal is told by Closed."""
    with service(refuse(f"{status} No")) as peer:
        client = peer.client()
        with pytest.raises(ApiError):
            client.connect()
        assert client.wait(1.0).meaning == meaning
        assert peer.server.accepted == 1


def test_nobody_there_is_a_connect_error_that_says_what_to_do() -> None:
    """A closed port is told with the address, and without a thread left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = RealtimeClient("qai_x", base_url=f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectError, match=rf"127\.0\.0\.1 \(port {port}\) refused the connection: nothing listens there"):
        client.connect()
    assert ours() == []


def test_a_service_that_never_becomes_ready_is_said_to_be_so() -> None:
    """The upgrade went well and nothing came: the error says that, and what to check, when the time is up."""
    with service(deaf) as peer:
        client = peer.client()
        with pytest.raises(RealtimeTimeoutError, match=r"connected, but the service did not confirm the session within 2 s; check"):
            client.connect(timeout=2.0)
        assert client.wait(1.0).meaning == "lost"
        assert ours() == []


def test_the_last_error_explains_why_it_never_became_ready() -> None:
    """An error without a cause does not end the wait by itself, but it is told at the end of it."""

    def grumbling(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.error("odd", message="something is odd")

    with service(grumbling) as peer, pytest.raises(RealtimeTimeoutError, match="its last error was: something is odd"):
        peer.client().connect(timeout=2.0)


def test_an_error_that_names_our_configuration_ends_the_wait_at_once() -> None:
    """The service refuses the session: its own words are the error, long before the time is up."""

    def refusing(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.next_frame()
        talk.error("invalid_value", talk.received[0]["event_id"], "There is no voice Sal.")

    with service(refusing) as peer:
        client = peer.client(connect_timeout=60.0)
        with pytest.raises(ApiError, match=r"the service refused the session: There is no voice Sal\.") as caught:
            client.connect()
        assert caught.value.code == "invalid_value"
        assert client.wait(1.0).meaning == "bad_request"


def test_a_close_before_readiness_is_told_with_its_code_and_reason() -> None:
    """The gateway gives its reason only in the close frame."""

    def closing(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.close(1008, "insufficient balance")

    with service(closing) as peer:
        client = peer.client()
        with pytest.raises(ConnectionClosedError, match=r"with code 1008 \(insufficient balance\) before it was ready") as caught:
            client.connect()
        assert (caught.value.code, caught.value.reason) == (1008, "insufficient balance")
        closed = client.wait(1.0)
        assert (closed.code, closed.reason, closed.meaning, closed.by) == (1008, "insufficient balance", "quota", "service")


def test_a_hang_up_before_readiness_is_told() -> None:
    """Without a close frame there is no code to tell."""

    def leaving(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.drop()

    with service(leaving) as peer, pytest.raises(ConnectionClosedError, match="before it was ready"):
        peer.client().connect()


@pytest.mark.parametrize("timeout", [0, -1, "5", True])
def test_a_timeout_that_is_no_time_is_refused(timeout: Any) -> None:
    """Nothing is dialled for it, and the client may still be used."""
    client = RealtimeClient("qai_x", base_url="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="timeout must be a number of seconds above 0"):
        client.connect(timeout=timeout)
    assert client.state == "idle"


@pytest.mark.parametrize("error", [LookupError("no route"), SystemExit("no route")], ids=repr)
def test_a_dialer_that_fails_in_its_own_way_is_told_to_the_caller(error: BaseException) -> None:
    """An exception that is not ours comes out of connect() as it is, and the client is over."""

    def dial(*_: Any, **__: Any) -> Any:
        raise error

    client = RealtimeClient("qai_x", base_url="http://127.0.0.1:9", dialer=dial)
    with pytest.raises(type(error), match="no route"):
        client.connect()
    assert client.state == "failed"
    assert ours() == []


def expires_in_milliseconds(talk: Talk) -> None:
    """A session whose end is given in the wrong unit: in some fifty thousand years."""
    session = {"id": "sess_1", "expires_at": int((time.time() + 3600) * 1000)}
    talk.peer.upgrade()
    talk.say("session.created", session=session)
    while not talk.count("session.update"):
        talk.next_frame()
    talk.say("session.updated", session=session)


@pytest.mark.parametrize(
    ("opening", "options", "timeout"),
    [
        (ready, {"ping_interval": 1e12, "pong_timeout": 1e300}, None),
        (ready, {"connect_timeout": 1e300, "close_timeout": 1e300, "max_audio": 1e308}, None),
        (ready, {}, 1e10),
        (ready, {}, 10**12),
        (expires_in_milliseconds, {"ping_interval": None}, None),
    ],
    ids=["pings", "options", "connect", "whole number", "expires_at"],
)
def test_seconds_that_no_lock_can_count_leave_a_client_that_works(opening: Any, options: dict[str, Any], timeout: float | None) -> None:
    """Its timers run: a close in a handler, which the sender does, comes to its end."""
    with service(opening) as peer:
        client = peer.client(**options)
        assert client.connect(timeout=timeout).is_connected
        talk = peer.talk()
        for _ in range(20):  # the sender falls asleep in between
            done = threading.Event()
            client._call.sender.after(0.001, done.set)
            assert done.wait(20.0)
        client.on("unknown", lambda event: client.close())
        talk.say("please.close")
        assert client.wait(20.0).by == "client"
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1000, "")
        client.close()
    assert ours() == []


@pytest.mark.parametrize("history", [["hi"], "hi", 5, None, [{"user": "hi"}], [Turn(number=1, user="a"), None]], ids=str)
def test_a_history_that_is_no_turns_is_refused(history: Any) -> None:
    """Nothing is dialled for it, and the client may still be used."""
    with service() as peer:
        client = peer.client()
        with pytest.raises(ConfigError, match="history must be turns of an earlier conversation"):
            client.connect(history=history)
        assert (client.state, ours()) == ("idle", [])
        with client:
            peer.talk()


def test_a_history_that_fails_while_it_is_read_leaves_the_client_as_it_was() -> None:
    """Its own exception comes out; another connect() works."""

    def broken() -> Iterator[Turn]:
        yield Turn(number=1, user="a")
        raise LookupError("my database")

    with service() as peer:
        client = peer.client()
        with pytest.raises(LookupError, match="my database"):
            client.connect(history=broken())
        assert (client.state, ours()) == ("idle", [])
        client.connect(history=(turn for turn in [Turn(number=1, user="a")]))
        assert peer.talk().expect("conversation.item.create")["item"]["content"][0]["text"] == "a"
        client.close()


@pytest.mark.parametrize("refused", ["qai-reader", "qai-sender", "qai-"])
def test_where_no_thread_can_be_started_connect_fails_like_any_other(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is told once, who waits for it gets it, close() has nothing to wait for, and no thread is left."""
    start = threading.Thread.start

    def start_some(thread: threading.Thread) -> None:
        if thread.name.startswith(refused):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    client = RealtimeClient("qai_x", base_url="http://127.0.0.1:9")
    told: list[str] = []
    client.on("state_changed", lambda event: told.append(event.new))
    client.on("closed", lambda event: told.append(f"closed by {event.by}: {event.meaning}, {event.error!r}"))
    with pytest.raises(ConnectError, match="no thread can be started: can't start new thread") as caught:
        client.connect()
    assert caught.value.code == "no_thread"
    assert isinstance(caught.value.__cause__, RuntimeError)
    monkeypatch.undo()
    assert ours() == []
    assert client.state == "failed"
    assert client.wait(20.0).error is caught.value
    assert told == ["connecting", "failed", f"closed by network: lost, {caught.value!r}"]
    began = time.monotonic()
    client.close()
    client.abort()
    assert time.monotonic() - began < 2.5
    for again in (client.connect, lambda: client.send_text("hi"), lambda: client.mutate_context(instructions="x")):
        with pytest.raises(NotConnectedError):
            again()
    assert len(told) == 3


def test_an_open_client_may_be_put_into_a_with_block() -> None:
    """It is connected already, and closed at the end of the block; one that is over is refused there as by connect()."""
    with service() as peer:
        client = peer.client().connect()
        with client as same:
            assert same is client
            peer.talk().fence(client)
        assert client.state == "closed"
        with pytest.raises(NotConnectedError, match="this client is closed"), client:
            pass


def test_connecting_twice_is_refused() -> None:
    """One client is one conversation, while it lives and after it has ended; the running one is not harmed."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        with pytest.raises(NotConnectedError, match="this client is open.*make a new RealtimeClient") as caught:
            client.connect()
        assert caught.value.code == "already_used"
        talk.fence(client)
        client.close()
        with pytest.raises(NotConnectedError, match="this client is closed"):
            client.connect()


def test_a_service_that_closes_as_soon_as_it_is_ready_is_not_taken_for_our_own_close() -> None:
    """connect() either returns, or says that the service ended it; never that the program did."""

    def short(talk: Talk) -> None:
        ready(talk)
        talk.close(1000, "enough")

    with service(short) as peer:
        client = peer.client()
        try:
            client.connect()
        except ConnectionClosedError as error:
            assert error.reason == "enough"
        assert client.wait(20.0).reason == "enough"


# -- tools and sinks -------------------------------------------------------------------------------------------------------------


def test_tools_are_told_to_the_service() -> None:
    """Those of the configuration and the decorated ones, once each; a name that is taken, and one that comes late, are refused."""
    client_tools = RealtimeConfig(tools=[Tool(name="first", function=lambda: None)])
    with service() as peer:
        client = peer.client(client_tools)

        @client.tool
        def second(city: str) -> str:
            """Look."""
            return city

        @client.tool(name="third", timeout=1.0)
        def other() -> None:
            """Do."""

        with pytest.raises(ConfigError, match="there already is a tool named 'second'"):
            client.tool(second)
        with client:
            update = peer.talk().received[0]
            assert [tool["name"] for tool in update["session"]["tools"]] == ["first", "second", "third"]
            with pytest.raises(ConfigError, match="comes too late"):
                client.tool(lambda: None, name="fourth")
        assert second("Oslo") == "Oslo"


def test_a_sink_without_the_needed_methods_is_refused() -> None:
    """The message names what is missing."""
    with pytest.raises(ConfigError, match=r"write\(bytes\) and clear\(\); missing: write, clear"):
        RealtimeClient().play_to(object())  # type: ignore[arg-type]


# -- forgotten -------------------------------------------------------------------------------------------------------------------


def test_a_client_that_nobody_refers_to_is_closed() -> None:
    """A forgotten client says goodbye to the service and leaves no thread, if no handler refers to it."""
    with service() as peer:
        client = RealtimeClient("qai_x", base_url=peer.base_url)
        client.on("error", print)
        client.connect()
        talk = peer.talk()
        gone = weakref.ref(client)
        threads = [thread for thread in threading.enumerate() if thread.name.startswith("qai-")]
        del client
        gc.collect()
        assert gone() is None
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1000, "")
        for thread in threads:
            thread.join(20.0)
            assert not thread.is_alive()


def test_a_context_manager_closes_after_an_exception_in_its_body() -> None:
    """The program's own exception comes out, and the conversation is over in an orderly way."""
    with service() as peer:
        client = peer.client()

        def body() -> None:
            with client:
                raise LookupError

        with pytest.raises(LookupError):
            body()
        talk = peer.talk()
        assert talk.over.wait(20.0)
        assert client.state == "closed"
        assert talk.closed_with == (1000, "")
        assert ours() == []


# -- encrypted -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates() -> Certificates:
    """One authority for the tests of this file."""
    return Certificates()


def test_an_encrypted_conversation_is_like_a_plain_one(certificates: Certificates) -> None:
    """Words, sound, a socket that is full, a loss, a new connection and a goodbye over TLS."""
    quick = ReconnectPolicy(base=0.01, cap=0.01)
    with service(context=certificates.server) as peer:
        client = peer.client(ssl_context=certificates.client, reconnect=quick)
        with client:
            talk = peer.talk()
            client.send_text("hello")
            talk.expect("response.create")
            talk.created("r1")
            for _ in range(20):
                talk.audio("r1", "i1", bytes(4800))
            talk.done("r1")
            client.wait_for("response_done", 20.0)
            talk.stall()
            while client.outbox.waiting < 3:
                client.send_event({"type": "big", "text": "x" * 200_000})
            talk.resume()
            client.drain(8.0)
            talk.fence(client)
            talk.drop()
            client.wait_for("reconnected", 20.0)
            talk = peer.talk()
            talk.fence(client)
        assert talk.over.wait(20.0)
        assert talk.closed_with == (1000, "")
        assert ours() == []


def test_traffic_in_both_directions_over_tls_loses_nothing(certificates: Certificates) -> None:
    """While the service talks, three threads send: every frame arrives, in each thread's order."""
    with service(context=certificates.server) as peer, peer.client(ssl_context=certificates.client) as client:
        talk = peer.talk()
        heard: list[int] = []
        client.on("unknown", lambda event: heard.append(event.raw["number"]))

        def speak(name: int) -> None:
            for number in range(150):
                client.send_event({"type": "note", "name": name, "number": number})

        threads = [threading.Thread(target=speak, args=(name,)) for name in range(3)]
        for thread in threads:
            thread.start()
        for number in range(400):
            talk.say("chatter", number=number)
        for thread in threads:
            thread.join(20.0)
        client.wait_for("unknown", 20.0, where=lambda event: event.raw["number"] == 399)
        talk.fence(client)
        assert heard == list(range(400))
        for name in range(3):
            assert [v["number"] for v in talk.received if v.get("name") == name] == list(range(150))


def test_a_certificate_that_nobody_vouches_for_is_refused(certificates: Certificates) -> None:
    """Without the authority's word there is no conversation, and no second try."""
    with service(context=certificates.server) as peer:
        client = peer.client()
        with pytest.raises(ConnectError) as caught:
            client.connect()
        assert caught.value.code == "tls_verification"
        assert client.wait(1.0).meaning == "lost"
