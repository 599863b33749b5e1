"""Changing a running conversation, and knowing whether it happened."""

from __future__ import annotations

import threading
from typing import Any

import attrs
import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.config import Tool
from qai_realtime_sync.errors import (
    ApiError,
    ConfigError,
    ConnectionClosedError,
    NotConnectedError,
    RealtimeError,
    RealtimeTimeoutError,
    UnsupportedCommandError,
)
from qai_realtime_sync.events import ContextMutated, ErrorReceived, Event, Reconnecting
from qai_realtime_sync.offline import RealtimeServer
from tests.servers import Talk, ready, refuse, service

QUICK = ReconnectPolicy(base=0.01, cap=0.01)
OLD = RealtimeConfig(instructions="old", resumption=False)


def steps(client: RealtimeClient) -> list[str]:
    told: list[str] = []
    client.on(ContextMutated, lambda event: told.append(event.outcome))
    return told


def confirm(talk: Talk) -> dict[str, Any]:
    update = talk.expect("session.update")
    talk.say("session.updated", session={"id": "sess_1"})
    return update


def busy(talk: Talk, client: RealtimeClient) -> None:
    talk.created("r1")
    client.wait_for("response_created", 20.0)


def test_a_change_is_applied_when_the_service_has_confirmed_it() -> None:
    """Not before; then the bridge goes out as context, and the configuration is the new one."""
    with service() as peer, peer.client(OLD) as client:
        talk, told = peer.talk(), steps(client)
        talk.expect("session.update")
        mutation = client.mutate_context(instructions="new", bridge="The user has paid.")
        with pytest.raises(RealtimeTimeoutError, match="the change is still queued"):
            mutation.wait(0.05)
        assert confirm(talk)["session"]["instructions"] == "new"
        assert mutation.wait(20.0) is mutation
        assert (mutation.outcome, mutation.attempt, mutation.is_done) == ("applied", 1, True)
        item = talk.expect("conversation.item.create")["item"]
        assert item["content"][0]["text"] == "The user has paid."
        client.wait_for(ContextMutated, 20.0)
        assert told == ["applied"]
        assert client.config.instructions == "new"
        talk.fence(client)
        assert talk.count("response.create") == 0


def test_a_change_that_is_refused_has_failed_and_is_taken_back() -> None:
    """The error names our update: the old configuration is in force, and the next change is tried."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(instructions="bad")
        talk.error("invalid_value", talk.expect("session.update")["event_id"], "Not like that.")
        with pytest.raises(ApiError, match="the service refused the change: Not like that"):
            mutation.wait(20.0)
        assert mutation.outcome == "failed"
        assert client.config.instructions == "old"
        again = client.mutate_context(instructions="good")
        confirm(talk)
        assert again.wait(20.0).outcome == "applied"


def test_a_change_that_is_not_confirmed_in_time_has_failed() -> None:
    """And is taken back."""
    with service() as peer, peer.client(OLD) as client:
        peer.talk()
        mutation = client.mutate_context(instructions="new", timeout=0.1)
        with pytest.raises(RealtimeTimeoutError, match="did not confirm the change within 0.1 s"):
            mutation.wait(20.0)
        assert client.config.instructions == "old"


def test_a_change_waits_while_an_answer_runs_and_later_ones_supersede_it_field_by_field() -> None:
    """The last write of a field wins, different fields are merged, and all of it goes out when the answer is over."""
    with service() as peer, peer.client(OLD) as client:
        talk, told = peer.talk(), steps(client)
        talk.expect("session.update")
        busy(talk, client)
        first = client.mutate_context(instructions="one")
        second = client.mutate_context(voice="eve")
        third = client.mutate_context(instructions="two")
        assert first.wait(1.0).outcome == "superseded"
        assert (second.outcome, third.outcome) == ("queued", "queued")
        talk.fence(client)
        assert talk.count("session.update") == 1
        talk.done("r1")
        session = confirm(talk)["session"]
        assert (session["instructions"], client.config.voice) == ("two", "eve")
        assert second.wait(20.0).outcome == third.wait(20.0).outcome == "applied"
        assert told.count("superseded") == 1
        assert "three" not in repr(third)


def test_a_voice_that_the_first_sound_has_fixed_is_not_said_again() -> None:
    """Until the assistant was heard an update has the whole session; then a service may refuse even the voice that it speaks with."""
    with service() as peer:
        url = peer.base_url.replace("http", "ws") + "/v1/realtime?model=gpt-realtime"
        with RealtimeClient.direct(url, "sk-test", attrs.evolve(OLD, voice="marin"), dialect="openai") as client:
            talk = peer.talk()
            assert talk.expect("session.update")["session"]["audio"]["output"]["voice"] == "marin"
            client.update_session(instructions="before")
            assert confirm(talk)["session"]["audio"]["output"]["voice"] == "marin"
            talk.created("r1")
            talk.audio("r1", "i1", bytes(480))
            client.wait_for("audio_delta", 20.0)
            client.update_session(instructions="after")
            session = confirm(talk)["session"]
            assert session["instructions"] == "after"
            assert "voice" not in session["audio"]["output"]
            talk.drop()
            assert peer.talk().expect("session.update")["session"]["audio"]["output"]["voice"] == "marin"  # a new session, not yet fixed


def test_what_needs_a_new_connection_gets_one() -> None:
    """Another model: a planned reconnect with the new address, the history, then the bridge."""
    with service() as peer, peer.client(OLD, reconnect=False) as client:
        talk, told = peer.talk(), steps(client)
        client.send_text("Hello.", respond=False)
        talk.fence(client)
        mutation = client.mutate_context(extra={"model": "grok-9"}, bridge="Now think.")
        assert mutation.wait(20.0).outcome == "applied"
        second = peer.talk()
        second.fence(client)
        assert b"model=grok-9" in second.peer.request
        texts = [v["item"]["content"][0]["text"] for v in second.received if v["type"] == "conversation.item.create"]
        assert texts == ["Hello.", "Now think."]
        assert told == ["resuming", "applied"]
        assert client.is_connected


def test_a_new_connection_that_is_refused_brings_the_old_configuration_back() -> None:
    """The conversation goes on as it was: the change has failed, with the service's own words."""
    with service(ready, refuse("400 No", '{"error": {"code": "bad_model", "message": "No such model."}}'), ready) as peer:
        client = peer.client(OLD, reconnect=QUICK)
        client.connect()
        peer.talk()
        mutation = client.mutate_context(extra={"model": "nonsense"})
        with pytest.raises(ApiError, match="No such model"):
            mutation.wait(20.0)
        talk = peer.talk()
        client.wait_for("reconnected", 20.0)
        talk.fence(client)
        assert b"model=nonsense" not in talk.peer.request
        assert client.config.model == ""
        assert client.is_connected


def test_a_new_connection_is_tried_three_times() -> None:
    """Then the change is given up, and the old configuration is dialled."""
    with service(ready, refuse("503 No"), refuse("503 No"), refuse("503 No"), ready) as peer:
        client = peer.client(OLD, reconnect=QUICK)
        client.connect()
        peer.talk()
        mutation = client.mutate_context(extra={"model": "grok-9"})
        with pytest.raises(ApiError):
            mutation.wait(20.0)
        talk = peer.talk()
        talk.fence(client)
        assert b"grok-9" not in talk.peer.request


@pytest.mark.parametrize("reconnect", [False, QUICK], ids=["never", "quick"])
def test_a_final_end_during_a_change_is_the_end(reconnect: Any) -> None:
    """A refusal of the service ends the conversation, whatever was being changed."""
    with service() as peer, peer.client(OLD, reconnect=reconnect) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(instructions="new")
        talk.expect("session.update")
        talk.close(1008, "policy")
        assert client.wait(20.0).meaning == "policy"
        with pytest.raises(ConnectionClosedError):
            mutation.wait(20.0)
        assert peer.server.accepted == 1


def test_the_end_fails_what_is_queued_and_is_told_last() -> None:
    """A change that was never tried has failed before Closed is told."""
    with service() as peer:
        client = peer.client(OLD)
        names: list[str] = []
        client.on(Event, lambda event: names.append(event.event_name))
        client.connect()
        talk = peer.talk()
        busy(talk, client)
        mutation = client.mutate_context(instructions="new")
        client.close()
        with pytest.raises(ConnectionClosedError, match="the conversation ended before the change"):
            mutation.wait(20.0)
        assert names[-1] == "closed"
        assert "context_mutated" in names


def test_a_change_of_tools_brings_its_functions() -> None:
    """New functions run, those that went are refused to the model, and a definition that nobody answers is a mistake."""
    with service() as peer:
        client = peer.client(OLD)

        @client.tool
        def old() -> str:
            """Old."""
            return "old"

        with client:
            talk = peer.talk()
            talk.expect("session.update")
            with pytest.raises(ConfigError, match="nobody answers the tool 'ghost'"):
                client.mutate_context(tools=[{"type": "function", "name": "ghost"}])
            mutation = client.mutate_context(tools=[Tool(name="new", function=lambda: "new")])
            assert [tool["name"] for tool in confirm(talk)["session"]["tools"]] == ["new"]
            mutation.wait(20.0)
            talk.created("r1")
            talk.call("r1", "c1", "old")
            talk.call("r1", "c2", "new")
            talk.done("r1")
            talk.expect("response.create")
            outputs = talk.outputs()
            assert "there is no function named old" in outputs["c1"]
            assert outputs["c2"] == "new"


def test_tools_that_the_service_refused_are_taken_back_with_their_functions() -> None:
    """After a refused change the old function answers again, and the one that never came into force is unknown."""
    with service() as peer:
        client = peer.client(OLD)
        client.tool(name="old")(lambda: "old")
        with client:
            talk = peer.talk()
            talk.expect("session.update")
            mutation = client.mutate_context(tools=[Tool(name="new", function=lambda: "new")])
            talk.error("invalid_value", talk.expect("session.update")["event_id"], "Not these.")
            with pytest.raises(ApiError, match="Not these"):
                mutation.wait(20.0)
            talk.created("r1")
            talk.call("r1", "c1", "old")
            talk.call("r1", "c2", "new")
            talk.done("r1")
            talk.expect("response.create")
            outputs = talk.outputs()
            assert outputs["c1"] == "old"
            assert "there is no function named new" in outputs["c2"]


def test_an_answer_that_runs_is_served_by_the_tools_it_was_told_of() -> None:
    """A change of tools that waits for the end of an answer does not take away the functions this answer calls."""
    with service() as peer:
        client = peer.client(OLD)
        client.tool(name="old")(lambda: "old")
        with client:
            talk = peer.talk()
            talk.expect("session.update")
            busy(talk, client)
            mutation = client.mutate_context(tools=[Tool(name="new", function=lambda: "new")])
            assert mutation.outcome == "queued"
            talk.call("r1", "c1", "old")
            talk.done("r1")
            talk.expect("response.create")
            assert talk.outputs() == {"c1": "old"}
            talk.created("r2")
            talk.done("r2")
            assert [tool["name"] for tool in confirm(talk)["session"]["tools"]] == ["new"]
            mutation.wait(20.0)


def test_waiting_for_a_change_in_a_handler_raises_at_once() -> None:
    """It would wait for what comes on its own thread; a change that is over may be asked."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        raised: list[RealtimeError] = []

        def handler(event: Event) -> None:
            try:
                client.mutate_context(instructions="new").wait(5.0)
            except RealtimeError as error:
                raised.append(error)

        client.on("unknown", handler)
        talk.say("go")
        confirm(talk)
        client.wait_for(ContextMutated, 20.0)
        assert [error.code for error in raised] == ["called_in_handler"]


def test_what_cannot_be_changed_is_refused_at_once() -> None:
    """Nothing given, a wrong value, no conversation."""
    with service() as peer:
        client = peer.client(OLD)
        with pytest.raises(NotConnectedError, match="there is no conversation to change: the client is idle"):
            client.mutate_context(instructions="x")
        with client:
            peer.talk()
            with pytest.raises(ConfigError, match="nothing to change"):
                client.mutate_context()
            with pytest.raises(ConfigError, match="voice must be text"):
                client.mutate_context(voice=5)  # type: ignore[arg-type]
        with pytest.raises(NotConnectedError, match="the client is closed"):
            client.mutate_context(instructions="x")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"timeout": None}, "timeout must be a number of seconds above 0, not None$"),
        ({"timeout": "5"}, "timeout must be a number of seconds above 0, not '5'$"),
        ({"timeout": 0}, "timeout must be a number of seconds above 0, not 0$"),
        ({"timeout": float("inf")}, "timeout must be a number of seconds above 0, not inf$"),
        ({"bridge": 5}, "bridge must be text, not int"),
        ({"extra": [1]}, "extra must be a dict of session fields, not list"),
    ],
    ids=str,
)
def test_a_wrong_argument_changes_nothing_and_keeps_no_later_change_waiting(wrong: dict[str, Any], words: str) -> None:
    """Nothing is sent for it, the configuration is what it was, and the next change is tried at once."""
    with service() as peer, peer.client(OLD) as client:
        talk, told = peer.talk(), steps(client)
        talk.expect("session.update")
        with pytest.raises(ConfigError, match=words):
            client.mutate_context(instructions="wrong", **wrong)
        assert client.config.instructions == "old"
        mutation = client.mutate_context(instructions="new")
        assert confirm(talk)["session"]["instructions"] == "new"
        assert mutation.wait(1e10).outcome == "applied"
        client.wait_for(ContextMutated, 20.0)
        assert told == ["applied"]
        with pytest.raises(ConfigError, match="timeout must be"):
            mutation.wait("5")  # type: ignore[arg-type]


def test_a_change_may_be_waited_for_longer_than_a_lock_can_count() -> None:
    """The wait ends when the change does."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(instructions="new", timeout=1e10)
        late = threading.Timer(0.1, lambda: talk.say("session.updated", session={"id": "sess_1"}))
        late.start()
        try:
            assert mutation.wait(1e10).outcome == "applied"
        finally:
            late.join(20.0)


def test_a_change_during_a_backoff_is_queued_and_tried_on_the_new_connection() -> None:
    """It is told that it waits, and nobody has to speak for it to be tried."""
    with service() as peer:
        client = peer.client(OLD, reconnect=QUICK)
        told = steps(client)
        over = threading.Event()
        client.on(ContextMutated, lambda event: over.set() if event.outcome == "applied" else None)
        made: list[Any] = []
        client.on(Reconnecting, lambda event: made.append(client.mutate_context(instructions="new")))
        with client:
            peer.talk().drop()
            talk = peer.talk()
            assert talk.expect("session.update")["session"]["instructions"] == "old"
            assert confirm(talk)["session"]["instructions"] == "new"
            assert made[0].wait(5.0).outcome == "applied"
            assert over.wait(20.0)
            assert told == ["queued", "applied"]


def test_each_update_has_its_own_answer() -> None:
    """The confirmation of an earlier update_session is not taken for that of a change, which is refused behind it."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        client.update_session(voice="eve")
        mutation = client.mutate_context(instructions="bad")
        assert talk.expect("session.update")["session"]["voice"] == "eve"
        refused = talk.expect("session.update")["event_id"]
        talk.say("session.updated", session={})
        talk.error("invalid_value", refused, "Not like that.")
        with pytest.raises(ApiError, match="Not like that"):
            mutation.wait(20.0)
        assert (client.config.voice, client.config.instructions) == ("eve", "old")


def test_a_change_behind_a_refused_update_is_confirmed_by_its_own_answer() -> None:
    """The error takes the first one's place, and only the first one is taken back."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        refused = client.update_session(voice="nobody")
        mutation = client.mutate_context(instructions="new")
        talk.expect("session.update")
        talk.expect("session.update")
        talk.error("invalid_value", refused)
        talk.say("session.updated", session={})
        assert mutation.wait(20.0).outcome == "applied"
        assert (client.config.voice, client.config.instructions) == (OLD.voice, "new")


def test_raw_fields_stay_in_force() -> None:
    """They are merged key by key, later updates and later connections have them too, and a newer named field wins over them."""
    with service() as peer, peer.client(OLD, reconnect=QUICK) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(extra={"temperature": 0.2, "voice": "raw", "audio": {"output": {"speed": 1.2}}})
        said = confirm(talk)["session"]
        mutation.wait(20.0)
        assert (said["temperature"], said["voice"], said["audio"]["output"]["speed"]) == (0.2, "raw", 1.2)
        assert "format" in said["audio"]["output"]
        mutation = client.mutate_context(voice="eve")
        said = confirm(talk)["session"]
        mutation.wait(20.0)
        assert (said["temperature"], said["voice"], said["audio"]["output"]["speed"]) == (0.2, "eve", 1.2)
        talk.drop()
        said = peer.talk().expect("session.update")["session"]
        assert (said["temperature"], said["voice"], said["audio"]["output"]["speed"]) == (0.2, "eve", 1.2)


def test_raw_fields_that_were_refused_are_forgotten() -> None:
    """The next update does not say them again."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(extra={"temperature": 9})
        talk.error("invalid_value", talk.expect("session.update")["event_id"])
        with pytest.raises(ApiError):
            mutation.wait(20.0)
        client.update_session(instructions="x")
        assert "temperature" not in talk.expect("session.update")["session"]


def test_a_refused_update_is_taken_back() -> None:
    """Before the program hears of it; a later connection does not begin with it."""
    with service() as peer, peer.client(OLD, reconnect=QUICK) as client:
        talk = peer.talk()
        event_id = client.update_session(voice="nobody", instructions="new")
        seen: list[Any] = []
        client.on(ErrorReceived, lambda event: seen.append((event.caused_by, client.config.voice, client.config.instructions)))
        talk.fence(client)
        talk.error("invalid_value", event_id)
        client.wait_for("error", 20.0)
        talk.fence(client)
        talk.drop()
        said = peer.talk().expect("session.update")["session"]
        assert seen == [(event_id, OLD.voice, "old")]
        assert (said["voice"], said["instructions"]) == (OLD.voice, "old")


def test_a_change_that_fails_takes_back_only_itself() -> None:
    """What update_session changed meanwhile stays."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        talk.expect("session.update")
        mutation = client.mutate_context(instructions="bad")
        refused = talk.expect("session.update")["event_id"]
        client.update_session(voice="eve")
        talk.fence(client)
        talk.error("invalid_value", refused)
        with pytest.raises(ApiError):
            mutation.wait(20.0)
        assert (client.config.voice, client.config.instructions) == ("eve", "old")


def test_an_update_without_an_answer_is_said_again_over_the_next_connection() -> None:
    """The new connection begins with what is certain; the update follows under its old id, once, and can still be refused."""
    with service() as peer, peer.client(OLD, reconnect=QUICK) as client:
        talk = peer.talk()
        talk.expect("session.update")
        event_id = client.update_session(instructions="new")
        talk.expect("session.update")
        talk.drop()
        second = peer.talk()
        assert second.expect("session.update")["session"]["instructions"] == "old"
        again = second.expect("session.update")
        assert (again["event_id"], again["session"]["instructions"]) == (event_id, "new")
        second.error("invalid_value", event_id)
        client.wait_for("error", 20.0)
        assert client.config.instructions == "old"
        second.fence(client)
        assert second.count("session.update") == 2


def test_an_update_during_a_backoff_waits_for_the_connection() -> None:
    """It comes before what was sent behind it, and is the configuration from then on."""
    with service() as peer:
        client = peer.client(OLD, reconnect=QUICK)
        ids: list[str] = []

        def meanwhile(event: Event) -> None:
            ids.append(client.update_session(instructions="new"))
            client.send_text("Hello.", respond=False)

        client.on(Reconnecting, meanwhile)
        with client:
            peer.talk().drop()
            talk = peer.talk()
            assert talk.expect("session.update")["session"]["instructions"] == "old"
            update = talk.expect("session.update")
            assert (update["event_id"], update["session"]["instructions"]) == (ids[0], "new")
            talk.expect("conversation.item.create")
            assert client.config.instructions == "new"


def test_an_update_that_needs_a_new_connection_is_refused_at_once() -> None:
    """It names the method that can."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()
        with pytest.raises(UnsupportedCommandError, match=r"mutate_context\(\) can"):
            client.update_session(extra={"model": "grok-9"})
        assert client.config == OLD
        talk.fence(client)
        assert talk.count("session.update") == 1


def test_updates_of_many_threads_leave_in_the_order_they_were_made() -> None:
    """The last one that leaves holds them all: none is overwritten by an older picture of the configuration."""
    with service() as peer, peer.client(OLD) as client:
        talk = peer.talk()

        def speak(name: str) -> None:
            for number in range(20):
                client.update_session(extra={name: number})

        threads = [threading.Thread(target=speak, args=(f"x{index}",)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20.0)
        talk.fence(client)
        updates = [v["session"] for v in talk.received if v["type"] == "session.update"]
        assert len(updates) == 81
        assert {name: updates[-1].get(name) for name in ("x0", "x1", "x2", "x3")} == dict.fromkeys(("x0", "x1", "x2", "x3"), 19)


@pytest.mark.parametrize("dialect", ["gemini", "elevenlabs"])
def test_a_service_that_is_configured_once_takes_an_update_where_it_has_a_word_for_it(dialect: str) -> None:
    """The rest is refused in the caller's thread, with the method that can do it, and changes nothing here."""
    with (
        RealtimeServer(light=True, pace=1000, dialect=dialect) as server,
        RealtimeClient.direct(server.ws_url, "key", OLD, dialect=dialect) as client,
    ):
        with pytest.raises(UnsupportedCommandError, match=r"mutate_context\(\) does that"):
            client.update_session(voice="Puck")
        assert client.config == OLD
        if dialect == "gemini":
            client.update_session(extra={"tools": []})
            client.update_session(instructions="new")
            assert (client.config.instructions, client.config.session) == ("new", {"tools": []})
        assert client.mutate_context(voice="Puck").wait(5.0).outcome == "applied"
        assert client.config.voice == "Puck"
