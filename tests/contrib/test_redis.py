"""A shared conversation: published in order, watched and commanded from elsewhere, with a real redis-server and a real client."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import (
    Closed,
    ConfigError,
    ConnectError,
    CreateResponse,
    ForkedClientError,
    NotConnectedError,
    RawEvent,
    RealtimeClient,
    RealtimeTimeoutError,
    SendContext,
    SendImage,
    SendText,
    UnsupportedCommandError,
    events,
)
from tests.contrib.redis_server import RedisServer
from tests.servers import Service, service

pytest.importorskip("redis", reason="the package redis is not installed")

import redis as redis_package

from qai_realtime_sync.contrib.redis import About, Conversations, NotAllowedError, Outcome, clean, share
from qai_realtime_sync.contrib.redis.obeying import obey
from qai_realtime_sync.contrib.redis.remote import named
from qai_realtime_sync.contrib.redis.store import Keys, Store
from qai_realtime_sync.contrib.web_client import SETTINGS, WebClient

WAIT = 20.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the tests of this file; each test has conversations of its own in it."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def gateway() -> Iterator[Service]:
    """A scripted service."""
    with service() as running:
        yield running


@pytest.fixture
def conversations(server: RedisServer) -> Iterator[Conversations]:
    """Any worker of any machine."""
    with Conversations(server.url) as made:
        yield made


class Shared:
    """A connected client that is shared, its service's end of the line, and somebody who watches."""

    def __init__(self, server: RedisServer, gateway: Service, conversations: Conversations, **options: Any) -> None:
        self.client = gateway.client()
        self.owner = share(self.client, **{"redis": server.url, **options})
        self.client.connect()
        self.talk = gateway.talk()
        self.remote = conversations.get(self.owner.conversation_id)

    def told(self) -> list[Any]:
        """Everything that is told until the end."""
        return list(self.remote.events())

    def close(self) -> None:
        """End the conversation, and wait until the rest is published."""
        self.client.close()
        self.owner.close()
        assert self.owner.state == "over"


@pytest.fixture
def shared(server: RedisServer, gateway: Service, conversations: Conversations) -> Iterator[Shared]:
    """A conversation that is shared as usual."""
    made = Shared(server, gateway, conversations, labels={"user": "anna"})
    yield made
    made.close()


# -- watching ------------------------------------------------------------------------------------------------------------------


def test_publishing_needs_no_context_of_a_framework(server: RedisServer, conversations: Conversations) -> None:
    """The events of a client of Flask or Django are published outside of its contexts, which would be made and torn down for each."""
    made: list[str] = []

    @contextlib.contextmanager
    def around() -> Iterator[None]:
        made.append("context")
        yield

    client = WebClient.from_settings({**SETTINGS, "QAI_API_KEY": "key"}, around, None, {})
    with share(client, server.url) as owner:
        client.close()
    told = [one.name for one in conversations.get(owner.conversation_id).events()]
    assert told[-1] == "closed"
    assert made == []


def test_closing_ends_who_still_watches(shared: Shared, server: RedisServer) -> None:
    """A watcher in another thread is told by a typed error that its connections were closed, and nothing can be asked afterwards."""
    closing = Conversations(server.url)
    remote, began, ended = closing.get(shared.owner.conversation_id), threading.Event(), []

    def watches() -> None:
        try:
            for _ in remote.events():
                began.set()
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=watches)
    thread.start()
    assert began.wait(WAIT)
    closing.close()
    thread.join(WAIT)
    assert [(type(error), getattr(error, "code", error)) for error in ended] == [(ConnectError, "redis_closed")]
    with pytest.raises(ConnectError, match="closed"):
        closing.list()


def test_a_watcher_is_told_what_the_handlers_are_told(shared: Shared) -> None:
    """Every event of the client is published once, in the order of its handlers, numbered from 1."""
    heard: list[events.Event] = []
    shared.client.on(events.Event, heard.append)
    shared.talk.say("response.created", response={"id": "resp_1"})
    shared.talk.say("response.output_audio.delta", response_id="resp_1", item_id="item_1", delta="AAAAAAAA")
    shared.talk.say("response.output_audio_transcript.done", response_id="resp_1", item_id="item_1", transcript="Grüße — 你好 \ud83d\ude00")
    shared.talk.say("no.such.event", of="ours")
    shared.client.wait_for("unknown", WAIT)
    shared.close()
    told = shared.told()
    assert [one.number for one in told] == list(range(1, len(told) + 1))
    assert [one.id for one in told] == [f"{one.number}-0" for one in told]
    assert not any(one.lost for one in told)
    assert [one.value for one in told[-len(heard) :]] == [json.loads(json.dumps(event.to_dict())) for event in heard]
    assert [one.name for one in told if one.name in ("session_ready", "closed")] == ["session_ready", "closed"]
    (audio,) = [one for one in told if one.name == "audio_delta"]
    assert audio.value["audio"] == 6
    assert "audio_base64" not in audio.value
    assert audio.event.audio == bytes(6)
    assert isinstance(told[-1].event, Closed)


def test_sound_is_published_if_asked(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """With `audio=True` a watcher gets the assistant's sound itself."""
    shared = Shared(server, gateway, conversations, audio=True)
    shared.talk.say("response.created", response={"id": "resp_1"})
    shared.talk.say("response.output_audio.delta", response_id="resp_1", item_id="item_1", delta="AQIDBAUG")
    shared.client.wait_for("audio_delta", WAIT)
    shared.close()
    (audio,) = [one for one in shared.told() if one.name == "audio_delta"]
    assert audio.event.audio == bytes([1, 2, 3, 4, 5, 6])


def test_a_watcher_is_told_while_it_happens(shared: Shared) -> None:
    """An event is with a watcher soon after it is with the owner, not at the end."""
    watching = shared.remote.events("$")
    shared.talk.say("fresh.news")
    one = next(watching)
    while one.name != "unknown":
        one = next(watching)
    assert one.value["type"] == "fresh.news"
    assert shared.client.is_connected


@pytest.mark.parametrize("spelled", [lambda one: one.id, lambda one: one.number, lambda one: str(one.number)])
def test_a_watcher_goes_on_after_the_last_it_knows(shared: Shared, spelled: Any) -> None:
    """The id, or the number, of the last event that is known gives exactly those behind it."""
    for number in range(10):
        shared.talk.say("count", number=number)
    shared.client.wait_for("unknown", WAIT, where=lambda event: event.raw["number"] == 9)
    first = [one for one, _ in zip(shared.remote.events(), range(7))]
    shared.close()
    rest = list(shared.remote.events(spelled(first[-1])))
    assert [*first, *rest] == shared.told()


@pytest.mark.parametrize("after", ["x", "1-", "-1", "1-0-0", "9" * 40, "١"])
def test_an_id_that_is_none_is_refused(shared: Shared, after: str) -> None:
    """What no event can have as its id is refused at once, before anything is told."""
    with pytest.raises(ConfigError, match="id of an event"):
        shared.remote.events(after)
    with pytest.raises(ConfigError, match="id of an event"):
        shared.remote.sse(after)


def test_what_was_trimmed_is_counted(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """A stream is bounded; a watcher that comes too late is told how many events it missed, and gets the rest."""
    shared = Shared(server, gateway, conversations, max_events=100)
    for number in range(1000):
        shared.talk.say("count", number=number)
    shared.client.wait_for("unknown", WAIT, where=lambda event: event.raw["number"] == 999)
    shared.close()
    told = shared.told()
    assert 100 <= len(told) < 400  # about: Redis trims by whole blocks
    assert told[0].lost == told[0].number - 1 > 500
    assert not any(one.lost for one in told[1:])
    assert told[-1].name == "closed"


def test_there_is_no_such_conversation(conversations: Conversations) -> None:
    """A conversation that nobody shares cannot be watched, known or commanded, and asking leaves nothing in Redis."""
    remote = conversations.get("nobody")
    for attempt in (remote.events, remote.sse, remote.about, remote.is_over, remote.interrupt, lambda: remote.send_text("Hello")):
        with pytest.raises(NotConnectedError, match="no conversation 'nobody'") as caught:
            attempt()
        assert caught.value.code == "unknown_conversation"


@pytest.mark.parametrize("wrong", ["", "a b", "{a}", "a\n", "x" * 201, 5, None])
def test_an_id_of_a_conversation_is_checked(conversations: Conversations, wrong: Any) -> None:
    """What could not be a key, or would leave its slot in a cluster, is refused."""
    with pytest.raises(ConfigError, match="a conversation id is text"):
        conversations.get(wrong)


# -- server-sent events --------------------------------------------------------------------------------------------------------


def messages(stream: bytes) -> list[dict[str, str]]:
    """The messages of a stream, as a browser takes it apart."""
    return [
        dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        for block in stream.decode().split("\n\n")
        if block and not re.fullmatch("id: .*", block)  # which tells nothing, but how far the stream has come
    ]


def test_server_sent_events_carry_ids_and_json(shared: Shared) -> None:
    """Each message has the event's id and its JSON in one line; a page is not told instructions and the like unless it is wanted."""
    shared.talk.say("response.created", response={"id": "resp_1"})
    shared.talk.say("response.output_audio_transcript.done", response_id="resp_1", item_id="item_1", transcript="two\nlines")
    shared.client.wait_for("transcript_done", WAIT)
    shared.close()
    page = messages(b"".join(shared.remote.sse()))
    assert page[0] == {"retry": "1000"}
    values = [json.loads(one["data"]) for one in page[1:]]
    assert {"session_ready", "session_created"}.isdisjoint(value["name"] for value in values)
    assert [value["transcript"] for value in values if value["name"] == "transcript_done"] == ["two\nlines"]
    whole = messages(b"".join(shared.remote.sse(events="all")))[1:]
    assert [(one["id"], json.loads(one["data"])) for one in whole] == [(one.id, one.value) for one in shared.told()]
    some = messages(b"".join(shared.remote.sse(events=["closed"])))[1:]
    assert [json.loads(one["data"])["name"] for one in some] == ["closed"]


def test_a_browser_that_comes_back_misses_nothing(shared: Shared) -> None:
    """With Last-Event-ID the stream goes on behind it; once all is told `is_over` says that there is nothing to come back for."""
    for number in range(5):
        shared.talk.say("count", number=number)
    shared.client.wait_for("unknown", WAIT, where=lambda event: event.raw["number"] == 4)
    assert not shared.remote.is_over("1000000-0")
    shared.close()
    whole = messages(b"".join(shared.remote.sse(events="all")))[1:]
    assert messages(b"".join(shared.remote.sse(whole[3]["id"], events="all")))[1:] == whole[4:]
    assert not shared.remote.is_over(whole[-2]["id"])
    assert shared.remote.is_over(whole[-1]["id"])


def test_a_silent_stream_says_that_it_lives(shared: Shared) -> None:
    """Where nothing happens a comment is sent, so that a browser that has gone is noticed."""
    stream = shared.remote.sse("1000-0", heartbeat=0.2)
    assert next(stream) == b"retry: 1000\n\n"
    assert next(stream) == b":\n\n"
    assert next(stream) == b":\n\n"


@pytest.mark.parametrize(("name", "wrong"), [("heartbeat", 0), ("heartbeat", True), ("events", "closed"), ("events", ["no_such"])])
def test_wrong_wishes_for_a_stream_are_refused(shared: Shared, name: str, wrong: Any) -> None:
    """A heartbeat that is none and events that do not exist are refused before the stream begins."""
    with pytest.raises(ConfigError):
        shared.remote.sse(**{name: wrong})


# -- commanding ----------------------------------------------------------------------------------------------------------------


def test_text_from_elsewhere_is_said_and_answered(shared: Shared) -> None:
    """`send_text` of any worker is the owner's `send_text`: the text, then the request for an answer."""
    outcome = shared.remote.send_text("Hello there")
    assert outcome == Outcome(state="done", event_id=outcome.event_id)
    assert outcome.check() is outcome
    sent = shared.talk.expect("conversation.item.create")
    assert sent["item"]["content"][0]["text"] == "Hello there"
    assert sent["event_id"] == outcome.event_id
    shared.talk.expect("response.create")
    shared.remote.send_text("and no answer", respond=False).check()
    shared.talk.fence(shared.client)
    assert shared.talk.count("response.create") == 1


def test_an_answer_is_interrupted_from_elsewhere(shared: Shared) -> None:
    """`interrupt` of any worker stops the answer that runs."""
    shared.client.send_text("Tell me a story")
    shared.talk.say("response.created", response={"id": "resp_1"})
    shared.client.wait_for("response_created", WAIT)
    assert shared.remote.interrupt().state == "done"
    shared.talk.expect("response.cancel")


def test_a_conversation_is_ended_from_elsewhere(shared: Shared, conversations: Conversations) -> None:
    """`end` of any worker closes the owner's client, and is done when that is."""
    assert shared.remote.end("enough").state == "done"
    assert shared.client.state == "closed"
    assert shared.talk.closed_with == (1000, "enough")
    told = shared.told()
    assert told[-1].value["reason"] == "enough"
    shared.owner.close()
    again = shared.remote.end()
    assert again.state == "refused"
    with pytest.raises(NotConnectedError, match="has ended; nothing was done"):
        again.check()
    assert shared.owner.conversation_id not in [about.conversation_id for about in conversations.list()]


@pytest.mark.parametrize(
    "command",
    [SendContext(text="It rains.", role="system"), {"name": "send_context", "text": "It rains.", "role": "system"}],
)
def test_any_command_can_be_sent(shared: Shared, command: Any) -> None:
    """A command object and its JSON spelling do the same."""
    shared.remote.send(command).check()
    item = shared.talk.expect("conversation.item.create")["item"]
    assert (item["role"], item["content"][0]["text"]) == ("system", "It rains.")


def test_bytes_of_a_command_arrive(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """Sound and pictures travel whole, as base64."""
    shared = Shared(server, gateway, conversations)
    shared.remote.send_audio(bytes(range(100))).check()
    assert shared.talk.expect("input_audio_buffer.append")["audio"].startswith("AAECAwQF")
    outcome = shared.remote.send(SendImage(image=b"\x89PNG...", media_type="image/png"))
    if outcome.state == "done":
        assert "iVBORy4uLg==" in json.dumps(shared.talk.expect("conversation.item.create"))
    else:
        assert isinstance(outcome.error, UnsupportedCommandError)
    shared.close()


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        ({"name": "send_text", "text": ""}, ConfigError, "not empty"),
        ({"name": "truncate_item"}, ConfigError, "truncate_item"),
        ({"name": "send_audio", "audio_base64": "?"}, ConfigError, "base64"),
        ({"name": "send_text", "text": {"no": "text"}}, ConfigError, "text"),
        ({"name": "retrieve_item", "item_id": "item_1"}, UnsupportedCommandError, "xai"),
        ({"name": "send_audio", "audio": 10**15}, ConfigError, "audio of send_audio must come as base64, named audio_base64"),
        ({"name": "send_image", "image": 10**15, "media_type": "image/png"}, ConfigError, "image of send_image must come as base64"),
        ({"name": "send_text", "text": "x", "item_id": {"y": 1}}, ConfigError, "item_id that is text"),
        ({"name": "send_text", "text": "x", "respond": "yes"}, ConfigError, "respond true or false"),
        ({"name": "truncate_item", "item_id": "x", "audio_end_ms": "soon"}, ConfigError, "audio_end_ms of truncate_item cannot be 'soon'"),
    ],
)
def test_what_the_owner_refuses_is_refused_in_its_words(shared: Shared, command: dict[str, Any], kind: type[Exception], words: str) -> None:
    """A command that raises at the owner is `refused`, with the same class of error and the same words."""
    outcome = shared.remote.send(command)
    assert outcome.state == "refused"
    assert isinstance(outcome.error, kind)
    assert words in str(outcome.error)
    with pytest.raises(kind):
        outcome.check()
    assert shared.client.is_connected


@pytest.mark.parametrize("wrong", [{"name": "no_such"}, {}, {"text": "x"}, "interrupt", 5])
def test_what_is_no_command_is_refused_at_once(shared: Shared, wrong: Any) -> None:
    """A name that no command has, or a thing that is none, raises in the sender."""
    with pytest.raises(ConfigError):
        shared.remote.send(wrong)


def test_a_command_is_done_once(shared: Shared) -> None:
    """The same order given twice, one after the other or at once, is done once, and every sender learns the same outcome."""
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.append(shared.remote.send_text("once", respond=False, command_id="order-1")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    outcomes.append(shared.remote.send_text("once", respond=False, command_id="order-1"))
    assert len(outcomes) == 9
    assert len({outcome.event_id for outcome in outcomes}) == 1
    assert {outcome.state for outcome in outcomes} == {"done"}
    shared.talk.fence(shared.client)
    assert shared.talk.count("conversation.item.create") == 1


def test_a_command_whose_outcome_cannot_be_told_is_not_done_again(shared: Shared, server: RedisServer) -> None:
    """When Redis is away in the moment after a command was done, only telling the outcome is repeated."""

    class Flaky(Store):
        failures = 3

        def answer(self, *arguments: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise ConnectError("away", code="redis_away")
            super().answer(*arguments)

    store, keys = Flaky(server.url), Keys(shared.owner.conversation_id)
    command = '{"name": "send_text", "text": "once", "respond": false}'
    fields = {"id": named("order-2", command), "command": command}
    waits: list[float] = []
    obey(shared.client, store, keys, shared.owner._token, "1-1", fields, lambda seconds: bool(waits.append(seconds)))
    obey(shared.client, store, keys, shared.owner._token, "1-2", fields, lambda seconds: True)  # sent again
    assert (store.failures, len(waits)) == (0, 3)
    assert shared.remote.send_text("once", respond=False, command_id="order-2").state == "done"
    shared.talk.fence(shared.client)
    assert shared.talk.count("conversation.item.create") == 1
    store.close()


@pytest.mark.parametrize("written", ["[]", "no JSON", '{"name": "send_text", "text": "x", "item_id": 5}', '{"name": 7}', "{}"])
def test_what_another_program_writes_cannot_end_the_sharing(shared: Shared, server: RedisServer, written: str) -> None:
    """Whatever stands in the stream of commands is refused with words, and the next command is done."""
    key = f"qai:{{{shared.owner.conversation_id}}}"
    with redis_package.Redis.from_url(server.url, decode_responses=True) as raw:
        raw.xadd(f"{key}:commands", {"no": "id", "no text": b"\xff"})
        raw.xadd(f"{key}:commands", {"id": "theirs", "command": written})
        found = raw.brpop(f"{key}:outcome:theirs", timeout=20)
    assert found is not None
    outcome = json.loads(found[1])
    if '"item_id": 5' not in written:  # some things only the service can judge
        assert (outcome["state"], bool(outcome["message"])) == ("refused", True)
    assert shared.remote.send_text("Hello").state == "done"


def test_an_id_is_that_of_one_order(shared: Shared) -> None:
    """Another order with an id that was used is done, not answered with the outcome of the first: nobody can keep it from being done."""
    assert shared.remote.interrupt(command_id="1").state == "done"
    assert shared.remote.send_text("Hello", respond=False, command_id="1").event_id
    shared.talk.expect("conversation.item.create")
    assert shared.remote.send({"respond": False, "text": "Hello", "name": "send_text"}, command_id="1").state == "done"
    shared.talk.fence(shared.client)
    assert shared.talk.count("conversation.item.create") == 1  # the same, spelled in another order


def test_what_was_withdrawn_stays_refused(shared: Shared) -> None:
    """Who asks again for a withdrawn command, by its id, is told again that it was not done; never that it was begun."""
    inside, go_on = threading.Event(), threading.Event()
    shared.client.on("closed", lambda event: (inside.set(), go_on.wait(WAIT)))
    thread = threading.Thread(target=lambda: shared.remote.end(timeout=WAIT))
    thread.start()
    assert inside.wait(WAIT)
    outcomes = [shared.remote.send_text("too late", timeout=0, command_id="late") for _ in range(2)]
    go_on.set()
    thread.join(WAIT)
    assert [(one.state, one.error and one.error.code) for one in outcomes] == [("refused", "not_done")] * 2


def test_nobody_waits_for_an_old_command(shared: Shared, server: RedisServer) -> None:
    """What an owner finds long after its sender gave up, as after a suspension, is not done, though all notes of it have expired."""
    key = f"qai:{{{shared.owner.conversation_id}}}:commands"
    with redis_package.Redis.from_url(server.url) as raw:
        seconds = raw.time()[0]
        order = {"id": "old", "command": '{"name": "send_text", "text": "old"}', "waits": "60000"}
        raw.xadd(key, order, id=f"{(seconds - 3600) * 1000}-0")
        raw.xadd(key, {**order, "id": "new"}, id=f"{seconds * 1000}-0")
        assert raw.brpop(f"{key.removesuffix('commands')}outcome:new", timeout=20)
    shared.talk.fence(shared.client)
    assert shared.talk.count("conversation.item.create") == 1


@pytest.mark.parametrize("wrong", [{"timeout": None}, {"timeout": float("nan")}, {"timeout": -1}, {"command_id": b"1"}, {"command_id": 1}])
def test_wrong_arguments_of_a_command_are_refused_before_it_is_sent(shared: Shared, server: RedisServer, wrong: dict[str, Any]) -> None:
    """A wrong patience or id is a `ConfigError`, and nothing was sent."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        shared.remote.interrupt(**wrong)
    with redis_package.Redis.from_url(server.url) as raw:
        assert raw.xlen(f"qai:{{{shared.owner.conversation_id}}}:commands") == 0


def test_commands_are_done_in_order(shared: Shared) -> None:
    """What one sender sends is done in the order in which it was sent."""
    for number in range(30):
        shared.remote.send({"name": "send_context", "text": str(number)}).check()
    texts = [shared.talk.expect("conversation.item.create")["item"]["content"][0]["text"] for _ in range(30)]
    assert texts == [str(number) for number in range(30)]


def test_what_is_not_begun_in_time_is_withdrawn(shared: Shared) -> None:
    """While the owner is busy a command waits; when its time is up it is refused, and surely not done later."""
    inside, go_on = threading.Event(), threading.Event()

    def busy(event: events.Event) -> None:
        inside.set()
        go_on.wait(WAIT)

    shared.client.on("closed", busy)
    ending: list[Outcome] = []
    thread = threading.Thread(target=lambda: ending.append(shared.remote.end(timeout=WAIT)))
    thread.start()
    assert inside.wait(WAIT)  # the owner's commanding thread is in `end`, which waits for this handler
    outcome = shared.remote.send_text("too late", timeout=0.1)
    go_on.set()
    thread.join(WAIT)
    assert outcome.state == "refused"
    assert outcome.error is not None
    assert outcome.error.code == "not_done"
    assert "nothing was done" in str(outcome.error)
    assert ending[0].state == "done"
    assert shared.talk.count("conversation.item.create") == 0


def test_what_was_begun_and_not_answered_is_unknown(shared: Shared) -> None:
    """A command that was taken, and whose outcome does not come in time, is `unknown`: it may have been done."""
    inside, go_on = threading.Event(), threading.Event()

    def busy(event: events.Event) -> None:
        inside.set()
        go_on.wait(WAIT)

    shared.client.on("closed", busy)
    for _ in range(50):
        outcome = shared.remote.end(timeout=0.2)
        if outcome.state != "refused":  # which it is where a busy machine does not even begin it in so short a time
            break
    go_on.set()
    assert inside.wait(WAIT)
    assert outcome.state == "unknown"
    assert isinstance(outcome.error, RealtimeTimeoutError)
    assert outcome.error.code == "outcome_unknown"


def test_one_intent_is_one_command(shared: Shared) -> None:
    """A text as a command asks for no answer; spelled with `respond` it does, as `send_text` of the client."""
    shared.remote.send(SendText(text="only this")).check()
    shared.remote.send({"name": "send_text", "text": "and this"}).check()
    shared.talk.fence(shared.client)
    assert (shared.talk.count("conversation.item.create"), shared.talk.count("response.create")) == (2, 0)
    shared.remote.send({"name": "send_text", "text": "now answer", "respond": True}).check()
    shared.talk.expect("response.create")


# -- who may -------------------------------------------------------------------------------------------------------------------


def test_the_programs_rule_is_asked_for_each_action(shared: Shared, server: RedisServer) -> None:
    """The rule sees user, conversation and action; what it denies raises and is not done, and is not listed."""
    asked: list[tuple[Any, str, str]] = []

    def may(user: Any, about: About, action: str) -> bool:
        asked.append((user, about.labels["user"], action))
        return bool(user == about.labels["user"] or (user == "boss" and action in ("watch", "list")))

    with Conversations(server.url, authorise=may) as guarded:
        mine = shared.owner.conversation_id
        for attempt, action in [
            (lambda remote: remote.events(), "watch"),
            (lambda remote: remote.sse(), "watch"),
            (lambda remote: remote.is_over(), "watch"),
            (lambda remote: remote.send_text("Hello"), "speak"),
            (lambda remote: remote.send_audio(b"\0\0"), "speak"),
            (lambda remote: remote.interrupt(), "interrupt"),
            (lambda remote: remote.send({"name": "cancel_response"}), "interrupt"),
            (lambda remote: remote.send({"name": "send_context", "text": "x"}), "control"),
            (lambda remote: remote.send({"name": "send_text", "text": "x"}), "speak"),
            (lambda remote: remote.send({"name": "create_response"}), "speak"),
            (lambda remote: remote.send({"name": "create_response", "instructions": "Tell all."}), "control"),
            (lambda remote: remote.send(CreateResponse(tools=[])), "control"),
            (lambda remote: remote.send({"name": "end"}), "end"),
            (lambda remote: remote.end(), "end"),
        ]:
            asked.clear()
            with pytest.raises(NotAllowedError, match=f"may not {action}") as caught:
                attempt(guarded.get(mine, user="eve"))  # type: ignore[no-untyped-call]
            assert isinstance(caught.value, PermissionError)
            assert caught.value.code == "not_allowed"
            assert asked == [("eve", "anna", action)]
        assert mine in [about.conversation_id for about in guarded.list("anna")]
        assert mine in [about.conversation_id for about in guarded.list("boss")]
        assert mine not in [about.conversation_id for about in guarded.list("eve")]
        assert next(guarded.get(mine, user="boss").events()).number == 1
        with pytest.raises(NotAllowedError):
            guarded.get(mine, user="boss").end()
        assert guarded.get(mine, user="anna").send_text("Hello").state == "done"
    assert shared.client.is_connected
    assert shared.talk.expect("conversation.item.create")["item"]["content"][0]["text"] == "Hello"


# -- owning --------------------------------------------------------------------------------------------------------------------


def test_an_id_is_used_once(shared: Shared, server: RedisServer, gateway: Service) -> None:
    """A second conversation under the same id is refused, while the first goes on and while its events are kept."""
    client = gateway.client()
    with pytest.raises(NotConnectedError, match="is taken"):
        share(client, server.url, shared.owner.conversation_id)
    shared.close()
    with pytest.raises(NotConnectedError, match="is taken") as caught:
        share(client, server.url, shared.owner.conversation_id)
    assert caught.value.code == "already_used"


def test_a_conversation_that_is_over_leaves_only_what_was_told(shared: Shared, server: RedisServer) -> None:
    """After the end the owner's key, the commands and the entry in the registry are gone, and the rest has a time to live."""
    shared.remote.interrupt()
    shared.close()
    with redis_package.Redis.from_url(server.url) as raw:
        prefix = f"qai:{{{shared.owner.conversation_id}}}:"
        left = {key.decode().removeprefix(prefix): raw.ttl(key) for key in raw.scan_iter(f"{prefix}*")}
        assert {name for name in left if not name.startswith(("taken:", "outcome:"))} == {"about", "events"}
        assert 0 < left["about"] <= 60
        assert 0 < left["events"] <= 60
        assert all(0 < seconds <= 600 for seconds in left.values())
        assert not raw.sismember("qai:live", shared.owner.conversation_id)


def test_everything_in_redis_has_an_end(shared: Shared, server: RedisServer) -> None:
    """No key of a conversation lives for ever, whoever dies: each has a time to live."""
    shared.remote.send_text("Hello")
    list(zip(shared.remote.events(), range(3)))
    with redis_package.Redis.from_url(server.url) as raw:
        keys = list(raw.scan_iter(f"qai:{{{shared.owner.conversation_id}}}:*"))
        assert len(keys) >= 5
        renewed = threading.Event()
        for _ in range(100):  # the stream of events gets its time with the owner's next sign of life
            if all(raw.ttl(key) > 0 for key in keys):
                break
            renewed.wait(0.1)
        assert all(raw.ttl(key) > 0 for key in keys)


def test_sharing_can_stop_before_the_conversation(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """`close` of the owner tells the watchers that it is over for them, and leaves the conversation alone."""
    shared = Shared(server, gateway, conversations)
    shared.owner.close()
    assert shared.owner.state == "over"
    assert shared.told()[-1].value["reason"] == "not shared any longer"
    assert shared.client.is_connected
    shared.talk.say("unheard")
    shared.client.wait_for("unknown", WAIT)
    assert shared.told()[-1].name == "closed"
    assert shared.remote.send_text("Hello").state == "refused"
    shared.owner.close()


def test_a_conversation_may_be_shared_in_the_middle(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """Sharing after `connect` begins with the events from then on."""
    client = gateway.client().connect()
    talk = gateway.talk()
    with share(client, server.url) as owner:
        talk.say("from.now.on")
        client.wait_for("unknown", WAIT)
        client.close()
    told = list(conversations.get(owner.conversation_id).events())
    assert told[0].value["type"] == "from.now.on"
    assert told[-1].name == "closed"


def test_a_client_that_is_over_is_not_shared(server: RedisServer, gateway: Service) -> None:
    """There is nothing to share of a conversation that has ended."""
    client = gateway.client()
    client.close()
    with pytest.raises(NotConnectedError, match="nothing to share"):
        share(client, server.url)


def test_a_client_that_never_connected_stops_being_shared(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """A client that is closed before it connected ends its sharing as any other."""
    client = gateway.client()
    owner = share(client, server.url)
    client.close()
    owner.close()
    assert owner.state == "over"
    assert [one.name for one in conversations.get(owner.conversation_id).events()] == ["state_changed", "closed"]


def test_a_client_of_the_program_is_used_as_it_is(server: RedisServer, gateway: Service) -> None:
    """A `redis.Redis` of the program serves as well as an address, decoding or not, in either protocol, and stays open."""
    for options in ({}, {"decode_responses": True}, {"protocol": 3}, {"protocol": 2, "decode_responses": True}):
        with redis_package.Redis.from_url(server.url, **options) as given:
            shared = Shared(server, gateway, Conversations(given))
            own = share(gateway.client().connect(), given)
            remote = Conversations(given).get(own.conversation_id)
            assert remote.send_text("Hello").state == "done", options
            own._client.close()
            own.close()
            shared.close()
            assert [one.name for one in remote.events()][-1] == "closed", options
            assert given.ping()


def test_a_cluster_serves_as_well(tmp_path: pathlib.Path, gateway: Service) -> None:
    """Over a Redis Cluster everything of a conversation is in one slot: sharing, commanding, watching and cleaning work."""
    with RedisServer(tmp_path, "--cluster-enabled", "yes") as server:
        with redis_package.Redis.from_url(server.url) as raw:
            raw.execute_command("CLUSTER ADDSLOTS", *range(16384))
            pause, deadline = threading.Event(), time.monotonic() + WAIT
            while "ok" not in str(raw.execute_command("CLUSTER INFO")).partition("cluster_state")[2][:10]:
                assert time.monotonic() < deadline, "the cluster does not begin"
                pause.wait(0.05)
        with redis_package.RedisCluster(host="127.0.0.1", port=server.port) as cluster:
            conversations = Conversations(cluster)
            shared = Shared(server, gateway, conversations, redis=cluster)
            assert shared.remote.send_text("Hello").state == "done"
            assert [about.conversation_id for about in conversations.list()] == [shared.owner.conversation_id]
            assert clean(cluster, None, grace=0.1) == []
            shared.close()
            assert shared.told()[-1].name == "closed"
            assert list(shared.remote.events("$")) == []
            keys = Keys("any")
            assert len({cluster.keyslot(key) for key in (*keys.all, keys.of_command("taken", "1"))}) == 1


@pytest.mark.parametrize("wrong", ["localhost:6379", 5, None, object()])
def test_what_is_no_redis_is_refused(gateway: Service, wrong: Any) -> None:
    """Neither an address nor a client: refused before anything is opened."""
    with pytest.raises(ConfigError):
        share(gateway.client(), wrong)
    with pytest.raises(ConfigError):
        Conversations(wrong)


def test_a_client_without_patience_is_refused(server: RedisServer) -> None:
    """A client that gives up before Redis has finished waiting would fail at every wait."""
    with redis_package.Redis.from_url(server.url, socket_timeout=0.5) as given:
        with pytest.raises(ConfigError, match="socket_timeout"):
            Conversations(given)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("ttl", 0), ("ttl", "6"), ("linger", -1), ("max_events", 0), ("ttl", True), ("labels", {"user": 5}), ("conversation_id", "a b")],
)
def test_wrong_arguments_of_share_are_refused(server: RedisServer, gateway: Service, name: str, wrong: Any) -> None:
    """Wrong numbers, labels and ids are refused in the line that gives them."""
    with pytest.raises(ConfigError):
        share(gateway.client(), server.url, **{name: wrong})


def test_sharing_without_redis_is_refused_at_once(gateway: Service, tmp_path: pathlib.Path) -> None:
    """If Redis is away when it is wanted first, `share` says so, and the client is as it was."""
    away = RedisServer(tmp_path)  # not started
    client = gateway.client()
    with pytest.raises(ConnectError, match="Redis does not answer") as caught:
        share(client, away.url)
    assert caught.value.code == "redis_away"
    with pytest.raises(ConnectError):
        Conversations(away.url).list()
    client.connect()
    assert client.is_connected


def test_a_forked_child_leaves_the_sharing_alone(shared: Shared) -> None:
    """In a forked process the parent's owner does nothing, and its client raises as everywhere."""
    import os

    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        try:
            shared.owner.close()
            shared.client.close()
        except ForkedClientError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert shared.remote.send_text("still there").state == "done"


def test_nothing_of_the_owner_keeps_the_process(server: RedisServer, gateway: Service, conversations: Conversations) -> None:
    """A program that just ends closes its conversation and publishes the end of it, whichever came first, `share` or `connect`."""
    sharing, connecting = "owner = share(client, url, name)", "client.connect()"
    for first, second in ((sharing, connecting), (connecting, sharing)):
        name = f"ends-{len(first)}"
        code = (
            "import sys\nfrom qai_realtime_sync import RealtimeClient\nfrom qai_realtime_sync.contrib.redis import share\n"
            f"url, name = {server.url!r}, {name!r}\nclient = RealtimeClient('k', base_url={gateway.base_url!r})\n{first}\n{second}\n"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
        # On a busy machine a handler may be slow for once, and the client says so.
        complaints = [line for line in done.stderr.splitlines() if "held up the conversation" not in line]
        assert (done.returncode, complaints) == (0, [])
        assert list(conversations.get(name).events())[-1].value["by"] == "client"


def test_a_missing_package_is_named_with_the_pip_line() -> None:
    """Without the package redis the import says what to install."""
    code = (
        "import sys\nsys.modules['redis'] = None\nfrom qai_realtime_sync import ConfigError\n"
        "try:\n    import qai_realtime_sync.contrib.redis\nexcept ConfigError as error:\n    print(error.code, error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("missing_dependency ")
    assert "pip install 'qai-realtime-sync[redis]'" in done.stdout


def test_the_client_does_not_load_redis() -> None:
    """The package works without it: nothing of the client imports it."""
    code = "from qai_realtime_sync import RealtimeClient\nRealtimeClient('k')\nimport sys\nprint('redis' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_a_client_keeps_its_threads_named(shared: Shared) -> None:
    """The two threads of a shared conversation have names that tell whose they are, and are gone with it."""
    assert {"qai-redis-events", "qai-redis-commands"} <= {thread.name for thread in threading.enumerate()}
    shared.close()
    assert not any(thread.name.startswith("qai-redis") for thread in threading.enumerate())


def test_direct_use_of_a_client_is_not_needed(server: RedisServer) -> None:
    """A conversation that is not connected yet is in the registry with its owner and labels, and can be told to end."""
    client = RealtimeClient("k", base_url="http://127.0.0.1:9")
    with share(client, server.url, labels={"user": "bob"}, name="machine-7") as owner, Conversations(server.url) as conversations:
        (about,) = [about for about in conversations.list() if about.conversation_id == owner.conversation_id]
        assert (about.owner, about.labels, about.session_id, about.ended) == ("machine-7", {"user": "bob"}, "", None)
        refused = conversations.get(owner.conversation_id).send_text("Hello")
        assert (refused.state, type(refused.error)) == ("refused", NotConnectedError)
        assert conversations.get(owner.conversation_id).end().state == "done"
    assert client.state == "closed"


def test_a_raw_event_arrives_whole(shared: Shared) -> None:
    """What a command's written form hides, the query of an address or all of a text, is what the service is sent."""
    content = [{"type": "input_image", "image_url": "https://pictures.test/1.png?size=2"}]
    event = {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
    for value in (event, json.dumps(event)):
        shared.remote.send(RawEvent(value=value)).check()
        assert shared.talk.expect("conversation.item.create")["item"]["content"] == content
