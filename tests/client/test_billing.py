"""Minted sessions against the local server: each is ended exactly once, on every way out, and never later than the promise."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.errors import ApiError, NotConnectedError, RealtimeError
from qai_realtime_sync.events import Reconnected
from qai_realtime_sync.offline import RealtimeServer
from tests.servers import Talk, service


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A gateway that wants a key."""
    with RealtimeServer(light=True, key="qai_good") as server:
        yield server


def minting(server: RealtimeServer, **options: Any) -> RealtimeClient:
    return RealtimeClient("qai_good", base_url=server.url, mint=True, provider="xai", **options)


def settled(client: RealtimeClient) -> None:
    """Wait until the client's REST calls are done."""
    billing = client._call.billing
    assert billing is not None
    assert billing.wait(5.0)
    assert billing.thread is not None
    billing.thread.join(5.0)
    assert not billing.thread.is_alive()


@pytest.mark.parametrize("how", ["close", "abort", "handler", "thread"])
def test_a_minted_session_is_ended_on_every_way_out(server: RealtimeServer, how: str) -> None:
    """The gateway is told once, and close() has told it before it returns."""
    client = minting(server)
    client.on("transcript_done", lambda event: client.close())
    other = threading.Thread(target=client.close)
    client.connect()
    assert client.session.session_id
    assert client.session.ephemeral_token == ""
    if how == "handler":
        client.send_text("Hello")
        client.wait(5.0)
    elif how == "thread":
        other.start()
        other.join(5.0)
    else:
        getattr(client, how)()
    if how in ("abort", "handler"):
        settled(client)
    (session,) = server.ledger.sessions()
    assert session["ended"] is True
    settled(client)


def test_a_wrong_key_is_told_by_connect_and_nothing_is_left(server: RealtimeServer) -> None:
    """The refusal of the gateway is the error, before any WebSocket is opened."""
    client = RealtimeClient("qai_bad", base_url=server.url, mint=True)
    with pytest.raises(ApiError) as caught:
        client.connect()
    assert caught.value.is_auth
    assert client.wait(1.0).meaning == "auth"
    assert server.ledger.sessions() == []
    settled(client)


def test_a_loss_goes_on_with_the_same_session_and_a_new_token(server: RealtimeServer) -> None:
    """What is billed stays one session: it is refreshed, not minted again."""
    client = minting(server, reconnect=ReconnectPolicy(base=0.01, cap=0.01))
    with client:
        first = client.session.session_id
        connection = client._call.connection
        assert connection is not None
        connection.abort()
        client.wait_for(Reconnected, 5.0)
        assert client.session.session_id == first
    (session,) = server.ledger.sessions()
    assert session["refreshed"] == 1
    assert session["ended"] is True


def test_a_gateway_that_does_not_answer_does_not_hold_up_the_close() -> None:
    """close() while a session is being minted returns within its bound, and connect() says that the client was closed."""
    asked, enough = threading.Event(), threading.Event()

    def mute(talk: Talk) -> None:
        talk.peer.read_request()
        asked.set()
        enough.wait(8.0)
        raise EOFError

    with service(mute) as peer:
        client = peer.client(mint=True)
        errors: list[RealtimeError] = []

        def connect() -> None:
            try:
                client.connect()
            except RealtimeError as error:
                errors.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        assert asked.wait(5.0)
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 3.5
        thread.join(5.0)
        assert isinstance(errors[0], NotConnectedError)
        enough.set()
        settled(client)


def test_a_session_that_cannot_be_ended_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The gateway is gone when the call is over: the session's id is logged, because it is metered on."""
    server = RealtimeServer(light=True).start()
    try:
        client = minting(server, reconnect=False)
        client.connect()
        session_id = client.session.session_id
        server.stop()
        with caplog.at_level(logging.ERROR):
            client.wait(5.0)
            settled(client)
    finally:
        server.stop()
    assert any(session_id in record.message and "could not be ended" in record.message for record in caplog.records)
