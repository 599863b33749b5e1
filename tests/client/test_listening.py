"""Listening in a real conversation: registering by name, class and method, and waiting, iterating, asking for the next event."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.client.listening import Listening
from qai_realtime_sync.errors import ConfigError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.events import EVENTS, Closed, Event, ResponseDone, Unknown
from tests.servers import service

TYPED = sorted(name for name in vars(Listening) if re.fullmatch(r"on_\w+", name))


@pytest.mark.parametrize("name", TYPED)
def test_each_typed_method_listens_to_the_event_of_its_name(name: str) -> None:
    """It is a decorator too, gives the function back, and takes background=True."""
    client = RealtimeClient("qai_x")
    heard: list[Event] = []

    @getattr(client, name)
    def handler(event: Event) -> None:
        heard.append(event)

    getattr(client, name)(handler, background=True)
    (one, two) = client._call.handlers._registered
    assert one.event is two.event is EVENTS[name.removeprefix("on_")]
    assert one.function is two.function is handler
    assert (one.background, two.background) == (False, True)


def test_on_and_once_are_functions_and_decorators() -> None:
    """By name and by class; a wrong event is told where it is written, before the function is there."""
    client = RealtimeClient("qai_x")
    assert client.on("error", print) is print
    assert client.once(ResponseDone, print) is print

    @client.on("response_done", background=True)
    def one(event: ResponseDone) -> None:
        """Hear it."""

    @client.once(ResponseDone)
    def two(event: ResponseDone) -> None:
        """Hear it once."""

    assert callable(one)
    assert callable(two)
    assert len(client._call.handlers._registered) == 4
    client.off("error", print)
    client.off("response_done")
    assert client._call.handlers._registered == []
    for register in (client.on, client.once, client.off):
        with pytest.raises(ConfigError, match="did you mean 'audio_delta'"):
            register("audio_dleta")  # type: ignore[operator]
    with pytest.raises(ConfigError, match="must take one argument"):
        client.on("error", lambda: None)


def test_once_hears_one_event_also_if_two_come_together() -> None:
    """The second of two frames finds it gone."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        heard: list[Event] = []
        client.once("unknown", heard.append)
        talk.say("one")
        talk.say("two")
        client.wait_for("unknown", 20.0, where=lambda event: event.type == "two")
        talk.fence(client)
        assert [event.raw["type"] for event in heard] == ["one"]


def test_an_answer_that_is_faster_than_the_wait_is_not_missed() -> None:
    """Everything since this thread's last send counts."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.send_text("hello")
        talk.expect("response.create")
        talk.created("r1")
        talk.done("r1")
        other: list[Any] = []
        waiter = threading.Thread(target=lambda: other.append(client.wait_for(ResponseDone, 20.0)))
        waiter.start()
        waiter.join(20.0)
        assert client.wait_for("response_done", 20.0) is other[0]
        with pytest.raises(RealtimeTimeoutError, match="response_done did not come within 0.05 s; the conversation is open"):
            client.wait_for(ResponseDone, 0.05)


def test_next_event_goes_through_all_of_them_to_the_end() -> None:
    """From connect on, none twice; after the last one it says that it was the last."""
    with service() as peer:
        client = peer.client()
        client.connect()
        talk = peer.talk()
        talk.say("one")
        names: list[str] = []
        while "unknown" not in names:
            names.append(client.next_event(5.0).event_name)
        assert "session_ready" in names
        with pytest.raises(RealtimeTimeoutError):
            client.next_event(0.05)
        client.close()
        while not isinstance(client.next_event(5.0), Closed):
            pass
        with pytest.raises(NotConnectedError):
            client.next_event(5.0)


def test_events_are_iterated_to_the_end_by_each_on_its_own() -> None:
    """Two iterations do not take events from each other; the loop ends with the conversation."""
    with service() as peer:
        client = peer.client()
        client.connect()
        talk = peer.talk()
        first, second = client.events(), client.events()
        for number in range(20):
            talk.say("new.kind", number=number)
        client.wait_for("unknown", 20.0, where=lambda event: event.raw["number"] == 19)
        client.close()
        for stream in (first, second):
            events = list(stream)
            assert [event.raw["number"] for event in events if isinstance(event, Unknown)] == list(range(20))
            assert isinstance(events[-1], Closed)


def test_waiting_for_the_end_can_be_repeated() -> None:
    """wait() returns Closed to every thread, as often as it is asked; before the end it times out."""
    with service() as peer:
        client = peer.client()
        client.connect()
        peer.talk()
        with pytest.raises(RealtimeTimeoutError):
            client.wait(0.05)
        client.close()
        closed = client.wait(1.0)
        assert client.wait(1.0) is closed
        assert client.wait_for("closed", 1.0) is closed
        found: list[Closed] = []
        other = threading.Thread(target=lambda: found.append(client.wait(1.0)))
        other.start()
        other.join(20.0)
        assert found == [closed]
