"""Minted sessions: each is ended exactly once, on every way out, or named in the log; and nothing a gateway does breaks a promise."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client import billing as billing_room
from qai_realtime_sync.client.billing import Billing, unsettled
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.errors import (
    ApiError,
    ConfigError,
    ConnectError,
    ForkedClientError,
    NotConnectedError,
    RealtimeError,
    RealtimeTimeoutError,
)
from qai_realtime_sync.events import Closed, Reconnected
from qai_realtime_sync.rest import RestClient
from tests.client.gateway import Gateway, Way, answer, drip, gateway, hang, hang_up, held
from tests.servers import Service, refuse, service

PATIENCE = 20.0
BOUND = 5.0  # close() promises 3 s; the rest is for a busy machine
AT_ONCE = ReconnectPolicy(base=0.01, cap=0.05)
KEY = "qai_k_very_secret"


class Scene:
    """A service, a gateway that mints sessions for it, and clients of both."""

    def __init__(self, peer: Service, minter: Gateway) -> None:
        self.peer, self.gateway = peer, minter

    def client(self, config: RealtimeConfig | None = None, **options: Any) -> RealtimeClient:
        options = {"provider": "xai", "reconnect": AT_ONCE, **options}
        client = RealtimeClient(KEY, config, base_url=self.gateway.url, mint=True, **options)
        self.peer.clients.append(client)
        return client


@contextlib.contextmanager
def scene(*opening: Any, **ways: Way | list[Way]) -> Iterator[Scene]:
    granted = ways.pop("granted", {})
    with service(*opening) as peer:
        with gateway(f"ws://127.0.0.1:{peer.server.port}/v1/realtime", ways, **granted) as minter:  # type: ignore[arg-type]
            try:
                yield Scene(peer, minter)
            finally:
                for client in peer.clients:
                    client.abort()


def settled(client: RealtimeClient, within: float = PATIENCE) -> None:
    """Wait until the client's REST calls are done, and their threads over."""
    billing = client._call.billing
    assert billing is not None
    assert client._call.over.wait(within)
    assert billing.wait(within)
    for thread in billing.threads:
        thread.join(within)
        assert not thread.is_alive()
    assert billing not in unsettled()


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    started = time.monotonic()
    yield
    took = time.monotonic() - started
    assert took < seconds, f"it took {took:.2f} s"


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Do something in another thread; what it raises is kept."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


# -- the ways out ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "abort", "handler", "thread", "twice", "exit of with", "service", "loss", "stuck handler"])
def test_a_session_is_ended_once_on_every_way_out(how: str) -> None:
    """Whoever ends the conversation, and however, the gateway is told exactly once, in whole seconds."""
    stuck = threading.Event()
    with scene() as one:
        client = one.client(reconnect=False)
        client.on("speech_started", lambda event: stuck.wait(8.0) if how == "stuck handler" else client.close())
        client.connect()
        talk = one.peer.talk()
        assert talk.peer.header("authorization") == "Bearer tok_1"
        if how == "service":
            talk.close(1000)
        elif how == "loss":
            talk.drop()
        elif how in ("handler", "stuck handler"):
            talk.say("input_audio_buffer.speech_started", item_id="i1")
            talk.say("fence")
        if how == "thread":
            in_thread(client.close)[0].join(BOUND)
        elif how == "twice":
            first, second = in_thread(client.close)[0], in_thread(client.close)[0]
            first.join(BOUND)
            second.join(BOUND)
        elif how == "exit of with":
            client.__exit__(None, None, None)
        elif how in ("close", "abort"):
            getattr(client, how)()
        elif how == "stuck handler":
            with within(BOUND):
                client.close()
            assert len(one.gateway.of("end")) == 1  # although the reader is still in the handler
            stuck.set()
        settled(client)
        (end,) = one.gateway.of("end")
        assert end["session_id"] == "vs_1"
        assert type(end["duration_seconds"]) is int
        assert 1 <= end["duration_seconds"] <= 30
        client.close()
        client.abort()
        assert len(one.gateway.of("end")) == 1


def test_close_has_settled_when_it_returns() -> None:
    """Who closes need not wait for anything more: the gateway has answered, and no thread is left."""
    with scene() as one:
        client = one.client().connect()
        with within(1.0):
            client.close()
        assert len(one.gateway.of("end")) == 1
        assert [thread for thread in client._call.billing.threads if thread.is_alive()] == []  # type: ignore[union-attr]


def test_the_reader_never_waits_for_the_end() -> None:
    """`Closed` is told although the gateway has not answered `end` yet."""
    release = threading.Event()
    with scene(end=held(release)) as one:
        client = one.client(reconnect=False).connect()
        told = threading.Event()
        client.on("closed", lambda event: told.set())
        one.peer.talk().close(1000)
        one.gateway.expect("end")
        assert told.wait(10.0)
        release.set()
        settled(client)


def test_a_refused_upgrade_ends_what_was_minted() -> None:
    """The session was charged when it was minted: it is ended although no conversation came of it."""
    with scene(refuse("401 Unauthorized", '{"error": {"code": "EPHEMERAL_EXPIRED", "message": "too late"}}')) as one:
        client = one.client()
        with pytest.raises(ApiError) as caught:
            client.connect()
        assert (caught.value.status_code, caught.value.code) == (401, "EPHEMERAL_EXPIRED")
        settled(client)
        assert [call for call, _ in one.gateway.calls] == ["session", "end"]


def test_a_session_that_the_gateway_does_not_know_is_ended_too(caplog: pytest.LogCaptureFixture) -> None:
    """A 404 of `end` is what was wanted."""
    with scene(end=answer(404)) as one:
        one.client().connect().close()
    assert not [record for record in caplog.records if "could not be ended" in record.getMessage()]


@pytest.mark.parametrize("way", [answer(500), answer(403), hang_up, hang, drip], ids=["500", "403", "hang_up", "hang", "drip"])
def test_an_end_that_fails_is_named_and_never_tried_again(way: Way, caplog: pytest.LogCaptureFixture) -> None:
    """One request, one line in the log with the session's id and no secret, within the budget of close()."""
    with scene(end=way) as one:
        client = one.client().connect()
        with within(BOUND):
            client.close()
        settled(client)
        assert len(one.gateway.of("end")) == 1
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "session vs_1 could not be ended" in line
    assert KEY not in caplog.text
    assert "tok_1" not in caplog.text


def test_a_short_budget_binds_the_bill_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """close(timeout=0.6) returns in that time although the gateway does not answer, and leaves no thread."""
    monkeypatch.setattr(billing_room, "_END_TIMEOUT", 2 * PATIENCE)  # what the bill would take without a budget of its own
    with scene(end=hang) as one:
        client = one.client(close_timeout=2 * PATIENCE).connect()
        with within(BOUND):
            client.close(timeout=0.6)
        settled(client)


def test_two_threads_that_settle_at_once_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that finds nothing open any more does not stop what the other is about to queue: the session is ended, once."""
    with scene() as one:
        client = one.client().connect()
        billing = client._call.billing
        assert billing is not None
        post = billing._post

        def overtaken(action: Any, **options: Any) -> bool:
            billing.finish()  # as another thread would, between the taking of what is open and the queueing of its end
            return post(action, **options)

        monkeypatch.setattr(billing, "_post", overtaken)
        client.close()
        settled(client)
        assert len(one.gateway.of("end")) == 1


def test_what_the_calls_cost_is_added_up() -> None:
    """Minting, refreshing and ending say what they cost, and the metrics have the sum."""
    with scene(session=answer(X_QAI_Cost_Ticks="500"), end=answer(X_QAI_Cost_Ticks="70")) as one:
        client = one.client().connect()
        client.close()
        assert client.metrics.cost_ticks == 570


# -- minting -----------------------------------------------------------------------------------------------------------------------


def test_a_refused_minting_is_the_error_of_connect() -> None:
    """The gateway's refusal is raised, nothing is dialled, and there is nothing to end."""
    with scene(session=answer(402)) as one:
        client = one.client()
        with pytest.raises(ApiError) as caught:
            client.connect()
        assert caught.value.is_insufficient_balance
        assert client.wait(1.0).meaning == "quota"
        settled(client)
        assert one.peer.all == []
        assert [call for call, _ in one.gateway.calls] == ["session"]


def test_a_session_that_comes_after_close_is_ended_at_once() -> None:
    """close() while the gateway is still minting returns within its bound, and what is granted later is given back."""
    release = threading.Event()
    with scene(session=held(release)) as one:
        client = one.client()
        thread, raised = in_thread(client.connect)
        one.gateway.expect("session")
        with within(BOUND):
            client.close()
        thread.join(BOUND)
        assert isinstance(raised[0], NotConnectedError)
        assert one.gateway.of("end") == []
        release.set()
        assert one.gateway.expect("end")["session_id"] == "vs_1"
        settled(client)
        assert len(one.gateway.of("end")) == 1
        assert one.peer.all == []


def test_a_session_that_comes_after_the_timeout_of_connect_is_ended_at_once() -> None:
    """connect() raises in time, and what is granted later is given back."""
    release = threading.Event()
    with scene(session=held(release)) as one:
        client = one.client()
        with within(BOUND), pytest.raises(RealtimeTimeoutError):
            client.connect(timeout=0.5)
        release.set()
        settled(client)
        assert len(one.gateway.of("end")) <= 1  # none, if the answer was not read any more
        assert one.peer.all == []


@pytest.mark.parametrize("way", [hang, drip], ids=["hang", "drip"])
def test_a_gateway_that_hangs_at_minting_meets_the_timeout(way: Way) -> None:
    """connect(timeout=0.6) raises in that time, and its thread ends."""
    with scene(session=way) as one:
        client = one.client()
        with within(BOUND), pytest.raises(RealtimeTimeoutError):
            client.connect(timeout=0.6)
        settled(client)


def test_a_minting_that_may_wait_is_not_waited_for_by_close() -> None:
    """A replay after 429 that is due in 20 s is given up when the client closes."""
    with scene(session=answer(429, Retry_After="20")) as one:
        client = one.client(connect_timeout=60.0)
        thread, raised = in_thread(client.connect)
        one.gateway.expect("session")
        with within(BOUND):
            client.close()
            thread.join(BOUND)
        settled(client, 10.0)
        assert len(one.gateway.of("session")) == 1


def test_a_busy_gateway_is_asked_again() -> None:
    """A 429 comes before any charge: the minting is replayed, and the conversation opens."""
    with scene(session=[answer(429, Retry_After="0"), answer()]) as one:
        client = one.client().connect()
        client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "session", "end"]


@pytest.mark.parametrize("way", [answer(502), hang_up], ids=["502", "broken"])
def test_a_minting_that_may_have_been_charged_is_never_repeated(way: Way) -> None:
    """After a loss a new session is minted where the old cannot be refreshed; if that fails in the middle, the conversation is over."""
    with scene(session=[answer(), way], refresh=answer(404)) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        closed = client.wait(PATIENCE)
        assert isinstance(closed, Closed)
        assert isinstance(closed.error, (ApiError, ConnectError))
        settled(client)
        assert [call for call, _ in one.gateway.calls] == ["session", "refresh", "end", "session"]


def test_without_a_session_id_there_is_nothing_to_refresh_or_to_end() -> None:
    """A gateway that names no session is not told of its end; after a loss another one is minted."""
    with scene(granted={"session_id": ""}) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "session"]


def test_a_session_without_an_address_is_refused_and_ended() -> None:
    """ElevenLabs has no default address: without a signed URL there is nowhere to go."""
    with scene(session=answer(body={"session_id": "vs_9", "provider": "elevenlabs"})) as one:
        client = one.client(provider="elevenlabs")
        with pytest.raises(ApiError, match="no address") as caught:
            client.connect()
        assert caught.value.code == "invalid_response"
        settled(client)
        assert [body["session_id"] for body in one.gateway.of("end")] == ["vs_9"]


def test_an_address_in_the_clear_is_refused_and_the_session_ended() -> None:
    """A token does not travel unencrypted because a gateway says so."""
    with scene(granted={"url": "ws://voice.example.com/v1/realtime"}) as one:
        client = one.client()
        with pytest.raises(ConfigError) as caught:
            client.connect()
        assert caught.value.code == "insecure_url"
        settled(client)
        assert len(one.gateway.of("end")) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"client_secret": {"value": "T_0", "expires_at": 1}},
        {"client_secret": "T_0"},
        {"value": "T_0"},
        {"ephemeral_token": "T_0", "value": "other"},
    ],
)
def test_every_spelling_of_the_token_opens_the_door(body: dict[str, Any]) -> None:
    """Whatever the gateway calls the token, it is what the service is shown, and the key is not."""
    with service() as peer:
        body = {"session_id": "vs_1", "url": f"ws://127.0.0.1:{peer.server.port}/v1/realtime", **body}
        with gateway("", {"session": answer(body=body)}) as minter:
            with RealtimeClient(KEY, base_url=minter.url, mint=True):
                talk = peer.talk()
                assert talk.peer.header("authorization") == "Bearer T_0"
                assert talk.peer.header("x-api-key") is None
                assert KEY.encode() not in talk.peer.request


@pytest.mark.parametrize(
    ("provider", "model", "url"),
    [
        ("", "", "wss://api.x.ai/v1/realtime"),
        ("xai", "grok-voice-latest", "wss://api.x.ai/v1/realtime?model=grok-voice-latest"),
        ("openai", "gpt-realtime", "wss://api.openai.com/v1/realtime?model=gpt-realtime"),
    ],
)
def test_a_token_without_an_address_goes_to_its_provider(provider: str, model: str, url: str) -> None:
    """The providers' own addresses hold where the gateway names none."""
    dialled: list[str] = []

    def dial(address: str, **_: Any) -> Any:
        dialled.append(address)
        raise ConnectError("no network here")

    with gateway("", {"session": answer(body={"session_id": "vs_1", "ephemeral_token": "T"})}) as minter:
        client = RealtimeClient(KEY, RealtimeConfig(model=model), base_url=minter.url, mint=True, provider=provider, dialer=dial)
        with pytest.raises(ConnectError):
            client.connect()
        settled(client)
        assert dialled == [url]
        assert len(minter.of("end")) == 1


def test_a_token_for_another_provider_than_was_asked_for_is_used_there() -> None:
    """A gateway that does not know a provider mints xAI's token, with its address: what is spoken there is xAI's dialect."""
    dialled: list[str] = []

    def dial(address: str, **_: Any) -> Any:
        dialled.append(address)
        raise ConnectError("no network here")

    minted = {"session_id": "vs_1", "ephemeral_token": "T", "url": "wss://api.x.ai/v1/realtime"}
    with gateway("", {"session": answer(body=minted)}) as minter:
        config = RealtimeConfig(model="grok-voice-latest")
        client = RealtimeClient(KEY, config, base_url=minter.url, mint=True, provider="gemini", dialer=dial)
        with pytest.raises(ConnectError):
            client.connect()
        settled(client)
    assert dialled == ["wss://api.x.ai/v1/realtime?model=grok-voice-latest"]
    assert type(client._call.access.dialect()).__name__ == "XAI"  # type: ignore[union-attr]


def test_a_gateway_that_wants_to_be_spoken_to_directly_says_so() -> None:
    """An upgrade that is answered with 200 and JSON is a refusal, with that status and what the JSON says."""
    body = '{"mode": "client_direct", "message": "mint a session and connect to the provider"}'
    with service(refuse("200 OK", body, "X-QAI-Request-Id: req_7")) as peer:
        client = peer.client()
        with pytest.raises(ApiError) as caught:
            client.connect()
        assert (caught.value.status_code, caught.value.request_id) == (200, "req_7")
        assert "client_direct" in str(caught.value) or "mint a session" in str(caught.value)


def test_an_agent_is_minted_with_what_the_program_has_said_until_then() -> None:
    """ElevenLabs: voice, prompt and tools go with the minting, those of the decorator included; a model alone where xAI answers."""

    def dial(*_: Any, **__: Any) -> Any:
        raise ConnectError("no network here")

    with gateway("", signed_url="wss://127.0.0.1:1/v1/convai?signature=s") as minter:
        for provider in ("elevenlabs", "xai"):
            config = RealtimeConfig(voice="Eve", instructions="Be brief.", model="m-1")
            client = RealtimeClient(KEY, config, base_url=minter.url, mint=True, provider=provider, dialer=dial, reconnect=False)

            @client.tool
            def get_weather(city: str) -> str:
                """Current weather in a city."""
                return "rain"

            with pytest.raises(ConnectError):
                client.connect()
            settled(client)
        agent, plain = minter.of("session")
    assert (agent["provider"], agent["voice"], agent["prompt"], agent["model"]) == ("elevenlabs", "Eve", "Be brief.", "m-1")
    assert [tool["name"] for tool in agent["tools"]] == ["get_weather"]
    assert plain == {"provider": "xai", "model": "m-1"}


# -- refreshing --------------------------------------------------------------------------------------------------------------------


def test_a_loss_goes_on_with_the_same_session_and_a_new_token() -> None:
    """What is billed stays one session: it is refreshed, not minted again."""
    with scene() as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        assert one.peer.talk().peer.header("authorization") == "Bearer tok_2"
        assert client.session.session_id == "vs_1"
        client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "refresh", "end"]


def test_a_token_is_refreshed_before_it_expires() -> None:
    """A conversation that outlives its token has asked for new ones in time, on one connection."""
    with scene(granted={"expires_in": 0.4}) as one:
        client = one.client().connect()
        one.gateway.expect("refresh", 3)
        assert client.is_connected
        assert len(one.peer.all) == 1
        client.close()
        assert len(one.gateway.of("end")) == 1


class Recorded:
    """Stands in for the sender's timers: keeps what was asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def after(self, seconds: float, action: Callable[[], None]) -> Recorded:
        self.asked.append(seconds)
        self.action = action
        return self

    def cancel(self) -> None:
        """Nothing runs here."""


@pytest.mark.parametrize(
    ("granted", "seconds"),
    [
        ({}, 240.0),
        ({"expires_in": 300, "expires_at": 1}, 240.0),
        ({"expires_in": 100}, 80.0),
        ({"expires_at": 1060}, 48.0),
        ({"expires_at": 900}, 240.0),
        ({"expires_in": 0}, 240.0),
        ({"expires_in": -5}, 240.0),
        ({"expires_in": float("nan")}, 240.0),
        ({"expires_in": 1e-9}, 0.2),
        ({"expires_in": 1e300}, 69_120.0),
        ({"ephemeral_token": ""}, None),
    ],
)
def test_when_a_token_is_refreshed(granted: dict[str, Any], seconds: float | None) -> None:
    """After four fifths of its life, which is 300 s where the gateway says nothing sensible; never in a storm, never past a day."""
    timers = Recorded()
    with gateway("ws://127.0.0.1:1", **granted) as minter:
        billing = Billing(
            lambda wait: RestClient(KEY, base_url=minter.url, wait=wait),
            "",
            clock=time.monotonic,
            after=timers.after,
            now=lambda: 1000.0,
        )
        billing.obtain(5.0, {})
        billing.finish()
        assert billing.wait(PATIENCE)
    assert timers.asked == ([] if seconds is None else [pytest.approx(seconds)])


def test_a_refresh_that_comes_too_late_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends a session just before its token is asked for must not have its end wait behind a refresh that hangs."""
    timers = Recorded()
    with gateway("ws://127.0.0.1:1", {"refresh": hang}) as minter:
        billing = Billing(lambda wait: RestClient(KEY, base_url=minter.url, wait=wait), "", clock=time.monotonic, after=timers.after)
        billing.obtain(PATIENCE, {})
        refresh = billing._refresh

        def overtaken(*arguments: Any) -> Any:
            billing.finish()
            return refresh(*arguments)

        monkeypatch.setattr(billing, "_refresh", overtaken)
        timers.action()
        minter.expect("end")
        assert billing.wait(PATIENCE)
        assert [call for call, _ in minter.calls] == ["session", "end"]


def test_nothing_is_settled_before_its_end_is_queued() -> None:
    """Another thread that waits while the end of a session is about to be queued is not told that all is done."""
    told: list[bool] = []

    class Looking(Recorded):
        def cancel(self) -> None:
            """What another thread would do in the middle of `finish`."""
            told.append(billing.wait(0))

    timers = Looking()
    with gateway("ws://127.0.0.1:1") as minter:
        billing = Billing(lambda wait: RestClient(KEY, base_url=minter.url, wait=wait), "", clock=time.monotonic, after=timers.after)
        billing.obtain(PATIENCE, {})
        billing.finish()
        assert billing.wait(PATIENCE)
    assert told == [False]
    assert billing not in unsettled()


@pytest.mark.parametrize("way", [answer(503), hang_up, answer(402)], ids=["503", "broken", "402"])
def test_a_refresh_that_fails_is_told_and_the_conversation_goes_on(
    way: Way, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One request for each token, one warning with the session's id; nothing is cut."""
    told = threading.Event()
    words = "session vs_1 could not be refreshed"
    monkeypatch.setattr(caplog.handler, "emit", _and_then(caplog.handler.emit, lambda record: words in record.getMessage() and told.set()))
    with scene(refresh=way, granted={"expires_in": 0.5}) as one:
        client = one.client().connect()
        one.gateway.expect("refresh")
        assert told.wait(PATIENCE)
        talk = one.peer.talk()
        talk.fence(client)
        client.close()
        assert len(one.gateway.of("refresh")) == 1
        assert len(one.gateway.of("end")) == 1
    assert len([record for record in caplog.records if words in record.getMessage()]) == 1


def _and_then(first: Callable[[Any], object], second: Callable[[Any], object]) -> Callable[[Any], None]:
    def both(record: Any) -> None:
        first(record)
        second(record)

    return both


def test_a_busy_gateway_is_asked_for_a_token_again() -> None:
    """A 429 has refreshed nothing and cost nothing: while the token lives there is time to ask once more, without a warning."""
    with scene(refresh=[answer(429, Retry_After="5"), answer()], granted={"expires_in": 6.0}) as one:
        client = one.client().connect()
        one.gateway.expect("refresh", 2)
        assert client.is_connected
        client.close()


def test_a_token_that_lives_need_not_wait_for_a_busy_gateway() -> None:
    """Who reconnects meets a 429 that would be over in half a minute, and goes on at once with the token there is."""
    with scene(refresh=answer(429, Retry_After="30")) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, 20.0)
        assert one.peer.talk().peer.header("authorization") == "Bearer tok_1"
        client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "refresh", "end"]


def test_an_end_that_met_a_busy_gateway_comes_before_the_next_minting(caplog: pytest.LogCaptureFixture) -> None:
    """A 429 has ended nothing: the session stays known, and is ended before the next one is minted."""
    with scene(refresh=answer(404), end=[answer(429, Retry_After="3"), answer()]) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, 20.0)
        client.close()
        calls = [(call, body.get("session_id")) for call, body in one.gateway.calls if call != "refresh"]
        assert calls == [("session", None), ("end", "vs_1"), ("end", "vs_1"), ("session", None), ("end", client.session.session_id)]
    assert "could not be ended" not in caplog.text


@pytest.mark.parametrize(
    "way",
    [answer(503), answer(302, Location="https://elsewhere.example/"), answer(200, "a page of a proxy"), hang_up, hang],
    ids=["503", "302", "page", "broken", "hang"],
)
def test_a_reconnect_uses_the_token_it_has_when_there_is_no_other(way: Way) -> None:
    """A gateway that is away does not end a conversation whose token lives."""
    with scene(refresh=way) as one:
        client = one.client(connect_timeout=2.0).connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        assert one.peer.talk().peer.header("authorization") == "Bearer tok_1"
        with within(BOUND):
            client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "refresh", "end"]


@pytest.mark.parametrize("way", [answer(404), answer(401, {"error": {"code": "SESSION_EXPIRED", "message": "m"}})], ids=["404", "expired"])
def test_a_session_that_is_gone_is_replaced(way: Way) -> None:
    """The old one is ended before the new one is minted, each once."""
    with scene(refresh=way) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        assert client.session.session_id == "vs_3"
        client.close()
        assert [call for call, _ in one.gateway.calls] == ["session", "refresh", "end", "session", "end"]
        assert [body["session_id"] for body in one.gateway.of("end")] == ["vs_1", "vs_3"]


@pytest.mark.parametrize("way", [hang, drip], ids=["hang", "drip"])
def test_a_refresh_that_hangs_does_not_hold_up_the_end(way: Way) -> None:
    """The bill is settled beside it, within the budget of close()."""
    with scene(refresh=way, granted={"expires_in": 0.5}) as one:
        client = one.client().connect()
        one.gateway.expect("refresh")
        with within(BOUND):
            client.close()
        assert len(one.gateway.of("end")) == 1
        one.gateway.over.set()
        settled(client)


def test_a_gateway_that_was_away_for_a_moment_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An `end` that could not even be sent before the next minting is sent when the gateway is back: each session is ended once."""
    with scene(refresh=answer(404)) as one:
        gone = one.gateway
        client = one.client().connect()
        billing = client._call.billing
        assert billing is not None
        tried = threading.Event()
        real_end = billing._rest.end_session
        failing = [True]

        def end_session(session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None:
            if failing:
                failing.clear()
                tried.set()
                raise ConnectError("no connection", code="unreachable")
            real_end(session_id, duration_seconds, timeout=timeout)

        billing._rest.end_session = end_session  # type: ignore[method-assign]
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        assert tried.is_set()
        client.close()
        ended = [body["session_id"] for body in gone.of("end")]
        assert len(ended) == len(set(ended)) == 2
    assert not [record for record in caplog.records if "could not be ended" in record.getMessage()]


def test_an_end_that_is_put_off_while_the_client_closes_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Who closes just when an `end` that could not be sent is put off finds nothing open: the session is named, not forgotten."""
    timers, closing = Recorded(), threading.Event()

    class Unlucky(RestClient):
        def end_session(self, *arguments: Any, **options: Any) -> None:
            closing.set()
            raise ConnectError("no connection", code="unreachable")

    with gateway("ws://127.0.0.1:1", {"refresh": answer(404)}) as minter:
        billing = Billing(lambda wait: Unlucky(KEY, base_url=minter.url, wait=wait), "", clock=time.monotonic, after=timers.after)
        lock = billing._lock

        class Overtaken:
            """The lock, which another thread gets first once the `end` has failed."""

            def __enter__(self) -> None:
                if closing.is_set():
                    closing.clear()
                    other = threading.Thread(target=billing.finish)
                    other.start()
                    other.join(PATIENCE)
                lock.acquire()

            def __exit__(self, *_: object) -> None:
                lock.release()

        billing._lock = Overtaken()  # type: ignore[assignment]
        billing.obtain(PATIENCE, {})
        with pytest.raises(ConnectError):
            billing.obtain(PATIENCE, {})
        assert billing.wait(PATIENCE)
    assert "session vs_1 could not be ended (no connection)" in caplog.text
    assert billing not in unsettled()


def test_an_unreachable_gateway_is_told_from_a_broken_connection() -> None:
    """Only where nothing was sent may a call be repeated: the code says which it was."""
    with gateway("", {"session": hang_up}) as minter:
        with pytest.raises(ConnectError) as broken:
            RestClient(KEY, base_url=minter.url).create_session()
        minter.away()
        with pytest.raises(ConnectError) as gone:
            RestClient(KEY, base_url=minter.url).create_session()
    assert (broken.value.code, gone.value.code) == ("connect_failed", "unreachable")


# -- secrets, processes ------------------------------------------------------------------------------------------------------------


def test_nothing_shows_the_key_or_the_token(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the client, nor its session, nor a log at DEBUG, through a loss, a refresh that fails and an end that fails."""
    caplog.set_level(logging.DEBUG)
    with scene(refresh=answer(503), end=answer(500)) as one:
        client = one.client().connect()
        one.peer.talk().drop()
        client.wait_for(Reconnected, PATIENCE)
        session = client.session
        client.close()
        settled(client)
        billing = client._call.billing
        texts = [repr(client), repr(session), str(session), repr(pickle.dumps(session)), repr(billing), repr(client._call.options)]
        texts += [repr(billing._session), repr(billing._rest), caplog.text]  # type: ignore[union-attr]
    assert session.session_id == "vs_1"
    assert (session.ephemeral_token, session.signed_url) == ("", "")
    assert session.url.startswith("ws://127.0.0.1:")
    for text in texts:
        assert KEY not in text
        assert "tok_1" not in text


def test_a_signed_address_is_shown_without_its_signature() -> None:
    """client.session tells where, not with what right."""
    with gateway("", {"session": answer(body={"session_id": "vs_1", "signed_url": "wss://a.example/v1/convai?sig=xyz"})}) as minter:

        def dial(*_: Any, **__: Any) -> Any:
            raise ConnectError("no network here")

        client = RealtimeClient(KEY, base_url=minter.url, mint=True, provider="elevenlabs", dialer=dial, reconnect=False)
        with pytest.raises(ConnectError):
            client.connect()
        settled(client)
        assert client.session.url == "wss://a.example/v1/convai"
        assert "xyz" not in repr(client.session) + repr(pickle.dumps(client.session))


def test_a_proxy_of_the_environment_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the REST calls nor the WebSocket go through a proxy that could not reach this machine."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with scene() as one:
        one.client().connect().close()
        assert [call for call, _ in one.gateway.calls] == ["session", "end"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_ends_nothing_and_is_not_held_up() -> None:
    """The session stays its parent's: the child may not use the client, and exits at once without telling the gateway anything."""
    with scene() as one:
        client = one.client().connect()
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                with contextlib.suppress(ForkedClientError):
                    client.close()
                    os._exit(2)
                assert unsettled() == []
                code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert one.gateway.of("end") == []
        assert client.is_connected
        client.close()
        assert len(one.gateway.of("end")) == 1


_PROGRAM = """
    import logging, signal, sys
    logging.basicConfig(format="%(levelname)s %(message)s")
    from qai_realtime_sync import RealtimeClient
    client = RealtimeClient("qai_x", base_url=sys.argv[1], mint=True, provider="xai").connect()
    print("open", flush=True)
    {leave}
"""


def interrupted(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Press Ctrl-C, and once more where it came in the very moment before a lock is waited for: CPython sees it only with the next one."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        out, log = process.communicate(timeout=15)
        return out, log + "pressed twice"


def leaves(one: Scene, leave: str, kill: int | None = None) -> tuple[float, str]:
    """Run a program with an open conversation that leaves in this way; return how long that took, and what it logged."""
    program = textwrap.dedent(_PROGRAM).format(leave=leave)
    process = subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", program, one.gateway.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        started = time.monotonic()
        try:
            _, log = process.communicate(timeout=20) if kill is None else interrupted(process)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # its threads say where they are
            raise AssertionError(f"the process does not end: {process.communicate()[1]}") from None
        return time.monotonic() - started - (5.0 if "pressed twice" in log else 0.0), log
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("way", [hang, drip, hang_up, answer(500)], ids=["hang", "drip", "hang_up", "500"])
def test_a_process_ends_in_time_though_the_gateway_is_dead(way: Way) -> None:
    """Its open conversation's session is named in the log, and it takes no longer than 3 s."""
    with scene(end=way) as one:
        took, log = leaves(one, "sys.exit(0)")
        assert len(one.gateway.of("end")) == 1
    assert "ERROR session vs_1" in log
    assert "Traceback" not in log
    assert took < BOUND


@pytest.mark.parametrize("leave", ["sys.exit(3)", "raise ValueError('bug')", "__import__('threading').Event().wait(60)", "client.wait()"])
def test_a_process_settles_when_it_ends(leave: str) -> None:
    """sys.exit, an exception in main and Ctrl-C wherever the program is: the session is ended once."""
    kill = signal.SIGINT if "wait" in leave else None
    with scene() as one:
        took, log = leaves(one, leave, kill)
        assert len(one.gateway.of("end")) == 1
    assert "ERROR" not in log
    assert took < BOUND


def test_a_process_that_ends_while_it_mints_says_so() -> None:
    """Nothing can be ended that was not granted yet: the log says that something may be metered."""
    program = """
        import logging, sys, threading
        logging.basicConfig(format="%(levelname)s %(message)s")
        from qai_realtime_sync import RealtimeClient
        client = RealtimeClient("qai_x", base_url=sys.argv[1], mint=True, provider="xai", connect_timeout=60.0)
        threading.Thread(target=client.connect, daemon=True).start()
        input()
    """
    with scene(session=hang) as one:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), one.gateway.url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            one.gateway.expect("session")
            started = time.monotonic()
            _, log = process.communicate("\n", timeout=20)
            took = time.monotonic() - started
        finally:
            process.kill()
            process.communicate()
    assert "while a session was being minted" in log
    assert took < BOUND


def test_a_refresh_that_hangs_does_not_hold_up_the_process() -> None:
    """Ctrl-C while a refresh hangs: the session is ended all the same, and the process does not wait for the refresh."""
    with scene(refresh=hang, granted={"expires_in": 5}) as one:
        program = textwrap.dedent(_PROGRAM).format(leave="import threading; threading.Event().wait(30)")
        command = [sys.executable, "-c", program, one.gateway.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            one.gateway.expect("refresh", timeout=20.0)
            started = time.monotonic()
            _, log = interrupted(process)
            took = time.monotonic() - started - (5.0 if "pressed twice" in log else 0.0)
        finally:
            process.kill()
            process.communicate()
        assert len(one.gateway.of("end")) == 1
    assert "ERROR" not in log
    assert took < BOUND


def test_ctrl_c_while_minting_comes_out_of_connect() -> None:
    """KeyboardInterrupt is raised in time; what the gateway grants after that is ended."""
    release = threading.Event()
    with scene(session=held(release)) as one:
        client = one.client(connect_timeout=60.0)
        reached, _ = in_thread(lambda: (one.gateway.expect("session"), os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(KeyboardInterrupt), within(BOUND):
            client.connect()
        reached.join(5.0)
        release.set()
        assert one.gateway.expect("end")["session_id"] == "vs_1"
        settled(client)


def test_closing_and_losing_at_the_same_moment_ends_once() -> None:
    """Twenty conversations whose line breaks while they are closed from two threads: twenty ends."""
    with scene() as one:
        for _ in range(20):
            client = one.client().connect()
            talk = one.peer.talk()
            threads = [in_thread(action)[0] for action in (talk.drop, client.close, client.abort, client.close)]
            for thread in threads:
                thread.join(BOUND)
            settled(client)
        minted = [f"vs_{body['session_id'][3:]}" for body in one.gateway.of("end")]
        assert len(minted) == len(set(minted)) == len(one.gateway.of("session")) == 20


def test_errors_of_the_gateway_have_no_frames() -> None:
    """A crash reporter that sends the locals of frames does not find the key in a refused minting."""
    with scene(session=answer(403)) as one:
        client = one.client()
        with pytest.raises(RealtimeError) as caught:
            client.connect()
        frames = caught.value.__traceback__
        while frames is not None:
            if "qai_realtime_sync" in frames.tb_frame.f_code.co_filename:
                assert KEY not in repr(frames.tb_frame.f_locals)
            frames = frames.tb_next
        settled(client)
