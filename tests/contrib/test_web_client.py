"""What the adapters of web frameworks share: the client that runs its handlers in a context, and the conversations that are kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qai_realtime_sync import Closed, Event, RealtimeClient, RealtimeConfig
from qai_realtime_sync.contrib.web_client import SETTINGS, Kept, WebClient


def made(entered: list[str]) -> WebClient:
    """A client whose context notes when it is entered and left."""

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    return WebClient.from_settings({**SETTINGS, "QAI_API_KEY": "key", "REALTIME_CONFIG": RealtimeConfig(voice="Eve")}, around, None, {})


def test_handlers_of_every_kind_run_inside() -> None:
    """Registered by name, class, method or decorator, for once or for ever: each call has a context of its own."""
    trace: list[str] = []
    client = made(trace)
    assert client.config.voice == "Eve"

    @client.once("closed")
    def first(event: Closed) -> None:
        trace.append("once")

    @client.on(Closed)
    def second(event: Closed) -> None:
        trace.append("on")

    client.on_closed(lambda event: trace.append("on_closed"))
    client.close()
    assert trace == ["in", "once", "out", "in", "on", "out", "in", "on_closed", "out"]


def test_a_handler_is_itself_in_its_context() -> None:
    """Registered twice it is equal to itself, with the same hash, so that it can be taken off."""
    client, calls = made([]), list[Event]()
    inside, again = client._inside(calls.append), client._inside(calls.append)
    assert inside == again == calls.append
    assert hash(inside) == hash(again)
    assert inside != print


def test_a_conversation_can_be_found_until_a_minute_after_its_end() -> None:
    """Running ones are kept however long they take; ended ones go after their minute, whether or not another one is kept."""
    now = 0.0
    kept = Kept(lambda: now)
    running, ended = RealtimeClient("key"), RealtimeClient("key")
    names = [kept.add(running), kept.add(ended)]
    ended.close()
    now = 59.0
    kept.add(RealtimeClient("key"))
    assert [kept.get(name) for name in names] == [running, ended]
    now = 61.0
    assert [kept.get(name) for name in names] == [running, None]
    over = kept.add(ended)  # kept when it was over already
    assert kept.get(over) is ended
    now = 130.0
    kept.add(RealtimeClient("key"))
    assert kept.get(over) is None
