"""A session that will end is renewed before: at a quiet moment, at the last moment, and not unasked."""

from __future__ import annotations

import base64
import threading
import time

from qai_realtime_sync import RealtimeConfig
from qai_realtime_sync.events import Reconnected
from tests.servers import Talk, ready, service

PLAIN = RealtimeConfig(resumption=False)


def short(seconds: float) -> object:
    """A service whose first session ends after so many seconds, and says so."""

    def opening(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.say("session.created", session={"id": f"sess_{talk.number}", "expires_at": time.time() + seconds})
        while not talk.count("session.update"):
            talk.next_frame()
        talk.say("session.updated", session={"id": f"sess_{talk.number}"})

    return opening


def test_a_session_that_ends_soon_is_renewed_when_it_is_quiet() -> None:
    """Without a loss: sound and words that are sent meanwhile arrive, on one connection or the other, once and in order."""
    with service(short(2.0), ready) as peer, peer.client(PLAIN) as client:  # type: ignore[arg-type]
        first = peer.talk()
        over = threading.Event()
        sent: list[int] = []

        def speak() -> None:
            number = 0
            while not over.wait(0.005):
                client.send_audio(number.to_bytes(2, "little"))
                sent.append(number)
                number += 1

        speaking = threading.Thread(target=speak)
        speaking.start()
        told = client.wait_for(Reconnected, 20.0)
        second = peer.talk()
        over.set()
        speaking.join(20.0)
        second.fence(client)
        assert first.over.wait(20.0)  # it may read what was sent before later than the second what was sent behind it
        heard = [
            int.from_bytes(base64.b64decode(v["audio"]), "little")
            for talk in (first, second)
            for v in talk.received
            if v["type"] == "input_audio_buffer.append"
        ]
        assert heard == sent
        assert client.outbox.dropped_audio == 0.0
        assert told.session_id == "sess_2"
        assert first.closed_with == (1000, "")


def test_a_session_is_renewed_at_the_last_moment_if_it_is_never_quiet() -> None:
    """An answer that runs is waited for, but not beyond the end of the session."""
    with service(short(2.0), ready) as peer, peer.client(PLAIN) as client:  # type: ignore[arg-type]
        first = peer.talk()
        first.created("r1")
        client.wait_for("response_created", 20.0)
        started = time.monotonic()
        client.wait_for(Reconnected, 20.0)
        assert time.monotonic() - started < 6.0
        assert client.is_connected


def test_the_end_of_an_answer_is_the_quiet_moment() -> None:
    """What was due while it ran happens behind it."""
    with service(short(8.0), ready) as peer, peer.client(PLAIN) as client:  # type: ignore[arg-type]
        first = peer.talk()
        first.created("r1")
        client.wait_for("response_created", 20.0)
        due = threading.Event()
        client._call.sender.after(4.2, due.set)
        assert due.wait(20.0)
        assert client.is_connected
        assert peer.server.accepted == 1
        first.done("r1")
        client.wait_for(Reconnected, 1.7)


def test_without_reconnect_nothing_is_renewed() -> None:
    """The session ends when the service ends it."""
    with service(short(1.0), ready) as peer, peer.client(PLAIN, reconnect=False) as client:  # type: ignore[arg-type]
        first = peer.talk()
        passed = threading.Event()
        client._call.sender.after(1.2, passed.set)
        assert passed.wait(20.0)
        first.fence(client)
        assert peer.server.accepted == 1


def test_the_end_of_the_users_speech_is_the_quiet_moment() -> None:
    """What was due while the user spoke happens when that has ended, not at the last moment."""
    with service(short(8.0), ready) as peer, peer.client(PLAIN) as client:  # type: ignore[arg-type]
        first = peer.talk()
        first.say("input_audio_buffer.speech_started")
        client.wait_for("speech_started", 20.0)
        due = threading.Event()
        client._call.sender.after(4.2, due.set)
        assert due.wait(20.0)
        assert peer.server.accepted == 1
        first.say("input_audio_buffer.speech_stopped")
        client.wait_for(Reconnected, 1.7)
