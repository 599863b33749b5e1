"""Watching over a connection: a peer that stops showing life is noticed, a quiet one that answers pings is left alone."""

from __future__ import annotations

import threading
import time

import pytest

from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.errors import ConnectionClosedError
from qai_realtime_sync.events import Reconnected, Reconnecting
from tests.servers import Talk, ready, service


def silent(talk: Talk) -> None:
    talk.answers_pings = False
    ready(talk)


def test_a_peer_that_answers_no_ping_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """TCP alone is no sign of life: without pong or event the connection is lost, and that is said."""
    with service(silent) as peer, peer.client(ping_interval=0.1, pong_timeout=0.2, reconnect=False) as client:
        started = time.monotonic()
        closed = client.wait(20.0)
        assert time.monotonic() - started < 8.0
        assert (closed.meaning, closed.by) == ("lost", "network")
        assert isinstance(closed.error, ConnectionClosedError)
        assert "no sign of life" in str(closed.error)
    assert any("the connection is given up" in record.message for record in caplog.records)


def test_a_lost_peer_is_dialled_again() -> None:
    """A dead link is a loss like any other."""
    with (
        service(silent, ready) as peer,
        peer.client(ping_interval=0.1, pong_timeout=0.2, reconnect=ReconnectPolicy(base=0.01, cap=0.01)) as client,
    ):
        trying = client.wait_for(Reconnecting, 20.0)
        assert "no sign of life" in str(trying.error)
        client.wait_for(Reconnected, 20.0)


def test_a_quiet_peer_that_answers_pings_is_left_alone() -> None:
    """Many intervals without an event, each answered by a pong: nothing is told."""
    with service() as peer, peer.client(ping_interval=0.05, pong_timeout=1.0) as client:
        talk = peer.talk()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 1.5)
        assert client.is_connected
        talk.fence(client)


def test_a_peer_that_talks_needs_no_pong() -> None:
    """Any byte is a sign of life."""
    with service(silent) as peer, peer.client(ping_interval=0.05, pong_timeout=1.5) as client:
        talk = peer.talk()
        over = threading.Event()

        def chat() -> None:
            while not over.wait(0.05):
                talk.say("still.here")

        chatting = threading.Thread(target=chat)
        chatting.start()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 2.5)
        over.set()
        chatting.join(20.0)
        assert client.is_connected


def test_a_blocked_sender_does_not_hide_a_dead_peer() -> None:
    """While the socket is full the timers still run: the peer that neither reads nor speaks is given up."""
    with service(silent) as peer, peer.client(ping_interval=0.1, pong_timeout=0.3, reconnect=False) as client:
        talk = peer.talk()
        talk.stall()
        while client.outbox.waiting < 3 and client.is_connected:
            client.send_event({"type": "big", "text": "x" * 200_000})
        started = time.monotonic()
        assert client.wait(20.0).meaning == "lost"
        assert time.monotonic() - started < 8.0


def test_without_an_interval_nobody_is_asked() -> None:
    """ping_interval=None turns it off."""
    with service(silent) as peer, peer.client(ping_interval=None, pong_timeout=0.1) as client:
        peer.talk()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 0.3)
        assert client.is_connected


def test_sound_without_an_answer_is_told_once() -> None:
    """Connected, much goes up and nothing comes back: ServiceSilent, and not again on this connection."""
    with service() as peer, peer.client(ping_interval=0.05, silent_after=0.3) as client:
        talk = peer.talk()
        over = threading.Event()

        def speak() -> None:
            while not over.wait(0.02):
                client.send_audio(bytes(960))

        speaking = threading.Thread(target=speak)
        speaking.start()
        told = client.wait_for("service_silent", 20.0)
        assert told.seconds >= 0.3
        with pytest.raises(TimeoutError):
            client.wait_for("service_silent", 0.6)
        over.set()
        speaking.join(20.0)
        talk.fence(client)


def test_a_service_that_is_only_quiet_is_not_called_silent() -> None:
    """Nothing goes up either: a pause is no fault."""
    with service() as peer, peer.client(ping_interval=0.05, silent_after=0.1) as client:
        peer.talk()
        with pytest.raises(TimeoutError):
            client.wait_for("service_silent", 0.5)


def test_a_conversation_in_which_nobody_speaks_wakes_nobody_between_pings() -> None:
    """Its sender does not look at the clock once within half a ping interval."""
    looks: list[str] = []

    def clock() -> float:
        looks.append(threading.current_thread().name)
        return time.monotonic()

    with service() as peer, peer.client(ping_interval=20.0, clock=clock) as client:
        peer.talk()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 1.0)  # the sender puts what it did while the conversation opened behind it
        looks.clear()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 1.5)
        assert "qai-sender" not in looks


def test_a_dead_peer_is_noticed_soon_once_something_is_sent() -> None:
    """After a silence the first thing that goes up is followed by a question, long before the next ping is due."""
    with service(silent) as peer, peer.client(ping_interval=10.0, pong_timeout=0.2, reconnect=False) as client:
        peer.talk()
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 1.5)
        started = time.monotonic()
        client.send_audio(bytes(960))
        assert client.wait(20.0).meaning == "lost"
        assert time.monotonic() - started < 8.0


@pytest.mark.parametrize("benign", [True, False])
def test_an_error_after_readiness_ends_nothing(benign: bool) -> None:
    """Only before readiness an error can mean that it will never come."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        event_id = client.update_session(instructions="x")
        talk.error("response_cancel_not_active" if benign else "invalid_value", event_id)
        client.wait_for("error", 20.0)
        talk.fence(client)
        assert client.is_connected


def test_a_harmless_error_before_readiness_is_no_refusal() -> None:
    """A benign error that names our configuration is passed by."""

    def grumbling(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.next_frame()
        talk.error("response_cancel_not_active", talk.received[0]["event_id"])
        talk.say("session.updated", session={"id": "s"})

    with service(grumbling) as peer, peer.client() as client:
        assert client.is_connected


def test_a_slow_handler_does_not_kill_a_healthy_connection(caplog: pytest.LogCaptureFixture) -> None:
    """While it runs nobody reads, and the pong lies in the socket: that is judged when the reader is back."""
    with service() as peer, peer.client(ping_interval=0.1, pong_timeout=1.0, reconnect=False, silent_after=1.1) as client:
        talk = peer.talk()
        passed = threading.Event()
        told: list[str] = []
        client.on("service_silent", lambda event: told.append(event.event_name))

        def slowly(event: object) -> None:
            for _ in range(12):
                client.send_audio(bytes(960))  # nor is the service silent: nobody listens
                passed.wait(0.1)

        client.on("unknown", slowly)
        talk.say("go")
        talk.say("go")  # in the same buffer: the reader has it before it looks at the socket again
        with pytest.raises(TimeoutError):
            client.wait_for("closed", 3.2)
        assert client.is_connected
        assert told == []
        talk.fence(client)
    assert not any("the connection is given up" in record.message for record in caplog.records)


def test_a_peer_that_dies_during_a_slow_handler_is_given_up_behind_it() -> None:
    """The reader gets its time to look, and not more."""
    with service(silent) as peer, peer.client(ping_interval=0.2, pong_timeout=0.6, reconnect=False) as client:
        talk = peer.talk()
        passed = threading.Event()
        client.on("unknown", lambda event: passed.wait(1.2))
        started = time.monotonic()
        talk.say("go")
        assert client.wait(20.0).meaning == "lost"
        assert 1.2 <= time.monotonic() - started < 8.0
