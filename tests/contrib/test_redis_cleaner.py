"""A conversation whose owner died: ended at the gateway exactly once, its watchers told; a living one is left alone."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ApiError, ConfigError, ConnectError, RealtimeClient, RealtimeError, RestClient
from tests.client.gateway import gateway as minting
from tests.contrib.owner_process import OwnerProcess
from tests.contrib.redis_server import RedisServer
from tests.servers import Talk, service

pytest.importorskip("redis", reason="the package redis is not installed")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from qai_realtime_sync.contrib.redis import About, Cleaner, Conversations, clean, scripts, share
from qai_realtime_sync.contrib.redis.remote import named
from qai_realtime_sync.contrib.redis.store import Keys, Store
from qai_realtime_sync.offline import RealtimeServer

WAIT = 20.0
GRACE = 0.3


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One redis-server for the tests of this file."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator[str]:
    """Its address, with nothing in it."""
    import redis as package

    with package.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
    yield redis_server.url


@pytest.fixture
def gateway() -> Iterator[RealtimeServer]:
    """The local server as a gateway."""
    with RealtimeServer(light=True) as running:
        yield running


@pytest.fixture
def rest(gateway: RealtimeServer) -> RestClient:
    """The gateway's REST calls."""
    return RestClient("any key", base_url=gateway.url)


@pytest.fixture
def conversations(redis: str) -> Iterator[Conversations]:
    """Any worker."""
    with Conversations(redis) as made:
        yield made


def cleaned_soon(redis: str, rest: Any) -> Any:
    """Clean until something was cleaned: a dead owner's key lives for a moment."""
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        found = clean(redis, rest, grace=GRACE)
        if found:
            return found
    raise AssertionError("nothing was cleaned")


def test_the_conversation_of_a_dead_owner_is_ended_and_billed(
    redis: str, gateway: RealtimeServer, rest: RestClient, conversations: Conversations
) -> None:
    """After kill -9 the session is ended once, with the time it took, and watchers are told why it is over."""
    with OwnerProcess(redis, gateway.url, ttl=3.0) as owner:
        remote = conversations.get(owner.conversation_id)
        assert remote.send_text("Hello").state == "done"
        watching = remote.events()
        first = next(watching)
        owner.kill()
        (cleaned,) = cleaned_soon(redis, rest)
        assert cleaned.error is None
        assert (cleaned.about.conversation_id, cleaned.about.session_id) == (owner.conversation_id, owner.session_id)
        (session,) = gateway.ledger.sessions()
        assert (session["id"], session["ended"]) == (owner.session_id, 1)
        assert session["duration_seconds"] >= 1
        told = [first, *watching]
        assert [one.number for one in told] == list(range(1, len(told) + 1))
        assert told[-1].event.meaning == "lost"
        assert "died" in told[-1].value["reason"]
        assert conversations.list() == []
        assert remote.about().ended is not None
        assert remote.send_text("anybody?").state == "refused"
        assert clean(redis, rest, grace=0.1) == []
        assert gateway.ledger.sessions()[0]["ended"] == 1


def test_a_session_is_known_while_its_line_is_opened(redis: str) -> None:
    """The id of a minted session is in Redis while the service still thinks about the upgrade: who is killed then is billed too."""
    go_on = threading.Event()

    def slow(talk: Talk) -> None:
        go_on.wait(WAIT)
        talk.peer.upgrade()

    def connect() -> None:
        with contextlib.suppress(RealtimeError):
            client.connect(timeout=WAIT)

    with service(slow) as peer, minting(f"ws://127.0.0.1:{peer.server.port}/v1/realtime", {}) as minter:
        client = RealtimeClient("any key", base_url=minter.url, mint=True, provider="xai")
        with share(client, redis, ttl=60.0) as owner, Conversations(redis) as conversations:
            connecting = threading.Thread(target=connect)
            connecting.start()
            try:
                remote, deadline = conversations.get(owner.conversation_id), time.monotonic() + WAIT
                while not remote.about().session_id:
                    assert time.monotonic() < deadline, "the session is not known yet"
                    threading.Event().wait(0.01)
                assert client.state == "connecting"
            finally:
                client.abort()
                go_on.set()
                connecting.join(WAIT)


def test_a_command_to_a_dead_owner_has_a_sure_outcome(redis: str, gateway: RealtimeServer, conversations: Conversations) -> None:
    """What a dead owner did not begin is refused, before and after its key has expired; what it had begun is unknown."""
    with OwnerProcess(redis, gateway.url) as owner:
        remote, keys, store = conversations.get(owner.conversation_id), Keys(owner.conversation_id), Store(redis)
        store.run(scripts.TAKE, (keys.owner, keys.of_command("taken", named("begun", '{"name":"interrupt"}'))), "", "the owner", 60_000)
        owner.kill()
        waiting = remote.interrupt(timeout=WAIT)
        assert (waiting.state, waiting.error and waiting.error.code) == ("refused", "not_done")
        assert "nothing was done" in str(waiting.error)
        assert not store.exists(keys.owner)
        late = remote.interrupt()
        assert late.state == "refused"
        assert "died; nothing was done" in str(late.error)
        begun = remote.interrupt(command_id="begun")
        assert (begun.state, begun.error and begun.error.code) == ("unknown", "outcome_unknown")
        store.close()


def test_many_cleaners_end_a_conversation_once(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """However many look at once, each conversation is claimed by one, and each session ended once."""
    owners = [OwnerProcess(redis, gateway.url) for _ in range(3)]
    for owner in owners:
        owner.kill()
        owner.__exit__()
    found: list[Any] = []
    enough = threading.Event()

    def told(one: Any) -> None:
        found.append(one)
        if len(found) >= 3:
            enough.set()

    def look() -> None:
        cleaner = Cleaner(redis, rest, grace=GRACE, told=told)
        while not enough.wait(0.02):
            cleaner.look()
        cleaner.look()
        cleaner.close()

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert enough.wait(WAIT)
    for thread in threads:
        thread.join(WAIT)
    assert sorted(one.about.session_id for one in found) == sorted(owner.session_id for owner in owners)
    assert [session["ended"] for session in gateway.ledger.sessions()] == [1, 1, 1]


def test_a_cleaner_in_a_thread_does_it_by_itself(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """A `Cleaner` looks every second and tells what it ended; with it closed its thread is gone."""
    told: list[Any] = []
    ended = threading.Event()
    with Cleaner(redis, rest, every=0.1, grace=GRACE, told=lambda one: (told.append(one), ended.set())) as cleaner:
        cleaner.start()
        with OwnerProcess(redis, gateway.url) as owner:
            owner.kill()
            assert ended.wait(WAIT)
    assert [one.about.conversation_id for one in told] == [owner.conversation_id]
    assert not any(thread.name == "qai-redis-cleaner" for thread in threading.enumerate())


def test_a_cleaner_can_be_started_after_a_fork(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """What was made before a fork is started again in the child: a thread of the parent is not there."""
    with Cleaner(redis, rest, every=0.05, grace=GRACE) as cleaner:
        child = os.fork()
        if child == 0:  # pragma: no cover - in the child
            try:
                cleaner.start()
                alive = cleaner._thread is not None and cleaner._thread.is_alive()
                os._exit(7 if alive else 8)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_living_owner_is_left_alone(redis: str, gateway: RealtimeServer, rest: RestClient, conversations: Conversations) -> None:
    """As long as the owner gives signs of life no cleaner touches its conversation."""
    with OwnerProcess(redis, gateway.url, ttl=5.0) as owner:
        for _ in range(4):
            assert clean(redis, rest, grace=GRACE) == []
        assert [about.conversation_id for about in conversations.list()] == [owner.conversation_id]
        assert conversations.get(owner.conversation_id).send_text("Hello").state == "done"


def test_an_owner_that_comes_back_in_time_keeps_it(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """An owner that was missed for less than the grace goes on as if nothing had been."""
    with OwnerProcess(redis, gateway.url, ttl=3.0) as owner:
        owner.signal(signal.SIGSTOP)
        cleaner = Cleaner(redis, rest, grace=WAIT)
        assert waited(lambda: cleaner.look() == ([], 1)), "the owner's key did not expire"
        owner.signal(signal.SIGCONT)
        assert waited(lambda: cleaner.look() == ([], 0)), "the owner did not come back"
        cleaner.close()
        with Conversations(redis) as conversations:
            assert conversations.get(owner.conversation_id).end().state == "done"
        assert owner.line("STATE") == "STATE over"


def test_an_owner_that_wakes_up_too_late_is_one_no_more(
    redis: str, gateway: RealtimeServer, rest: RestClient, conversations: Conversations
) -> None:
    """An owner that was taken for dead closes its client, publishes nothing more, and does no command."""
    with OwnerProcess(redis, gateway.url) as owner:
        remote = conversations.get(owner.conversation_id)
        owner.signal(signal.SIGSTOP)
        (cleaned,) = cleaned_soon(redis, rest)
        told = list(remote.events())
        owner.signal(signal.SIGCONT)
        assert owner.line("CLOSED") == "CLOSED client taken over"
        assert owner.line("STATE") == "STATE lost"
        assert list(remote.events()) == told
        assert told[-1].event.meaning == "lost"
        assert owner.finish() == 0
        assert "was taken from this process" in owner.complaints


def test_a_gateway_that_is_away_is_asked_again(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """While the gateway cannot be reached the conversation stays to be ended; nothing was sent, so it is asked again."""
    away = RestClient("any key", base_url="http://127.0.0.1:9")
    with OwnerProcess(redis, gateway.url) as owner:
        owner.kill()
        cleaner = Cleaner(redis, away, grace=GRACE)
        with Conversations(redis) as conversations:
            remote = conversations.get(owner.conversation_id)
            assert waited(lambda: cleaner.look() == ([], 1) and remote.about().claims == 1)
        cleaner.close()
        assert gateway.ledger.sessions()[0]["ended"] == 0
        (cleaned,) = cleaned_soon(redis, rest)
        assert cleaned.about.claims >= 2
        assert gateway.ledger.sessions()[0]["ended"] == 1


def test_a_gateway_with_too_many_requests_is_asked_again(redis: str, gateway: RealtimeServer) -> None:
    """A 429 has ended nothing: as when many owners die at once, the session is ended by a later look."""

    class Busy(RestClient):
        refusals = 2

        def end_session(self, session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None:
            if self.refusals:
                self.refusals -= 1
                raise ApiError("slow down", status_code=429, code="RATE_LIMITED_PER_KEY", retry_after=5.0)
            super().end_session(session_id, duration_seconds, timeout=timeout)

    with OwnerProcess(redis, gateway.url) as owner:
        owner.kill()
        (cleaned,) = cleaned_soon(redis, Busy("any key", base_url=gateway.url))
    assert cleaned.error is None
    assert gateway.ledger.sessions()[0]["ended"] == 1


def test_a_gateway_that_refuses_is_named(redis: str, gateway: RealtimeServer, caplog: pytest.LogCaptureFixture) -> None:
    """What the gateway refuses is not asked again: the watchers are told, and the log names the session."""

    class Refusing(RestClient):
        def end_session(self, session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None:
            raise ApiError("no", status_code=500, code="broken")

    with OwnerProcess(redis, gateway.url) as owner, caplog.at_level(logging.ERROR):
        owner.kill()
        (cleaned,) = cleaned_soon(redis, Refusing("any key", base_url=gateway.url))
    assert isinstance(cleaned.error, ApiError)
    assert f"session {owner.session_id} could not be ended" in caplog.text
    with Conversations(redis) as conversations:
        assert "could not be ended" in list(conversations.get(owner.conversation_id).events())[-1].value["reason"]


def test_each_conversation_may_have_a_gateway_of_its_own(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """`rest` may be a function that chooses by what is known of the conversation."""
    asked: list[About] = []

    def choose(about: About) -> RestClient:
        asked.append(about)
        return rest

    with OwnerProcess(redis, gateway.url) as owner:
        owner.kill()
        cleaned_soon(redis, choose)
    assert [(about.labels, about.session_id) for about in asked] == [({"user": "anna"}, owner.session_id)]
    assert gateway.ledger.sessions()[0]["ended"] == 1


def test_a_session_without_a_client_for_it_is_named(redis: str, gateway: RealtimeServer) -> None:
    """A cleaner without a RestClient ends what has no session, and says of what has one that it could not."""
    with OwnerProcess(redis, gateway.url) as owner, OwnerProcess(redis, gateway.url, mint=False) as other:
        owner.kill()
        other.kill()
        found: dict[str, Any] = {}
        while len(found) < 2:
            found |= {one.about.conversation_id: one.error for one in cleaned_soon(redis, None)}
    assert isinstance(found[owner.conversation_id], ConfigError)
    assert found[other.conversation_id] is None


def test_a_choice_that_fails_holds_up_nobody(
    redis: str, gateway: RealtimeServer, rest: RestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that raises for one conversation is asked again at a later look, and the other is ended all the same."""
    failures = 2

    def choose(about: About) -> RestClient:
        nonlocal failures
        if about.session_id == first and failures:
            failures -= 1
            raise KeyError("tenant")
        return rest

    with OwnerProcess(redis, gateway.url) as one, OwnerProcess(redis, gateway.url) as other:
        first = min((one, other), key=lambda owner: owner.conversation_id).session_id
        one.kill()
        other.kill()
        cleaned: list[Any] = []
        while len(cleaned) < 2:
            cleaned += cleaned_soon(redis, choose)
    assert [found.error for found in cleaned] == [None, None]
    assert {found.about.session_id for found in cleaned} == {one.session_id, other.session_id}
    assert failures == 0
    assert f"session {first} cannot be ended yet: choosing a RestClient for it failed: KeyError: 'tenant'" in caplog.text
    assert {session["id"]: session["ended"] for session in gateway.ledger.sessions()} == {one.session_id: 1, other.session_id: 1}


def test_a_cleaner_that_dies_at_it_is_replaced(redis: str, gateway: RealtimeServer, rest: RestClient) -> None:
    """A claim holds for a while only: when the cleaner dies in the middle, another one ends the conversation."""
    with OwnerProcess(redis, gateway.url) as owner:
        owner.kill()
        keys, store = Keys(owner.conversation_id), Store(redis)

        def claimed() -> bool:
            return bool(store.run(scripts.CLAIM, (keys.owner, keys.about), "a cleaner that dies", 1, 5000)[0] == "claimed")

        assert waited(claimed)
        assert clean(redis, rest, grace=0.0) == []  # the claim holds
        (cleaned,) = cleaned_soon(redis, rest)
        assert cleaned.about.claims == 2
        assert gateway.ledger.sessions()[0]["ended"] == 1
        store.close()


def test_a_clock_that_was_set_back_delays_nothing(redis: str, rest: RestClient) -> None:
    """An owner that was missed "an hour from now", by the clock of a Redis that was replaced, has the usual grace and no more."""
    store, keys = Store(redis), Keys("skewed")
    store.enlist("skewed")
    seconds = store._redis.time()[0]
    store._redis.hset(keys.about, mapping={"token": "dead", "orphaned": (seconds + 3600) * 1000})
    (cleaned,) = clean(redis, rest, grace=GRACE)
    assert cleaned.about.conversation_id == "skewed"
    store.close()


def test_an_entry_without_a_conversation_is_struck(redis: str, rest: RestClient) -> None:
    """What is registered and has nothing behind it is taken out of the registry."""
    store = Store(redis)
    store.enlist("ghost")
    assert clean(redis, rest, grace=0.1) == []
    assert store.live() == []
    store.close()


def test_a_cleaner_outlives_redis(redis_server: RedisServer, redis: str, rest: RestClient) -> None:
    """Without Redis `clean` raises; a cleaner's thread goes on, and so it does when `told` raises."""
    with pytest.raises(ConnectError):
        clean("redis://127.0.0.1:9", rest)
    with service() as gateway:
        with share(gateway.client(), redis, ttl=0.5) as owner:
            owner._stopping.set()  # it gives no sign of life any more
            owner._backlog.wake()
            told = threading.Event()

            def fails(one: Any) -> None:
                told.set()
                raise ValueError("not today")

            cleaner = Cleaner(redis, None, every=0.05, grace=0.1, told=fails).start()
            assert told.wait(WAIT)
            assert cleaner._thread is not None
            assert cleaner._thread.is_alive()
            cleaner.close()


@pytest.mark.parametrize("wrong", ["rest", 5])
def test_what_cannot_end_a_session_is_refused(redis: str, wrong: Any) -> None:
    """Neither a RestClient nor a function: refused at once."""
    with pytest.raises(ConfigError, match="RestClient"):
        Cleaner(redis, wrong)


def waited(condition: Any) -> bool:
    """Ask until it is true, for a while."""
    pause, deadline = threading.Event(), time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if condition():
            return True
        pause.wait(0.02)
    return False
