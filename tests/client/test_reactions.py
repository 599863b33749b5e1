"""Tools in a real conversation: who answers, when the next answer is asked for, and what happens when the user speaks meanwhile."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.config import Tool
from qai_realtime_sync.events import ErrorReceived, FunctionCall, HandlerFailed
from qai_realtime_sync.offline import RealtimeServer, Script
from tests.servers import Talk, service


def sync(talk: Talk, client: RealtimeClient) -> None:
    talk.say("mark")
    client.wait_for("unknown", 20.0, where=lambda event: event.type == "mark")


def settle(talk: Talk, client: RealtimeClient, results: int) -> dict[str, str]:
    """Wait for so many results, and for all that the client says by itself after them."""
    for _ in range(results):
        talk.expect("conversation.item.create")
    sync(talk, client)
    talk.fence(client)
    return talk.outputs()


def test_three_calls_of_one_answer_bring_three_results_and_one_request() -> None:
    """One is slow, one raises, one is unknown: all are answered, and the next answer is asked for behind the last."""
    with service() as peer:
        client = peer.client()
        gate = threading.Event()
        failures: list[HandlerFailed] = []
        client.on_handler_failed(failures.append)

        @client.tool
        def slow(city: str) -> dict[str, str]:
            """Be slow."""
            gate.wait(5.0)
            return {"city": city}

        @client.tool
        def broken() -> None:
            """Break."""
            raise LookupError("no such city")

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "slow", '{"city": "Oslo"}')
            talk.call("r1", "c2", "broken")
            talk.call("r1", "c3", "nobody")
            talk.done("r1")
            outputs = settle(talk, client, 2)
            assert json.loads(outputs["c2"]) == {"error": "LookupError: no such city"}
            assert "there is no function named nobody; known functions: broken, slow" in outputs["c3"]
            assert talk.count("response.create") == 0
            gate.set()
            talk.expect("response.create")
            assert json.loads(talk.outputs()["c1"]) == {"city": "Oslo"}
            talk.fence(client)
            assert talk.count("response.create") == 1
            assert [failure.handler for failure in failures] == ["broken"]
            calls = client.conversation[0].tool_calls
            assert [call.call_id for call in calls] == ["c1", "c2", "c3"]
            assert all(call.output for call in calls)


def test_the_request_comes_after_every_result_however_the_threads_run() -> None:
    """Twenty rounds of four tools that end at the same moment: response.create is never before a result."""
    with service() as peer:
        client = peer.client()
        barrier = threading.Barrier(4)

        @client.tool
        def meet() -> str:
            """Meet the others."""
            barrier.wait(5.0)
            return "ok"

        with client:
            talk = peer.talk()
            for number in range(20):
                response = f"r{number}"
                talk.created(response)
                for one in range(4):
                    talk.call(response, f"{response}.{one}", "meet")
                talk.done(response)
                talk.expect("response.create")
                before = talk.kinds()
                assert before.count("conversation.item.create") == 4 * (number + 1)
                assert before.count("response.create") == number + 1
            assert len(talk.outputs()) == 80


def test_the_programs_own_calls_are_answered_by_the_program() -> None:
    """A declared tool without a function, or a handler of function calls: nothing is answered for it."""
    config = RealtimeConfig(tools=[Tool(name="mine"), {"type": "function", "name": "also_mine", "parameters": {}}])
    with service() as peer, peer.client(config) as client:
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "mine")
        talk.call("r1", "c2", "also_mine")
        talk.done("r1")
        sync(talk, client)
        talk.fence(client)
        assert talk.outputs() == {}
        client.send_function_result("c1", {"a": 1})
        client.send_function_result("c2", "text")
        client.send_function_result("c2", "again")
        talk.expect("response.create")
        assert talk.outputs() == {"c1": '{"a": 1}', "c2": "text"}


def test_the_end_of_the_only_answer_needs_no_id() -> None:
    """A proxy that leaves the id out of response.done does not keep the next answer from being asked for."""
    with service() as peer:
        client = peer.client()

        @client.tool
        def look() -> str:
            """Look."""
            return "a tree"

        with client:
            talk = peer.talk()
            client.send_text("What is there?")
            talk.expect("response.create")
            talk.created("r1")
            talk.call("r1", "c1", "look")
            talk.say("response.done")
            talk.expect("response.create")
            assert talk.outputs() == {"c1": "a tree"}
            assert client.wait_for("response_done", 20.0).response_id == "r1"


def test_a_tool_runs_although_its_result_is_not_waited_for() -> None:
    """A call that says it expects no response runs its function all the same, and nothing is sent for it."""

    def opening(talk: Talk) -> None:
        talk.peer.upgrade()
        talk.say("conversation_initiation_metadata", conversation_initiation_metadata_event={"conversation_id": "conv_1"})

    with service(opening) as peer:
        url = peer.base_url.replace("http", "ws") + "/v1/convai/conversation?agent_id=a"
        client = RealtimeClient.direct(url, "", dialect="elevenlabs")
        peer.clients.append(client)
        ran = threading.Event()

        @client.tool
        def hang_up() -> str:
            """End the call."""
            ran.set()
            return "done"

        with client:
            talk = peer.talk()
            call = {"tool_name": "hang_up", "tool_call_id": "t1", "parameters": {}, "expects_response": False}
            talk.say("client_tool_call", client_tool_call=call)
            assert ran.wait(10.0)
            talk.fence(client)
            assert "client_tool_result" not in talk.kinds()


def test_a_call_of_an_answer_beside_the_conversation_runs_and_brings_nothing_into_it() -> None:
    """The conversation does not have that call: neither a result nor a request for the next answer follows."""
    with service() as peer:
        client = peer.client()
        ran = threading.Event()

        @client.tool
        def look() -> str:
            """Look."""
            ran.set()
            return "a tree"

        with client:
            talk = peer.talk()
            client.create_response(out_of_band=True, metadata={"for": "form"})
            talk.expect("response.create")
            talk.created("r1", metadata={"for": "form"})
            talk.call("r1", "c1", "look")
            talk.call("r1", "c2", "nobody")
            talk.done("r1", metadata={"for": "form"})
            assert ran.wait(10.0)
            sync(talk, client)
            talk.fence(client)
            assert talk.outputs() == {}
            assert talk.count("response.create") == 1


def test_a_handler_of_function_calls_may_answer_at_once() -> None:
    """Before the item, and the answer, are complete: the request still waits for the end of the answer."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        client.on_function_call(lambda event: client.send_function_result(event.call_id, event.name))
        talk.created("r1")
        talk.call("r1", "c1", "anything")
        assert settle(talk, client, 1) == {"c1": "anything"}
        assert talk.count("response.create") == 0
        talk.done("r1")
        talk.expect("response.create")


def test_results_that_want_no_answer() -> None:
    """With respond=False the program asks for the next answer itself."""
    with service() as peer, peer.client(RealtimeConfig(tools=[Tool(name="mine")])) as client:
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "mine")
        talk.done("r1")
        sync(talk, client)
        client.send_function_result("c1", "x", respond=False)
        talk.fence(client)
        assert talk.count("response.create") == 0
        client.create_response()
        talk.expect("response.create")


def test_a_call_is_run_once_however_often_it_is_told() -> None:
    """A service may tell the same call again, in the item and in the end of the answer."""
    with service() as peer:
        client = peer.client()
        ran: list[int] = []

        @client.tool
        def count() -> int:
            """Count."""
            ran.append(1)
            return len(ran)

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "count")
            talk.call("r1", "c1", "count")
            talk.done("r1")
            talk.expect("response.create")
            sync(talk, client)
            assert ran == [1]


def test_a_slow_tool_is_answered_for_at_its_time_limit() -> None:
    """The model reads that it was too slow; its late result is dropped."""
    with service() as peer:
        client = peer.client()
        gate = threading.Event()

        @client.tool(timeout=0.2)
        def slow() -> str:
            """Be slow."""
            gate.wait(5.0)
            return "late"

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "slow")
            talk.done("r1")
            talk.expect("response.create")
            assert "slow did not answer within 0.2 s" in talk.outputs()["c1"]
            gate.set()
            sync(talk, client)
            talk.fence(client)
            assert len(talk.outputs()) == 1


def test_a_tool_that_hangs_leaves_the_tools_after_it_alone() -> None:
    """Even with one thread: the one that hangs is answered for at its time limit, and the next call runs."""
    with service() as peer:
        client = peer.client(tool_threads=1)
        gate = threading.Event()

        def hangs() -> str:
            """Hang."""
            gate.wait(30.0)
            return "late"

        client.tool(hangs, timeout=0.2)

        @client.tool
        def quick() -> str:
            """Be quick."""
            return "fine"

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "hangs")
            talk.call("r1", "c2", "quick")
            talk.done("r1")
            talk.expect("response.create")
            assert "hangs did not answer within 0.2 s" in talk.outputs()["c1"]
            assert talk.outputs()["c2"] == "fine"
            gate.set()
            for thread in client._call.pool.threads:
                if thread.name == "qai-tool-0":
                    thread.join(10.0)
                    assert not thread.is_alive()


def test_a_cancelled_answer_is_not_followed() -> None:
    """Its running tool's result is sent, because the call stands in the conversation; nothing is asked for."""
    with service() as peer:
        client = peer.client()
        gate, started = threading.Event(), threading.Event()

        @client.tool
        def slow() -> str:
            """Be slow."""
            started.set()
            gate.wait(5.0)
            return "done"

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "slow")
            assert started.wait(20.0)
            talk.done("r1", status="cancelled")
            sync(talk, client)
            gate.set()
            talk.expect("conversation.item.create")
            talk.fence(client)
            assert talk.count("response.create") == 0
            client._call.pool.stop()
            for thread in client._call.pool.threads:
                thread.join(20.0)
            assert not client._call.is_busy


def test_the_follow_up_waits_while_the_user_gets_another_answer() -> None:
    """The user spoke while the tool ran: its result goes at once, the request when that other answer is over."""
    with service() as peer:
        client = peer.client()
        gate = threading.Event()

        @client.tool
        def slow() -> str:
            """Be slow."""
            gate.wait(5.0)
            return "done"

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "slow")
            talk.done("r1")
            talk.created("vad")
            sync(talk, client)
            gate.set()
            talk.expect("conversation.item.create")
            talk.fence(client)
            assert talk.count("response.create") == 0
            talk.done("vad")
            talk.expect("response.create")


@pytest.mark.parametrize("told_first", [True, False])
def test_the_classic_race_of_a_tool_against_the_users_speech(told_first: bool) -> None:
    """The service began an answer of its own just before our request: the error is absorbed, and the request made again."""
    with service() as peer:
        client = peer.client()

        @client.tool
        def fast() -> str:
            """Be fast."""
            return "done"

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "fast")
            talk.done("r1")
            request = talk.expect("response.create")
            if told_first:
                talk.created("vad")
            talk.error("conversation_already_has_active_response", request["event_id"])
            if not told_first:
                talk.created("vad")
            sync(talk, client)
            talk.fence(client)
            assert talk.count("response.create") == 1
            talk.done("vad")
            again = talk.expect("response.create")
            assert again["event_id"] != request["event_id"]
            talk.created("r2")
            talk.done("r2")
            sync(talk, client)
            talk.fence(client)
            assert talk.count("response.create") == 2


def test_a_tool_may_use_the_client() -> None:
    """It runs off the reader: it may wait for events, and send."""
    with service() as peer:
        client = peer.client()

        @client.tool
        def look() -> str:
            """Look."""
            client.send_context("Looking.")
            return str(client.wait_for("unknown", 20.0, where=lambda event: event.type == "seen").raw["what"])

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "look")
            talk.done("r1")
            talk.expect("conversation.item.create")
            talk.say("seen", what="rain")
            talk.expect("response.create")
            assert talk.outputs() == {"c1": "rain"}


def test_a_result_that_cannot_be_sent_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The conversation has ended while the tool ran."""
    with service() as peer:
        client = peer.client()
        gate, started = threading.Event(), threading.Event()

        @client.tool
        def slow() -> str:
            """Be slow."""
            started.set()
            gate.wait(5.0)
            return "done"

        client.connect()
        talk = peer.talk()
        talk.created("r1")
        talk.call("r1", "c1", "slow")
        assert started.wait(20.0)
        client.abort()
        client.wait(20.0)
        gate.set()
        for thread in client._call.pool.threads:
            thread.join(20.0)
    assert any("the result of slow was not sent" in record.message for record in caplog.records)


def test_the_model_makes_a_mistake_and_the_program_is_not_told_that_it_failed() -> None:
    """Wrong arguments go back to the model; with on_handler_error='raise' nobody gets an exception for them."""
    with service() as peer:
        client = peer.client(on_handler_error="raise")

        @client.tool
        def look(city: str) -> str:
            """Look."""
            return city

        with client:
            talk = peer.talk()
            talk.created("r1")
            talk.call("r1", "c1", "look", '{"town": "Oslo"}')
            talk.done("r1")
            talk.expect("response.create")
            assert "there is no argument 'town'" in talk.outputs()["c1"]
            sync(talk, client)


# -- against the local server ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["xai", "openai"])
def test_a_conversation_with_tools_against_the_local_server(dialect: str) -> None:
    """The package's own server, which refuses two answers at once and unknown calls, has nothing to complain of."""
    script = Script()
    script.on_text("weather in (\\w+)").call_tool("get_weather", {"city": "{1}"})
    script.on_text("both").call_tool("get_weather", {"city": "Oslo"}).call_tool("get_time", {})
    with RealtimeServer(light=True, script=script, dialect=dialect, pace=50.0) as server:
        if dialect == "xai":
            client = RealtimeClient("qai_x", base_url=server.url)
        else:
            client = RealtimeClient.direct(server.ws_url, "sk-test", RealtimeConfig(model="gpt-realtime"), dialect="openai")
        errors: list[Any] = []
        calls: list[FunctionCall] = []
        client.on_error(errors.append)
        client.on_function_call(calls.append)

        @client.tool
        def get_weather(city: str) -> str:
            """Weather."""
            return f"Sunny in {city}"

        @client.tool
        def get_time() -> str:
            """Time."""
            return "ten"

        with client:
            answer = client.ask("How is the weather in Oslo?", timeout=10.0)
            assert answer.text
            assert len(answer.response_ids) == 2
            assert answer.audio
            both = client.ask("Tell me both.", timeout=10.0)
            assert len(both.response_ids) == 2
            plain = client.ask("Hello there", timeout=10.0)
            assert plain.text
            assert len(client.conversation) == 3
        assert [call.name for call in calls] == ["get_weather", "get_weather", "get_time"]
        assert [error.message for error in errors if not error.benign] == []


def test_a_key_in_the_words_of_an_error_is_not_shown() -> None:
    """A service that repeats the key or token it was given must not bring it into logs, pages and exceptions."""
    with service() as peer, peer.client() as client:
        talk = peer.talk()
        talk.error("invalid_api_key", message="Incorrect API key provided: qai_test. Find yours at example.com.")
        told = client.wait_for(ErrorReceived, 20.0)
        assert told.message == "Incorrect API key provided: <redacted>. Find yours at example.com."
        assert "qai_test" not in repr(told)
