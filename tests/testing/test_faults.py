"""What goes wrong on purpose goes wrong exactly so, and is reported if it did not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ApiError, ConfigError, ConnectError, RealtimeError, RestClient
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.testing import ScriptedServer

PATIENCE = 20.0


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server with tones."""
    with ScriptedServer(light=True, must_complete=False) as made:
        yield made


def test_lost_after_so_many_messages(server: ScriptedServer) -> None:
    """Exactly so many messages arrive after it was asked for, then the connection is lost without a close frame."""
    client = server.client(reconnect=False, connect=False)
    client.connect()
    before = len(server.journal.received())
    server.fault.drop_after(3)
    client.send_text("hello")
    closed = client.wait_for("closed", timeout=PATIENCE)
    assert (closed.meaning, closed.clean) == ("lost", False)
    assert len(server.journal.received()) - before >= 3
    server.assert_complete()


def test_lost_after_an_event_of_a_name(server: ScriptedServer) -> None:
    """The second piece of sound is the last that arrives, in our words or as the wire calls it."""
    for name in ("audio_delta", "response.output_audio.delta"):
        heard: list[Any] = []
        server.fault.drop_after(2, name=name)
        client = server.client(reconnect=False, connect=False)
        client.on_audio_delta(heard.append)
        with client:
            client.send_text("tell me a long story")
            assert client.wait_for("closed", timeout=PATIENCE).meaning == "lost"
        assert len(heard) == 2
    server.assert_complete()


def test_lost_in_the_middle_of_a_message(server: ScriptedServer) -> None:
    """After so many bytes the connection is lost, wherever that is."""
    client = server.client(reconnect=False)
    server.fault.drop_after(bytes=5000)
    client.send_text("tell me a long story")
    assert client.wait_for("closed", timeout=PATIENCE).meaning == "lost"
    server.assert_complete()


def test_a_lost_connection_is_made_again(server: ScriptedServer) -> None:
    """The fault happens once, and the client's reconnect succeeds."""
    server.on_text("again").say("Back.")
    server.fault.drop_after(name="session_ready")
    client = server.client(connect=False)
    client.connect(timeout=PATIENCE)
    assert client.ask("again", timeout=PATIENCE).text == "Back."
    assert sum(entry.name == "connected" for entry in server.journal) == 2
    server.assert_complete()


def test_closed_after_an_event(server: ScriptedServer) -> None:
    """The close frame follows the event that was named."""
    server.fault.close_after(1008, "insufficient balance", name="response_created")
    client = server.client()
    client.send_text("hello")
    closed = client.wait_for("closed", timeout=PATIENCE)
    assert (closed.code, closed.reason) == (1008, "insufficient balance")
    server.assert_complete()


def test_silence_after_an_event(server: ScriptedServer) -> None:
    """The connection stays open and says nothing more."""
    server.fault.stall_after(name="response_created")
    client = server.client()
    client.send_text("hello")
    client.wait_for("response_created", timeout=PATIENCE)
    client.send_text("Is anybody there?", respond=False)
    server.journal.wait_for("send_text", PATIENCE, count=2)
    assert client.is_connected
    assert server.journal.received()[-1]["name"] == "response_created"


def test_refused_for_a_while(server: ScriptedServer) -> None:
    """The first connection is refused as a service that is down does it, the next one is not."""
    server.fault.refuse(503, "unavailable", "Be right back.")
    with pytest.raises(ApiError, match="Be right back") as refused:
        server.client(reconnect=False)
    assert refused.value.status_code == 503
    assert server.client().is_connected
    server.assert_complete()


def test_a_rate_limit_at_the_upgrade(server: ScriptedServer) -> None:
    """429 comes with its Retry-After, which the client sees."""
    server.rate_limit(retry_after=7)
    with pytest.raises(ApiError) as refused:
        server.client(reconnect=False)
    assert refused.value.is_rate_limit
    assert refused.value.retry_after == 7


def test_a_rate_limit_is_waited_for(server: ScriptedServer) -> None:
    """A client that may connect again does so when Retry-After is over."""
    client = server.client(reconnect=ReconnectPolicy())
    server.rate_limit(retry_after=1)
    began = time.monotonic()
    server.drop()
    client.wait_for("reconnected", timeout=PATIENCE)
    assert time.monotonic() - began >= 0.9
    server.assert_complete()


def test_a_rate_limit_of_minting(server: ScriptedServer) -> None:
    """A session that is minted is refused the same way, and minted a moment later."""
    server.rate_limit(retry_after=1)
    with server.client(mint=True, connect=False) as client:
        assert client.is_connected
    statuses = [request["status"] for request in server.ledger.requests()]
    assert statuses[:2] == [429, 200]


def test_a_refusal_is_not_one_of_minting(server: ScriptedServer) -> None:
    """A refused upgrade has the status that was asked for also where a session is minted first, and that session is ended."""
    server.fault.refuse(503, "unavailable", "Be right back.")
    with pytest.raises(ApiError, match="Be right back") as refused:
        server.client(mint=True, reconnect=False)
    assert refused.value.status_code == 503
    assert [session["ended"] for session in server.sessions] == [1]


def test_a_limit_of_minting_says_its_own_time() -> None:
    """When a refusal on purpose is over, the server's own limit says again when a session is left: in most of a minute."""
    with (
        ScriptedServer(light=True, mint_rate_limit=1) as server,
        RestClient(server.key, base_url=server.url, wait=lambda seconds: None) as rest,
    ):
        server.rate_limit(retry_after=1)
        rest.create_session()
        with pytest.raises(ApiError) as refused:
            rest.create_session(timeout=5.0)
    assert (refused.value.retry_after or 0) > 5


@pytest.mark.parametrize("dialect", ["xai", "openai", "elevenlabs", "gemini"])
def test_no_key_is_right(dialect: str) -> None:
    """Every service refuses a key in its own way, and the client calls it an error of authorisation or a closed door."""
    with ScriptedServer(dialect=dialect, light=True) as server:
        server.refuse_auth()
        with pytest.raises(RealtimeError) as refused:
            server.client(reconnect=False)
        assert not isinstance(refused.value, ConnectError)
        server.fault.clear()
        assert server.client().is_connected


def test_an_expired_token(server: ScriptedServer) -> None:
    """The gateway's code for a token that is too old comes through."""
    server.refuse_auth("EPHEMERAL_EXPIRED")
    with pytest.raises(ApiError) as refused:
        server.client(reconnect=False)
    assert refused.value.code == "EPHEMERAL_EXPIRED"


def test_what_did_not_happen_is_reported(server: ScriptedServer) -> None:
    """A fault that nobody came near, and a refusal of nobody, are as wrong as a question that was not asked."""
    server.fault.drop_after(1000, name="audio_delta")
    server.fault.drop_after(bytes=10**9)
    server.fault.close_after(1011, name="no_such_event")
    client = server.client()
    client.ask("hello", timeout=PATIENCE)
    server.fault.refuse()
    report = server.report()
    assert "fault.drop_after(events=1000, name='audio_delta') did not happen: " in report
    assert " of 1000 were sent" in report
    assert " of 1000000000 bytes were sent" in report
    assert "fault.close_after(code=1011, events=1, name='no_such_event') did not happen: 0 of 1 were sent" in report
    assert "fault.refuse(503) did not happen: nobody connected" in report
    server.fault.clear()
    assert server.report() == ""


@pytest.mark.parametrize(
    "arguments", [{}, {"events": 0}, {"events": True}, {"bytes": -1}, {"events": 1, "bytes": 1}, {"events": 1, "times": 0}]
)
def test_wrong_faults(server: ScriptedServer, arguments: dict[str, Any]) -> None:
    """A fault that cannot happen is told in the line that asks for it."""
    with pytest.raises(ConfigError):
        server.fault.drop_after(**arguments)


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        ("close_after", {"code": 99, "events": 1}, "from 1000 to 4999"),
        ("close_after", {"code": "1000", "events": 1}, "from 1000 to 4999"),
        ("close_after", {"code": 1006, "events": 1}, r"drop\(\)"),
        ("close_after", {"code": 1015, "events": 1}, r"drop\(\)"),
        ("close_after", {"code": 1000, "reason": "x" * 124, "events": 1}, "123 bytes"),
        ("refuse", {"status": "503"}, "HTTP status"),
        ("refuse", {"status": 101}, "HTTP status"),
        ("refuse", {"retry_after": -1}, "retry_after"),
        ("rate_limit", {"retry_after": "soon"}, "retry_after"),
    ],
)
def test_what_no_server_can_say_is_refused(server: ScriptedServer, verb: str, arguments: dict[str, Any], words: str) -> None:
    """A code, a reason, a status or a time that goes into no frame or answer is told in the line that asks for it."""
    with pytest.raises(ConfigError, match=words):
        getattr(server.fault, verb)(**arguments)


def test_faults_that_happen_twice(server: ScriptedServer) -> None:
    """`times` counts anew after each time."""
    server.fault.drop_after(name="response_created", times=2)
    for _ in range(2):
        client = server.client(reconnect=False)
        client.send_text("hello")
        client.wait_for("closed", timeout=PATIENCE)
    server.assert_complete()
