"""Cassettes: a conversation is recorded without its secrets, and replayed to a client that says the same."""

from __future__ import annotations

import json
import os
import pathlib
import re
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from qai_realtime_sync import ApiError, ConfigError, ConnectionClosedError, RealtimeClient, RealtimeConfig, RealtimeError
from qai_realtime_sync.testing import RecordingServer, ReplayServer, ScriptedServer
from qai_realtime_sync.testing.cassette import Cassette, difference, frame_of, scrubbed, spelled_frame
from qai_realtime_sync.testing.loopback import Loopback

PATIENCE = 20.0
DIALECTS = ["xai", "openai", "elevenlabs", "gemini"]
SECRET = "qai_very_secret_key_4711"


def order(size: str) -> str:
    """Order a pizza of this size."""
    return f"a {size} pizza"


def upstream_of(server: ScriptedServer) -> str:
    """The address of a service: the gateway's base, or the WebSocket itself."""
    return server.url if server.dialect == "xai" else server.ws_url


def record(path: pathlib.Path, talk: Callable[[Loopback, ScriptedServer], Any], dialect: str = "xai", **options: Any) -> Any:
    """Record what `talk` does with a scripted service."""
    with ScriptedServer(dialect=dialect, light=True, key=SECRET, **options) as service:
        with RecordingServer(path, upstream=upstream_of(service), upstream_key=SECRET, dialect=dialect) as recorder:
            result = talk(recorder, service)
        assert recorder.report() == ""
    return result


def lines_of(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a cassette."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -- there and back ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_conversation_comes_back(dialect: str, tmp_path: pathlib.Path) -> None:
    """Text, tools, sound and words are the same when they are replayed, in every dialect, and no key is in the file."""
    path = tmp_path / "deep" / "pizza.jsonl"
    sound = b""

    def talk(server: Loopback, service: ScriptedServer | None) -> list[Any]:
        nonlocal sound
        if service is not None:
            service.on_text("pizza").call_tool("order", {"size": "large"}).then_say("Ordered!")
            service.on_audio(words="goodbye").say("See you.")
            sound = service.speech("goodbye then")
        client = server.client(tools=[order])
        answer = client.ask("I want a pizza.", timeout=PATIENCE)
        client.send_audio(sound)
        said = client.wait_for("transcript_done", timeout=PATIENCE, where=lambda event: event.source == "output")
        done = client.wait_for("response_done", timeout=PATIENCE)
        return [answer.text, answer.audio, said.transcript, done.status]

    recorded = record(path, talk, dialect)
    assert recorded[0] == "Ordered!"
    assert SECRET not in path.read_text(encoding="utf-8")
    with ReplayServer(path) as server:
        assert talk(server, None) == recorded


def test_one_spelling(tmp_path: pathlib.Path) -> None:
    """The client's commands stand in the package's JSON-lines spelling, sound as its length, and the service's frames by name."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer) -> None:
        client = server.client()
        for _ in range(10):
            client.send_audio(bytes(960))
        client.ask("Hello", timeout=PATIENCE)

    record(path, talk)
    lines = lines_of(path)
    assert {key: lines[0][key] for key in ("cassette", "dialect")} == {"cassette": 1, "dialect": "xai"}
    sent = [line for line in lines[1:] if line["direction"] == "sent"]
    assert [line["name"] for line in sent] == ["configure", "send_audio", "send_text", "create_response", "closed"]
    assert (sent[1]["audio"], sent[1]["count"]) == (9600, 10)
    assert sent[2]["text"] == "Hello"
    received = [line for line in lines[1:] if line["direction"] == "received"]
    assert all("frame" in line for line in received)
    assert received[0]["name"] == "session_created"
    assert all(line["connection"] == 1 for line in lines[1:])


def test_ids_are_this_time_s(tmp_path: pathlib.Path) -> None:
    """An id that the client makes anew comes back as it is now."""
    path = tmp_path / "c.jsonl"

    def ask(server: Loopback, service: ScriptedServer | None) -> None:
        client = server.client()
        mine = client.truncate_item("no_such_item", 100)
        assert client.wait_for("error", timeout=PATIENCE).caused_by == mine

    record(path, ask)
    with ReplayServer(path) as server:
        ask(server, None)


def test_a_reconnect_is_one_conversation(tmp_path: pathlib.Path) -> None:
    """A loss is replayed as a loss, and the second connection goes on with the second recorded one."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer | None) -> str:
        if service is not None:
            service.on_text("lose").drop()
            service.on_text("back").say("Here again.")
        client = server.client()
        client.send_text("lose me")
        client.wait_for("reconnected", timeout=PATIENCE)
        return client.ask("back?", timeout=PATIENCE).text

    assert record(path, talk) == "Here again."
    assert Cassette(path).connections == 2
    with ReplayServer(path) as server:
        assert talk(server, None) == "Here again."


def test_a_close_with_its_reason(tmp_path: pathlib.Path) -> None:
    """How the service ended the conversation is replayed too."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer | None) -> tuple[int | None, str]:
        if service is not None:
            service.on_text("pizza").close(1008, "insufficient balance")
        client = server.client()
        client.send_text("pizza")
        closed = client.wait_for("closed", timeout=PATIENCE)
        return closed.code, closed.reason

    assert record(path, talk) == (1008, "insufficient balance")
    with ReplayServer(path) as server:
        assert talk(server, None) == (1008, "insufficient balance")


@pytest.mark.parametrize("retry_after", [None, 7.0])
def test_a_refusal(tmp_path: pathlib.Path, retry_after: float | None) -> None:
    """A refused upgrade reaches the client through the recorder as the service said it, and again in the replay."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer | None) -> tuple[Any, ...]:
        if service is not None:
            service.rate_limit(retry_after=retry_after)
        with pytest.raises(ApiError) as refused:
            server.client(reconnect=False)
        return refused.value.status_code, refused.value.code, refused.value.message, refused.value.retry_after

    told = (429, "RATE_LIMITED_PER_KEY", "Too many sessions; try again later.", retry_after)
    assert record(path, talk) == told
    with ReplayServer(path) as server:
        assert talk(server, None) == told


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_wrong_key_at_the_recorder_costs_nothing(tmp_path: pathlib.Path, dialect: str) -> None:
    """Who is turned away leaves no connection at the service, and the replay counts the others as the recording did."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer | None) -> str:
        with pytest.raises(RealtimeError):
            server.client(api_key="wrong", reconnect=False)
        if service is not None:
            service.on_text("hello").say("Hi!")
            deadline = time.monotonic() + PATIENCE
            while True:
                told = service.journal.entries()
                if [one.name for one in told if one.name in ("connected", "closed")] == ["connected", "closed"]:
                    break
                assert service.journal.wait_for_more(len(told), deadline - time.monotonic())
        return server.client(reconnect=False).ask("hello", timeout=PATIENCE).text

    assert record(path, talk, dialect) == "Hi!"
    with ReplayServer(path) as server:
        assert talk(server, None) == "Hi!"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a file whose other end can go away")
def test_a_recording_that_is_not_whole_is_told(tmp_path: pathlib.Path) -> None:
    """When the file cannot be written any more the conversation goes on, and the end says that its cassette is good for nothing."""
    os.mkfifo(tmp_path / "c.jsonl")
    reader = os.open(tmp_path / "c.jsonl", os.O_RDONLY | os.O_NONBLOCK)
    with ScriptedServer(light=True) as service:
        service.on_text("hello").say("Hi!")
        recorder = RecordingServer(tmp_path / "c.jsonl", upstream=service.url, upstream_key=service.key).start()
        os.close(reader)
        assert recorder.client().ask("hello", timeout=PATIENCE).text == "Hi!"
        with pytest.raises(AssertionError, match="cannot be written: Broken pipe; it is not whole"):
            recorder.__exit__(None, None, None)


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs a disk that is full")
def test_a_disk_that_is_full_is_told_at_once() -> None:
    """A file of which not even the first line can be written is refused like one that cannot be opened."""
    with pytest.raises(ConfigError, match="/dev/full' cannot be written: No space left"):
        RecordingServer("/dev/full", upstream="ws://127.0.0.1:9")


def test_a_service_that_is_not_there(tmp_path: pathlib.Path) -> None:
    """The recorder answers 502 with what happened."""
    with RecordingServer(tmp_path / "c.jsonl", upstream="ws://127.0.0.1:9", upstream_key=SECRET) as recorder:
        with pytest.raises(ApiError) as refused:
            recorder.client(reconnect=False)
    assert refused.value.status_code == 502


def test_a_service_behind_tls(tmp_path: pathlib.Path) -> None:
    """The way to the service may need a context of its own; a certificate that nobody trusts is told as such."""
    pytest.importorskip("trustme")
    path = tmp_path / "c.jsonl"
    with ScriptedServer(light=True, key=SECRET, tls=True) as service:
        service.on_text("pizza").say("Yes.")
        context = ssl.create_default_context(cadata=service.certificate)
        with RecordingServer(path, upstream=service.url, upstream_key=SECRET, ssl_context=context) as recorder:
            assert recorder.client().ask("pizza", timeout=PATIENCE).text == "Yes."
        with RecordingServer(path, upstream=service.url, upstream_key=SECRET) as recorder, pytest.raises(ApiError, match="certificate"):
            recorder.client(reconnect=False)


def test_a_minted_session_is_recorded_and_replayed(tmp_path: pathlib.Path) -> None:
    """A client that mints gets a token of the server for tests; its WebSocket is what is recorded."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer | None) -> str:
        with server.client(mint=True) as client:
            return client.ask("Hello", timeout=PATIENCE).text

    with ScriptedServer(light=True, key=SECRET) as service:
        upstream = service.ws_url.replace("/qai", "")
        with RecordingServer(path, upstream=upstream, upstream_key=SECRET) as recorder:
            text = talk(recorder, None)
    assert SECRET not in path.read_text(encoding="utf-8")
    with ReplayServer(path) as server:
        assert talk(server, None) == text


def test_results_in_another_order(tmp_path: pathlib.Path) -> None:
    """Two tools at once may be faster or slower than they were."""
    path = tmp_path / "c.jsonl"
    tool = {"type": "function", "name": "order", "parameters": {"type": "object", "properties": {}}}

    def talk(server: Loopback, service: ScriptedServer | None, backwards: bool = False) -> str:
        if service is not None:
            service.on_text("two").call_tool("order", {"size": "a"}).call_tool("order", {"size": "b"}).then_say("Both.")
        client = server.client(RealtimeConfig(tools=[tool]), connect=False)
        calls: list[Any] = []

        def collect(event: Any) -> None:
            calls.append(event)
            if len(calls) == 2:
                for one in reversed(calls) if backwards else calls:
                    client.send_function_result(one.call_id, json.loads(one.arguments)["size"])

        client.on_function_call(collect)
        with client:
            return client.ask("two pizzas", timeout=PATIENCE).text

    assert record(path, talk) == "Both."
    for backwards in (False, True):
        with ReplayServer(path) as server:
            assert talk(server, None, backwards) == "Both."


# -- what differs -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pizza(tmp_path: pathlib.Path) -> pathlib.Path:
    """The cassette of one question with a tool."""
    path = tmp_path / "pizza.jsonl"

    def talk(server: Loopback, service: ScriptedServer) -> None:
        service.on_text("pizza").call_tool("order", {"size": "large"}).then_say("Ordered!")
        server.client(tools=[order]).ask("I want a pizza.", timeout=PATIENCE)

    record(path, talk)
    return path


def test_another_question(pizza: pathlib.Path) -> None:
    """The connection ends, and both sides are told, in the client's error and in the report."""
    with ReplayServer(pizza, must_complete=False) as server:
        with pytest.raises(ConnectionClosedError, match="cassette: line"):
            server.client(tools=[order]).ask("I want a burger.", timeout=PATIENCE)
        with pytest.raises(AssertionError) as caught:
            server.assert_complete()
    assert re.search(
        r'line \d+: the recording has send_text\(text="I want a pizza\."\), the client sent send_text\(text="I want a burger\."\)',
        str(caught.value),
    )


def test_another_result(pizza: pathlib.Path) -> None:
    """What a tool returned counts, unless it is to be ignored."""

    def other(size: str) -> str:
        """Order another thing."""
        return f"no {size} pizza"

    other.__name__ = "order"
    with ReplayServer(pizza, must_complete=False) as server:
        with pytest.raises(ConnectionClosedError):
            server.client(tools=[other]).ask("I want a pizza.", timeout=PATIENCE)
        assert 'output="a large pizza"' in server.report()
        assert 'output="no large pizza"' in server.report()
    with ReplayServer(pizza, ignore=["output"]) as server:
        assert server.client(tools=[other]).ask("I want a pizza.", timeout=PATIENCE).text == "Ordered!"


def test_too_little(pizza: pathlib.Path) -> None:
    """What the client never sent is told, with its line."""
    with ReplayServer(pizza, must_complete=False) as server:
        server.client(tools=[order])
        with pytest.raises(AssertionError, match=r'line \d+: the recording has send_text.*which the client never sent \(and \d more\)'):
            server.assert_complete(timeout=0.2)


def test_too_much(pizza: pathlib.Path) -> None:
    """What comes after the end of the recording is told."""
    with ReplayServer(pizza, must_complete=False) as server:
        client = server.client(tools=[order])
        client.ask("I want a pizza.", timeout=PATIENCE)
        with pytest.raises(ConnectionClosedError, match="the recording ends here"):
            client.ask("And another one.", timeout=PATIENCE)


def test_one_connection_too_many(pizza: pathlib.Path) -> None:
    """A client that connects more often than was recorded is turned away."""
    with ReplayServer(pizza, must_complete=False) as server:
        server.client(tools=[order]).ask("I want a pizza.", timeout=PATIENCE)
        with pytest.raises((ConnectionClosedError, ApiError)):
            server.client(tools=[order], reconnect=False)
        assert "connection 2 was made, but only 1 were recorded" in server.report()


def test_a_wrong_key(pizza: pathlib.Path) -> None:
    """The replay asks for its key, as a service does."""
    with ReplayServer(pizza, must_complete=False) as server:
        with pytest.raises(ApiError) as refused:
            RealtimeClient("wrong", base_url=server.url, reconnect=False).connect()
    assert refused.value.is_auth


def test_less_sound(tmp_path: pathlib.Path) -> None:
    """Sound must be as long as it was, or nearly; how it sounds and in which pieces it comes does not count."""
    path = tmp_path / "c.jsonl"

    def talk(server: Loopback, service: ScriptedServer) -> None:
        service.on_audio().say("Heard.")
        client = server.client()
        client.send_audio(service.speech("Is there anybody at home today?"))
        client.wait_for("response_done", timeout=PATIENCE)

    record(path, talk)
    (size,) = [line["audio"] for line in lines_of(path)[1:] if line["name"] == "send_audio"]
    with ReplayServer(path) as server:
        client = server.client()
        for pieces in [*[1] * 17, 2]:  # the answer comes after the last one: `wait_for` looks from there on
            client.send_audio(bytes(pieces * (size // 20 // 2 * 2)))
        assert client.wait_for("response_done", timeout=PATIENCE).status == "completed"
    with ReplayServer(path, must_complete=False) as server:
        server.client().send_audio(bytes(size // 4 * 2))
        with pytest.raises(AssertionError, match="send_audio"):
            server.assert_complete(timeout=0.3)


# -- the file -----------------------------------------------------------------------------------------------------------------------


def test_a_missing_file_says_how_to_record(tmp_path: pathlib.Path) -> None:
    """Who has no cassette learns how to get one."""
    with pytest.raises(ConfigError, match="--realtime-record"):
        ReplayServer(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "text",
    ["", "{}", "7", "no json", '{"cassette": 2, "dialect": "xai", "recorded_at": 0}', '{"cassette": 1, "dialect": "xai"}']
    + ['{"cassette": 1, "dialect": "xai", "recorded_at": 0}\n' + line for line in ("[]", '{"direction": "up", "name": "x"}', "{")],
)
def test_a_file_that_is_no_cassette(text: str, tmp_path: pathlib.Path) -> None:
    """Anything else is refused with its name."""
    path = tmp_path / "odd.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="odd.jsonl"):
        ReplayServer(path)


def test_a_cassette_of_another_dialect(pizza: pathlib.Path) -> None:
    """A test of one service is not replayed with the words of another."""
    with pytest.raises(ConfigError, match="recorded of xai, not of gemini"):
        ReplayServer(pizza, dialect="gemini")


def test_a_folder_that_cannot_be_written(tmp_path: pathlib.Path) -> None:
    """A recording that cannot be kept is not begun."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        RecordingServer(tmp_path / "file" / "c.jsonl", upstream="ws://127.0.0.1:9")


@pytest.mark.parametrize("upstream", ["ws://[::1", "example.com", "", 5])
def test_a_service_without_an_address_is_not_recorded(tmp_path: pathlib.Path, upstream: Any) -> None:
    """A wrong address is told when the server is made, and no file is begun."""
    with pytest.raises(ConfigError) as caught:
        RecordingServer(tmp_path / "c.jsonl", upstream=upstream)
    assert caught.value.code == "invalid_base_url"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop",
        "ek_0123456789abcdef",
        "qai_0123456789abcdef",
        "xai-0123456789abcdef",
        "AIza" + "x" * 35,
        "eyJhbGciOi.eyJzdWIi.c2lnbmF0",
        "ghp_" + "a1" * 18,
        "AKIAIOSFODNN7EXAMPLE",
        "xoxb-123456789012-abcdefghijk",
    ],
)
def test_what_looks_like_a_key_is_removed(secret: str) -> None:
    """Keys are removed wherever they stand, whosever they are."""
    value = {"a": [f"my key is {secret}, do not tell"], "url": f"wss://x/?token={secret}&x=1", secret: 1}
    assert secret not in json.dumps(scrubbed(value, []))


@pytest.mark.parametrize(
    "value",
    [
        {"url": "wss://x/y?api_key=a1b2c3d4e5&x=1"},
        {"url": "wss://x/" + "p" * 300 + "?access_token=a1b2c3d4e5"},
        {"url": "https://x/y?X-Amz-Signature=a1b2c3d4e5"},
        {"url": "https://me:a1b2c3d4e5@x/"},
        {"text": "Authorization: Basic YTFiMmMzZDRlNQ=="},
        {"text": "xi-api-key: a1b2c3d4e5"},
        {"output": json.dumps({"API_KEY": "a1b2c3d4e5", "user": {"password": "a1b2c3d4e5"}})},
        {"output": json.dumps({"nested": json.dumps({"client_secret": "a1b2c3d4e5"})})},
        {"xi-api-key": "a1b2c3d4e5", "Refresh_Token": "a1b2c3d4e5"},
        {"text": "YTFiMmMzZDRlNQ"},
    ],
    ids=str,
)
def test_what_stands_beside_a_telling_name_is_removed(value: dict[str, Any]) -> None:
    """A key that looks like nothing is removed from addresses, headers and JSON inside texts, and the known one in base64 too."""
    known = ["a1b2c3d4e5"] if value["text" if "text" in value else next(iter(value))].startswith("YTF") else []
    told = json.dumps(scrubbed(value, known))
    assert "a1b2c3d4e5" not in told
    assert "YTFiMmMzZDRlNQ" not in told
    assert "<redacted>" in told


@pytest.mark.parametrize("text", ["The secret is patience.", "A password: do you know?", "a key = a door", "token by token: 1 2 3"])
def test_what_people_say_of_secrets_is_left_alone(text: str) -> None:
    """Prose that only speaks of keys and passwords stays as it is."""
    assert scrubbed({"transcript": text}, []) == {"transcript": text}


def test_a_long_text_without_a_blank_is_searched_in_no_time() -> None:
    """A megabyte of base64 for addresses costs less than a few seconds."""
    began = time.process_time()
    scrubbed({"delta": "aB3_-" * 200_000}, [])
    assert time.process_time() - began < 5


def test_a_secret_that_is_said_again_is_the_recorded_one(tmp_path: pathlib.Path) -> None:
    """A key among the words of a question is not in the cassette, and the same question still meets it; another one is told without it."""
    path = tmp_path / "secret.jsonl"

    def talk(recorder: Loopback, service: ScriptedServer) -> str:
        service.on_text("my key").say("Thank you.")
        return str(recorder.client().ask("my key is sk-proj-abcdefghijklmnop", timeout=PATIENCE).text)

    record(path, talk)
    assert "sk-proj" not in path.read_text(encoding="utf-8")
    with ReplayServer(path) as replay:
        assert replay.client().ask("my key is sk-proj-abcdefghijklmnop", timeout=PATIENCE).text == "Thank you."
    with ReplayServer(path, must_complete=False) as replay:
        client = replay.client()
        client.send_text("no: my key is sk-proj-abcdefghijklmnop")
        client.wait_for("closed", timeout=PATIENCE)
        assert "no: my key is <redacted>" in replay.report()


def test_known_keys_are_removed() -> None:
    """The key in use is removed even if it looks like nothing; so is what stands under a telling name."""
    told = scrubbed({"x": "I say swordfish!", "authorization": "y"}, ["swordfish"])
    assert told == {"x": "I say <redacted>!", "authorization": "<redacted>"}


def test_sound_is_left_alone() -> None:
    """Base64 of sound is not searched for what looks like a key."""
    sound = "AIza" + "A" * 5000
    assert scrubbed({"delta": sound}, []) == {"delta": sound}


@pytest.mark.parametrize("message", ['{"type":"x","n":[1,{"a":"é"}]}', b'{"serverContent":{}}', "no json", b"\xff\x00\x01"])
def test_a_message_comes_back_as_it_was(message: str | bytes) -> None:
    """Text, binary JSON and bytes that are neither survive the file."""
    kept = json.loads(json.dumps(spelled_frame(message)))
    assert frame_of(kept, lambda key, value: value) == message


def test_what_makes_a_difference() -> None:
    """Names, texts and outputs count; ids, times, the configuration and sound do not."""
    one = {"name": "send_text", "text": "a", "event_id": "1", "at": 1}
    assert not difference(one, {"name": "send_text", "text": "a", "event_id": "2", "item_id": "x"})
    assert difference(one, {"name": "send_text", "text": "b"})
    assert difference(one, {"name": "send_context", "text": "a"})
    assert not difference(one, {"name": "send_text", "text": "b"}, ["text"])
    raw = {"name": "raw_event", "value": {"type": "x", "event_id": "1"}}
    assert not difference(raw, {"name": "raw_event", "value": {"type": "x", "event_id": "2"}})
