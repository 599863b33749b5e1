"""Publishing, trimming and resuming in any order: nothing is lost without being told, nothing comes twice."""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from qai_realtime_sync.events import AudioDelta, Closed, Event, SpeechStarted
from tests.contrib.redis_server import RedisServer
from tests.servers import service

pytest.importorskip("redis", reason="the package redis is not installed")

from qai_realtime_sync.contrib.redis import Conversations, PublishedEvent, scripts, share
from qai_realtime_sync.contrib.redis.backlog import Backlog
from qai_realtime_sync.contrib.redis.store import DAY, Keys, Store
from qai_realtime_sync.contrib.redis.watching import sse, watch
from qai_realtime_sync.contrib.sse import Shown

WAIT = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the tests of this file."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def store(server: RedisServer) -> Iterator[Store]:
    """It, as our files see it."""
    made = Store(server.url)
    made.live()  # its connection is opened here, and not left behind by the first test
    yield made
    made.close()


class Owned:
    """A conversation in Redis without a client: what an owner would write, step by step."""

    names = itertools.count(1)

    def __init__(self, store: Store) -> None:
        self.store, self.keys, self.token = store, Keys(f"step-{next(self.names)}"), "token"
        self.number = 0
        assert store.run(scripts.RENEW, self.keys.all, self.token, 600_000, DAY, "1", 0, "session_id", "") == "owner"

    def publish(self, count: int, *, again: int = 0, name: str = "count") -> int:
        """Publish so many events, and once more the last ``again`` before them, as after a broken connection."""
        numbers = range(max(1, self.number - again + 1), self.number + count + 1)
        self.number += count
        parts: list[Any] = []
        for number in numbers:
            parts += [number, "0.5", json.dumps({"name": name, "n": number})]
        keys = (self.keys.owner, self.keys.events, self.keys.about)
        return int(self.store.run(scripts.PUBLISH, keys, self.token, 1_000_000, *parts))

    def trim(self, left: int) -> None:
        """Let Redis keep only the newest events."""
        self.store._redis.xtrim(self.keys.events, maxlen=left, approximate=False)


class Watching:
    """A watcher that dies and comes back; it knows only the id of what it was told last."""

    def __init__(self, owned: Owned) -> None:
        self.owned = owned
        self.told: list[PublishedEvent] = []

    @property
    def after(self) -> int:
        """The number of the last event it was told."""
        return self.told[-1].number if self.told else 0

    def read(self, most: int) -> None:
        """Take what is there, ``most`` events at most, and die."""
        found = watch(self.owned.store, self.owned.keys, self.after, 0.05)
        for one in found:
            if one is None:
                break
            self.told.append(one)
            most -= 1
            if not most:
                break
        found.close()  # type: ignore[attr-defined]


STEPS = strategies.lists(
    strategies.one_of(
        strategies.tuples(strategies.just("publish"), strategies.integers(1, 30), strategies.integers(0, 10)),
        strategies.tuples(strategies.just("trim"), strategies.integers(1, 20), strategies.just(0)),
        strategies.tuples(strategies.just("read"), strategies.integers(1, 40), strategies.integers(0, 2)),
    ),
    max_size=25,
)


@hypothesis.settings(max_examples=60)
@hypothesis.given(steps=STEPS)
def test_any_interleaving_loses_and_doubles_nothing(store: Store, steps: list[tuple[str, int, int]]) -> None:
    """However publishing (twice too), trimming and resuming follow each other, told and lost together are all events, each once."""
    owned = Owned(store)
    watchers = [Watching(owned) for _ in range(3)]
    trimmed = 0
    for step, count, more in steps:
        if step == "publish":
            assert owned.publish(count, again=more) != -1
        elif step == "trim":
            owned.trim(count)
            trimmed = max(trimmed, owned.number - count)
        elif owned.number > watchers[more].after:
            watchers[more].read(min(count, owned.number - watchers[more].after))
    owned.publish(1, name="closed")
    for watcher in watchers:
        watcher.read(100_000)
        numbers = [one.number for one in watcher.told]
        assert numbers == sorted(set(numbers))
        assert [one.value["n"] for one in watcher.told] == numbers
        assert [one.lost for one in watcher.told] == [b - a - 1 for a, b in itertools.pairwise([0, *numbers])]
        lost = set(range(1, owned.number + 1)) - set(numbers)
        assert len(lost) == sum(one.lost for one in watcher.told)
        assert all(number <= trimmed for number in lost)
        assert numbers[-1] == owned.number


def test_what_is_published_by_another_token_is_refused(store: Store) -> None:
    """Only the owner of the moment can publish."""
    owned = Owned(store)
    owned.publish(3)
    owned.token = "another"
    assert owned.publish(1) == -1
    assert store.last(owned.keys.events) == "3-0"


def test_watchers_that_come_and_go_at_random_are_told_all(server: RedisServer) -> None:
    """Four watchers that die every few events, while a real owner publishes two thousand, are each told all of them once."""
    with service() as gateway, Conversations(server.url) as conversations:
        client = gateway.client()
        with share(client, server.url, max_events=5000) as owner:
            client.connect()
            talk = gateway.talk()
            results: dict[int, list[PublishedEvent]] = {seed: [] for seed in range(4)}

            def follow(seed: int) -> None:
                chance = random.Random(seed)
                told = results[seed]
                while not told or told[-1].name != "closed":
                    found = conversations.get(owner.conversation_id).events(told[-1].id if told else None)
                    for one, _ in zip(found, range(chance.randint(1, 60))):
                        told.append(one)

            threads = [threading.Thread(target=follow, args=(seed,)) for seed in results]
            for thread in threads:
                thread.start()
            for number in range(2000):
                talk.say("count", n=number)
            client.wait_for("unknown", WAIT, where=lambda event: event.raw["n"] == 1999)
            client.close()
            for thread in threads:
                thread.join(WAIT)
    for told in results.values():
        assert [one.number for one in told] == list(range(1, len(told) + 1))
        assert len(told) > 2000
        assert sum(one.lost for one in told) == 0


# -- the owner's backlog -------------------------------------------------------------------------------------------------------


def test_a_backlog_that_is_full_drops_the_oldest_and_counts() -> None:
    """While Redis is away the newest events are kept; numbers go on, so that a watcher is told of the gap."""
    backlog = Backlog(audio=False, most=5)
    for _ in range(20):
        backlog.put(SpeechStarted())
    assert backlog.dropped == 15
    assert [due.number for due in backlog.first(0)] == [16, 17, 18, 19, 20]
    backlog.published(18)
    assert (backlog.waiting, backlog.is_done) == (2, False)


def test_a_backlog_is_bounded_in_bytes_too() -> None:
    """Sound that waits takes no more memory than it may."""
    backlog = Backlog(audio=True, most_bytes=10_000)
    for _ in range(30):
        backlog.put(AudioDelta(audio=bytes(1000)))
    assert (backlog.waiting, backlog.dropped) == (10, 20)
    backlog.published(25)
    assert backlog.waiting == 5
    silent = Backlog(audio=False, most_bytes=1)
    silent.put(AudioDelta(audio=bytes(1000)))
    assert (silent.waiting, silent.dropped) == (1, 0)


def test_closed_is_the_last_event_of_a_backlog() -> None:
    """Nothing is taken after `Closed`, and all is done once that is published."""
    backlog = Backlog(audio=False)
    for event in (SpeechStarted(), Closed(), SpeechStarted()):
        backlog.put(event)
    assert [due.number for due in backlog.first(0)] == [1, 2]
    assert (backlog.over, backlog.is_done) == (True, False)
    backlog.published(2)
    assert backlog.is_done


def test_what_json_cannot_say_does_not_stop_the_rest() -> None:
    """An event with a value that JSON does not know is told by its name and problem."""
    backlog = Backlog(audio=False)

    class Odd(Event):
        def to_dict(self) -> dict[str, Any]:
            return {"name": "odd", "value": float("nan")}

    backlog.put(Odd())
    (due,) = backlog.first(0)
    value = json.loads(due.spelled())
    assert value["name"] == "odd"
    assert "no JSON form" in value["problem"]


def test_putting_into_a_backlog_does_not_wait() -> None:
    """The client's thread is free again at once, though nobody takes anything out."""
    backlog = Backlog(audio=False, most=100)
    done = threading.Event()

    def fill() -> None:
        for _ in range(10_000):
            backlog.put(AudioDelta(audio=bytes(9600)))
        done.set()

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    assert done.wait(WAIT)
    thread.join(WAIT)
    assert backlog.waiting == 100


# -- server-sent events --------------------------------------------------------------------------------------------------------


def test_a_gap_is_told_before_what_follows_it(store: Store) -> None:
    """Who comes back too late gets `missed` with how many, without an id of its own, then the rest."""
    owned = Owned(store)
    owned.publish(10)
    owned.trim(4)
    owned.publish(1, name="closed")
    stream = b"".join(sse(watch(store, owned.keys, 2, 1.0), Shown.choose("all"), 1.0))
    assert stream.split(b"\n\n")[1] == b"event: missed\ndata: 4"
    assert stream.count(b"data: {") == 5
    hidden = b"".join(sse(watch(store, owned.keys, 2, 1.0), Shown.choose(["speech_started"]), 1.0))
    assert hidden == b"retry: 1000\n\nevent: missed\ndata: 4\n\nid: 11-0\n\n"


def test_events_that_are_not_told_are_silence(store: Store) -> None:
    """While only events come that this watcher is not told of, it gets comments all the same, with the number of the last one."""
    owned = Owned(store)
    deadline = time.monotonic() + WAIT

    def coming() -> Iterator[PublishedEvent | None]:
        found = watch(store, owned.keys, 0, 60.0)
        while time.monotonic() < deadline:
            owned.publish(1, name="speech_started")
            yield next(found)

    stream = sse(coming(), Shown.choose(["turn_done"]), 0.1)
    assert next(stream) == b"retry: 1000\n\n"
    for _ in range(2):
        assert next(stream) == b":\nid: %d-0\n\n" % owned.number


def test_a_stream_ends_quietly_when_redis_is_away_for_long() -> None:
    """A browser comes back by itself with its last id, so an error in the middle would help nobody."""

    def failing() -> Iterator[PublishedEvent | None]:
        from qai_realtime_sync import ConnectError

        yield PublishedEvent(id="1-0", number=1, at=0.0, value={"name": "closed"})
        raise ConnectError("away", code="redis_away")

    stream = list(sse(failing(), Shown.choose("all"), 1.0))
    assert stream[-1] == b": redis_away\n\n"
    assert b"id: 1-0" in stream[-2]
