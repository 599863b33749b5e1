"""Redis goes away, hangs, comes back empty: the conversation does not notice, and watchers are told all that can be told."""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ConnectError, RealtimeClient, RealtimeTimeoutError
from tests.contrib.redis_server import RedisServer
from tests.servers import Service, Talk, service

pytest.importorskip("redis", reason="the package redis is not installed")

from qai_realtime_sync.contrib.redis import Cleaner, Conversations, Owner, PublishedEvent, Remote, share, watching

WAIT = 30.0


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    """A redis-server that the test may stop."""
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def gateway() -> Iterator[Service]:
    """A scripted service."""
    with service() as running:
        yield running


class Story:
    """A shared conversation with a watcher in a thread."""

    def __init__(self, server: RedisServer, gateway: Service, **options: Any) -> None:
        self.client: RealtimeClient = gateway.client()
        self.owner: Owner = share(self.client, server.url, **options)
        self.client.connect()
        self.talk: Talk = gateway.talk()
        self.conversations = Conversations(server.url)
        self.remote: Remote = self.conversations.get(self.owner.conversation_id)
        self.told: list[PublishedEvent] = []
        self.changed = threading.Condition()
        self.count = 0
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self) -> None:
        """Collect what is told."""
        try:
            for one in self.remote.events():
                with self.changed:
                    self.told.append(one)
                    self.changed.notify_all()
        except ConnectError as error:
            self.error = error

    def happen(self, count: int) -> float:
        """Let so many events happen, and return how long it took until the program had them all."""
        started = time.monotonic()
        for _ in range(count):
            self.count += 1
            self.talk.say("count", n=self.count)
        self.client.wait_for("unknown", WAIT, where=lambda event: event.raw["n"] == self.count)
        return time.monotonic() - started

    def told_all(self) -> bool:
        """Wait until the watcher has what happened."""
        with self.changed:
            return self.changed.wait_for(lambda: sum(one.name == "unknown" for one in self.told) == self.count, WAIT)

    def end(self) -> None:
        """End it all."""
        self.client.close()
        self.owner.close()
        self.thread.join(WAIT)
        self.late = list(self.remote.events())
        self.conversations.close()


def state_becomes(owner: Owner, state: str) -> bool:
    """Wait for the owner's state."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT
    while owner.state != state and time.monotonic() < deadline:
        pause.wait(0.02)
    return owner.state == state


def test_redis_restarts_empty(server: RedisServer, gateway: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that was away and has forgotten all gets the rest, and who watches loses nothing; commands work again."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(20)
    assert story.told_all()
    with caplog.at_level(logging.INFO, "qai_realtime_sync"):
        server.stop()
        assert story.happen(20) < 15
        assert state_becomes(story.owner, "away")
        assert story.client.is_connected
        assert story.owner.waiting >= 20
        with pytest.raises(RealtimeTimeoutError, match="were not published within 0.1 s; sharing is away"):
            story.owner.drain(0.1)
        with pytest.raises(ConnectError):
            story.remote.interrupt()
        server.start()
        assert state_becomes(story.owner, "shared")
        story.happen(20)
        assert story.told_all()  # the owner has logged that it is back before it publishes these
    assert "Redis does not answer" in caplog.text
    assert "Redis is back" in caplog.text
    assert [about.conversation_id for about in story.conversations.list()] == [story.owner.conversation_id]
    assert story.remote.send_text("Hello").state == "done"
    story.talk.expect("conversation.item.create")
    story.end()
    assert [one.number for one in story.told] == list(range(1, len(story.told) + 1))
    assert (story.told[-1].name, story.owner.dropped, story.error) == ("closed", 0, None)
    assert story.late[0].lost == story.late[0].number - 1 > 0  # who comes now is told that the beginning is not there any more


def test_redis_hangs(server: RedisServer, gateway: Service) -> None:
    """While Redis accepts and answers nothing the handlers go on at once, and afterwards nothing is missing."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(5)
    assert story.told_all()
    server.freeze()
    try:
        assert story.happen(200) < 15  # Redis is given four seconds for each answer
        assert max(handler.slowest for handler in story.client.metrics.handlers if "put" in handler.handler) < 3
    finally:
        server.thaw()
    assert story.told_all()
    story.end()
    assert [one.number for one in story.told] == list(range(1, len(story.told) + 1))


def test_a_living_owner_survives_a_long_outage_beside_a_cleaner(server: RedisServer, gateway: Service) -> None:
    """When Redis comes back with the owner's key expired, the owner has it again before a cleaner may take it."""
    story = Story(server, gateway, ttl=0.6)
    taken: list[Any] = []
    with Cleaner(server.url, None, every=0.05, grace=4.0, told=taken.append):
        server.freeze()
        threading.Event().wait(1.5)  # longer than the key lives
        server.thaw()
        story.happen(5)
        assert story.told_all()
        threading.Event().wait(0.5)
    assert taken == []
    assert (story.owner.state, story.client.is_connected) == ("shared", True)
    story.end()


def test_the_end_without_redis_is_bounded(
    server: RedisServer, gateway: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client closes as fast as ever while Redis is away, and the owner gives up soon after, with a line in the log."""
    monkeypatch.setattr(watching, "_GONE_AFTER", 0.5)
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    server.stop()
    story.happen(3)
    started = time.monotonic()
    story.client.close()
    assert time.monotonic() - started < 5  # it promises 3
    story.owner.close(timeout=2.0)
    assert time.monotonic() - started < 12
    assert story.owner.state == "over"
    assert "a cleaner will end it in Redis" in caplog.text
    watching_ended = story.thread
    server.start()  # empty: the watcher finds nothing behind its id any more, and ends after a while
    watching_ended.join(WAIT)
    assert not watching_ended.is_alive()
    story.conversations.close()


def test_a_living_conversation_is_not_left_to_a_cleaner(server: RedisServer, gateway: Service) -> None:
    """Sharing that ends while Redis is away goes on behind the scenes until Redis knows it: else the call would be taken for dead."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    server.stop()
    story.happen(3)
    story.owner.close(timeout=0.2)
    assert story.client.is_connected
    assert state_becomes(story.owner, "away")
    server.start()
    assert state_becomes(story.owner, "over")
    with Cleaner(server.url, None, grace=0.1) as cleaner:
        assert cleaner.look() == ([], 0)
    assert story.client.is_connected
    story.thread.join(WAIT)
    assert story.told[-1].value["reason"] == "not shared any longer"
    story.end()


def test_redis_is_emptied_without_going_away(server: RedisServer, gateway: Service) -> None:
    """After FLUSHALL the conversation is in the registry again, so that a cleaner finds it when its owner dies, and bills all of it."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    raw = story.conversations._store._redis
    story.owner._metered = ("", story.owner._metered[1] - 100)
    raw.flushall()
    deadline = time.monotonic() + WAIT
    while not story.conversations.list():
        assert time.monotonic() < deadline, "it is not registered any more"
        threading.Event().wait(0.05)
    assert 100 <= story.remote.about().metered_seconds < 100 + WAIT  # not since it was emptied
    assert story.owner.state == "shared"
    story.happen(3)
    story.end()


def test_a_sender_waits_out_a_lost_connection(server: RedisServer, gateway: Service) -> None:
    """A connection to Redis that breaks while a command is done costs the sender nothing: it learns the outcome."""
    story = Story(server, gateway, ttl=6.0)
    inside, go_on = threading.Event(), threading.Event()
    story.client.on("closed", lambda event: (inside.set(), go_on.wait(WAIT)))
    outcomes: list[Any] = []
    sender = threading.Thread(target=lambda: outcomes.append(story.remote.end(timeout=WAIT)))
    sender.start()
    assert inside.wait(WAIT)
    raw = story.conversations._store._redis
    for _ in range(3):
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    go_on.set()
    sender.join(WAIT)
    assert outcomes[0].state == "done", outcomes
    story.end()


def test_a_sender_does_not_deny_what_redis_forgot(server: RedisServer, gateway: Service) -> None:
    """When Redis comes back empty while a command is done, nobody can say any more whether it was begun: `unknown`, not `refused`."""
    story = Story(server, gateway, ttl=1.0)
    inside, go_on = threading.Event(), threading.Event()
    done = story.client.interrupt
    story.client.interrupt = lambda: (inside.set(), go_on.wait(WAIT), done())[2]  # type: ignore[method-assign]
    outcomes: list[Any] = []
    sender = threading.Thread(target=lambda: outcomes.append(story.remote.interrupt(timeout=6.0)))
    sender.start()
    assert inside.wait(WAIT)
    server.stop()
    server.start()
    sender.join(WAIT)
    go_on.set()
    assert outcomes[0].state == "unknown", outcomes
    del story.client.interrupt
    story.end()


def test_a_command_is_unknown_if_redis_goes_away_meanwhile(server: RedisServer, gateway: Service) -> None:
    """A sender that cannot hear the outcome any more does not claim to know it."""
    story = Story(server, gateway, ttl=5.0)
    inside, go_on = threading.Event(), threading.Event()
    story.client.on("closed", lambda event: (inside.set(), go_on.wait(WAIT)))
    outcomes: list[Any] = []
    sender = threading.Thread(target=lambda: outcomes.append(story.remote.end(timeout=4.0)))
    sender.start()
    assert inside.wait(WAIT)
    server.stop()
    sender.join(WAIT)
    go_on.set()
    assert (outcomes[0].state, outcomes[0].error.code) == ("unknown", "outcome_unknown")
    server.start()
    story.end()


def test_the_end_is_told_though_redis_forgot_it(server: RedisServer, gateway: Service) -> None:
    """When Redis forgets the last event before anybody read it, who watches is told it all the same, with how many are missing."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    inside, go_on = threading.Event(), threading.Event()
    story.owner._retire = lambda retire=story.owner._retire: (inside.set(), go_on.wait(WAIT), retire())[2]  # type: ignore[method-assign]
    known = story.told[-1].id
    story.client.close()
    assert inside.wait(WAIT)  # all is published, and the keys are not gone yet
    server.stop()
    server.start()
    go_on.set()
    assert state_becomes(story.owner, "over")
    after = list(story.remote.events(known))
    assert [one.name for one in after] == ["closed"]
    assert after[0].lost == after[0].number - int(known.partition("-")[0]) - 1
    assert list(story.remote.events(after[0].id)) == []  # nothing to wait for
    story.thread.join(WAIT)
    story.conversations.close()


def test_a_watcher_gives_up_after_a_while(server: RedisServer, gateway: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """When Redis stays away the iteration raises, so that nobody waits for ever without knowing."""
    monkeypatch.setattr(watching, "_PATIENCE", 1.0)
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    server.stop()
    story.thread.join(WAIT)
    assert story.error is not None
    assert story.error.code == "redis_away"
    server.start()
    story.end()


def test_a_redis_that_is_full_is_told(server: RedisServer, gateway: Service, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis without memory to spare refuses to write: that is an outage like any other, and it ends when there is memory again."""
    story = Story(server, gateway, ttl=1.0)
    story.happen(3)
    assert story.told_all()
    raw = story.conversations._store._redis
    raw.config_set("maxmemory", "1")
    story.happen(3)
    assert state_becomes(story.owner, "away")
    raw.config_set("maxmemory", "0")
    assert story.told_all()
    assert "Redis cannot do what it is asked" in caplog.text
    story.end()
    assert [one.number for one in story.told] == list(range(1, len(story.told) + 1))
