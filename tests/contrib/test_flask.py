"""The Flask extension, against real HTTP and the local server: contexts, ends of clients, event streams."""

from __future__ import annotations

import array
import contextlib
import enum
import functools
import itertools
import json
import logging
import math
import pathlib
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("flask", reason="the extension needs Flask")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

import flask
import simple_websocket

from qai_realtime_sync import ConfigError, Event, RealtimeClient, RealtimeConfig, Tool, TurnDetection, transport
from qai_realtime_sync.contrib import sse
from qai_realtime_sync.contrib.flask import Realtime, event_stream
from qai_realtime_sync.contrib.web_client import WebClient
from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.browser import chromium, microphone, wait_until
from tests.contrib.web import PATIENCE, Program, Stream, get, post, serving

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[RealtimeServer]:
    """A local server that wants the key `flask key`."""
    with RealtimeServer(light=True, key="flask key") as running:
        yield running


@pytest.fixture
def app(server: RealtimeServer) -> flask.Flask:
    """An app that is configured for the local server."""
    made = flask.Flask("shop")
    made.secret_key = "for sessions"
    made.config.from_mapping(QAI_API_KEY="flask key", QAI_BASE_URL=server.url)
    Realtime(made)
    return made


def extension(app: flask.Flask) -> Realtime:
    """The extension of an app."""
    found = app.extensions["qai_realtime"]
    assert isinstance(found, Realtime)
    return found


# -- configuration -------------------------------------------------------------------------------------------------------------


def test_a_client_is_made_by_the_configuration(app: flask.Flask) -> None:
    """Key, address, config and further arguments come from `app.config`; what is given goes before it."""
    app.config["REALTIME_CONFIG"] = {"instructions": "You answer in verse.", "turn_detection": {"type": "server_vad", "threshold": 0.4}}
    app.config["REALTIME_CLIENT"] = {"close_timeout": 1.5, "reconnect": False}
    with app.app_context():
        client = extension(app).new_client()
        assert client.config.instructions == "You answer in verse."
        assert client.config.turn_detection == TurnDetection(threshold=0.4)
        assert client._call.options.close_timeout == 1.5
        assert client.connect().ask("Hello!", timeout=PATIENCE).text
        other = extension(app).new_client(RealtimeConfig(instructions="No verse."), close_timeout=2.5)
        assert (other.config.instructions, other._call.options.close_timeout) == ("No verse.", 2.5)


def test_a_direct_address_can_be_configured(app: flask.Flask, server: RealtimeServer) -> None:
    """With `url` and `token` the client connects straight to a service, and its handlers have their context all the same."""
    app.config["REALTIME_CLIENT"] = {"url": server.base_ws_url + "/v1/realtime", "token": "flask key", "dialect": "xai"}
    names = []
    with app.app_context(), extension(app).new_client() as client:
        client.on_response_done(lambda event: names.append(flask.current_app.name))
        client.ask("Hello!", timeout=PATIENCE)
    assert names == ["shop"]


def test_a_missing_key_is_named_when_the_client_connects(app: flask.Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key in configuration and environment `connect` says where it is looked for; with one there it connects."""
    app.config["QAI_API_KEY"] = None
    monkeypatch.delenv("QAI_API_KEY", raising=False)
    with app.app_context():
        with pytest.raises(ConfigError, match="QAI_API_KEY"):
            extension(app).new_client().connect()
        monkeypatch.setenv("QAI_API_KEY", "flask key")
        assert extension(app).new_client().connect().is_connected


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("REALTIME_CONFIG", {"voices": "Eve"}, "no field 'voices'"),
        ("REALTIME_CONFIG", "Eve", "REALTIME_CONFIG must be"),
        ("REALTIME_CLIENT", ["mint"], "REALTIME_CLIENT must be"),
        ("REALTIME_CLIENT", {"mints": True}, "did you mean 'mint'"),
        ("REALTIME_CLIENT", {"config": {"voice": "Eve"}}, "stands in REALTIME_CONFIG"),
    ],
)
def test_a_wrong_setting_is_named(app: flask.Flask, key: str, value: Any, words: str) -> None:
    """The message says which key is wrong, and how."""
    app.config[key] = value
    with app.app_context(), pytest.raises(ConfigError, match=words):
        extension(app).new_client()


def test_a_dict_is_no_configuration_of_a_client(app: flask.Flask) -> None:
    """What the settings take and `new_client` does not is told with how to make one of it."""
    config: Any = {"voice": "Eve"}
    with app.app_context(), pytest.raises(ConfigError, match=r"not dict; RealtimeConfig.from_dict"):
        extension(app).new_client(config)


def test_an_app_is_needed() -> None:
    """Outside every app, and in one that the extension does not know, there is nothing to be configured by."""
    with pytest.raises(ConfigError, match="app context"):
        Realtime().new_client()
    with flask.Flask("other").app_context(), pytest.raises(ConfigError, match="init_app"):
        Realtime().new_client()


def test_without_a_context_the_app_it_was_made_with_counts(app: flask.Flask) -> None:
    """In a script `Realtime(app)` is enough; nobody closes the client but the program."""
    with extension(app).new_client() as client:
        assert client.ask("Hello!", timeout=PATIENCE).text


def test_one_extension_serves_many_apps(server: RealtimeServer) -> None:
    """With `init_app` each client's handlers see the app that it was made in."""
    realtime = Realtime()
    names = []
    for name in ("one", "two"):
        app = flask.Flask(name)
        app.config.update(QAI_API_KEY="flask key", QAI_BASE_URL=server.url)
        realtime.init_app(app)
        with app.app_context():
            client = realtime.new_client()
            client.on_session_ready(lambda event: names.append(flask.current_app.name))
            client.connect()
    assert names == ["one", "two"]


def test_without_flask_the_extra_is_named() -> None:
    """Importing the extension without Flask says what to install."""
    code = "import sys; sys.modules['flask'] = None\nimport qai_realtime_sync.contrib.flask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert "ConfigError" in done.stderr
    assert "pip install 'qai-realtime-sync[flask]'" in done.stderr


# -- contexts ------------------------------------------------------------------------------------------------------------------


def test_handlers_run_in_the_app_context(app: flask.Flask) -> None:
    """Each call of a handler has an app context of its own, on the client's thread, and it is torn down after the call."""
    seen: list[tuple[str, bool, bool, str]] = []
    torn_down = []
    app.teardown_appcontext(lambda error: torn_down.append(threading.current_thread().name))

    def look(event: Event) -> None:
        seen.append((flask.current_app.name, "mark" in flask.g, flask.has_request_context(), threading.current_thread().name))
        flask.g.mark = True

    with app.app_context():
        client = extension(app).new_client()
        client.on("session_ready", look)
        client.on("response_done", background=True)(look)
        client.once("response_done", look)
        client.connect().ask("Hello!", timeout=PATIENCE)
        client.close()
        assert len(torn_down) == 3
    assert sorted(seen) == [("shop", False, False, name) for name in ("qai-lane", "qai-reader", "qai-reader")]
    assert sorted(torn_down) == ["MainThread", "qai-lane", "qai-reader", "qai-reader"]


def test_a_failing_handler_tears_its_context_down(app: flask.Flask, caplog: pytest.LogCaptureFixture) -> None:
    """The teardown functions get the exception, the conversation goes on, and the failure is told."""
    errors = []
    app.teardown_appcontext(lambda error: errors.append(type(error)))
    with app.app_context(), caplog.at_level(logging.CRITICAL):
        client = extension(app).new_client()
        client.on_session_ready(lambda event: {}["missing"])
        client.connect()
        failed = client.wait_for("handler_failed", timeout=PATIENCE)
        assert isinstance(failed.error, KeyError)
        assert client.is_connected
        assert errors == [KeyError]


class Size(enum.Enum):
    SMALL = "small"


class Counter:
    """A tool that is an object."""

    def __call__(self, size: Size) -> str:
        assert size is Size.SMALL
        return f"object in {flask.current_app.name}"


def weigh(unit: str, size: Size) -> str:
    """Weigh something."""
    assert size is Size.SMALL
    return f"{unit} in {flask.current_app.name}"


def test_tools_run_in_the_app_context_with_their_arguments_converted(app: flask.Flask) -> None:
    """Functions, partial ones, objects and those of the configuration run inside the context, and get what their annotations say."""
    given = RealtimeConfig(tools=[Tool(name="configured", function=functools.partial(weigh, "stone"))])
    with app.app_context():
        client = extension(app).new_client(given)
        assert client.tool(weigh) is weigh
        client.tool(functools.partial(weigh, "gram"), name="partial")
        client.tool(name="counter")(Counter())
        tools = {tool.name: tool for tool in client.config.tools if isinstance(tool, Tool)}
    assert tools["weigh"].description == "Weigh something."
    assert tools["weigh"].parameters["properties"]["size"] == {"type": "string", "enum": ["small"]}
    from qai_realtime_sync.conversation.schema import bind_arguments

    results = {}
    for name, tool in tools.items():
        assert tool.function is not None
        arguments = bind_arguments(tool.function, {"size": "small"} | ({"unit": "ton"} if name == "weigh" else {}))
        results[name] = tool.function(**arguments)
    assert results == {"configured": "stone in shop", "weigh": "ton in shop", "partial": "gram in shop", "counter": "object in shop"}


def test_a_called_tool_sees_the_app(app: flask.Flask) -> None:
    """A tool that the service calls runs in the pool, inside the context."""
    with app.app_context():
        client = extension(app).new_client()

        @client.tool
        def get_weather(city: str) -> str:
            """Current weather in a city."""
            return f"{city} as seen from {flask.current_app.name}"

        assert "Oslo as seen from shop" in client.connect().ask("What is the weather like in Oslo?", timeout=PATIENCE).text


def test_tools_that_come_later_run_in_the_context_too(app: flask.Flask) -> None:
    """What `mutate_context` brings is called in the context, once, also when it is given again."""
    with app.app_context():
        client = extension(app).new_client(RealtimeConfig(tools=[Tool(name="first", function=lambda: flask.current_app.name)])).connect()
        later = Tool(name="later", function=lambda: (flask.current_app.name, flask.g.setdefault("calls", 0)))
        client.mutate_context(tools=[*client.config.tools, later]).wait()
        tools = [tool.function for tool in client.config.tools if isinstance(tool, Tool) and tool.function is not None]
        client.mutate_context(tools=list(client.config.tools)).wait()
        again = [tool.function for tool in client.config.tools if isinstance(tool, Tool)]
    assert [tool() for tool in tools] == ["shop", ("shop", 0)]
    assert again == tools


def test_a_handler_can_be_taken_off_again(app: flask.Flask) -> None:
    """`off` knows the function that was registered, not what is made of it."""
    calls: list[Event] = []
    with app.app_context():
        client = extension(app).new_client()
        assert client.on("response_done", calls.append) == calls.append
        client.off("response_done", calls.append)
        client.connect().ask("Hello!", timeout=PATIENCE)
    assert calls == []


def test_wrong_handlers_are_refused_as_ever(app: flask.Flask) -> None:
    """What wraps a handler hides neither an async function, nor a wrong signature, nor an unknown event."""

    async def later(event: Event) -> None:
        raise AssertionError

    with app.app_context():
        client = extension(app).new_client()
        for wrong in (later, lambda: None, 5):
            with pytest.raises(ConfigError):
                client.on("response_done", wrong)
        for decorate in (client.on, client.once):
            with pytest.raises(ConfigError, match="did you mean"):
                decorate("response_don")
        with pytest.raises(ConfigError, match="async"):
            client.tool(later)


def test_the_request_can_be_copied_into_handlers(app: flask.Flask) -> None:
    """With `request_context=True` handlers and tools see the request, its body and its session, also when it is over."""
    seen: dict[str, Any] = {}
    clients = []

    @app.post("/calls/<number>")
    def begin(number: str) -> str:
        flask.session["user"] = "anna"
        client = extension(app).new_client(request_context=True)
        extension(app).keep(client)
        clients.append(client)

        @client.tool
        def get_weather(city: str) -> str:
            """Current weather in a city."""
            assert flask.request.view_args is not None
            seen["tool"] = (flask.request.view_args["number"], flask.request.form["customer"], flask.session["user"])
            return "fine"

        @client.on_response_done
        def done(event: Event) -> None:
            seen["handler"] = (flask.request.args["from"], flask.request.form["customer"], flask.request.remote_addr, flask.g.get("mark"))
            flask.g.mark = "mine"

        flask.g.mark = "the view's"
        client.connect()
        return "begun"

    with serving(app) as port:
        assert post(port, "/calls/7?from=page", "customer=42") == (200, "begun")
    (client,) = clients
    with contextlib.closing(client):
        client.ask("What is the weather like in Oslo?", timeout=PATIENCE)
    assert seen == {"tool": ("7", "42", "anna"), "handler": ("page", "42", "127.0.0.1", None)}


def test_a_copied_request_leaves_the_view_its_files(app: flask.Flask) -> None:
    """A handler that is done does not close what was uploaded while the view still reads it; the end of the request does."""
    files = []

    @app.post("/calls")
    def begin() -> bytes:
        files.append(flask.request.files["voice"])
        client = extension(app).new_client(request_context=True)
        handled = threading.Event()
        client.on_session_ready(lambda event: flask.request.files["voice"].filename)
        client.on_session_ready(lambda event: handled.set(), background=True)
        client.connect()
        assert handled.wait(PATIENCE)
        client.close()
        return files[0].read()

    body = '--x\r\nContent-Disposition: form-data; name="voice"; filename="a.wav"\r\n\r\nsound\r\n--x--\r\n'
    with serving(app) as port:
        assert post(port, "/calls", body, Content_Type="multipart/form-data; boundary=x") == (200, "sound")
    assert files[0].closed


def test_a_request_is_needed_to_copy_one(app: flask.Flask) -> None:
    """Asked to copy a request where there is none, it says so."""
    with app.app_context(), pytest.raises(ConfigError, match="in a view"):
        extension(app).new_client(request_context=True)


# -- ends ----------------------------------------------------------------------------------------------------------------------


def test_a_client_is_closed_with_its_request(app: flask.Flask) -> None:
    """Whatever the view does, the conversation it began is over when the request is."""
    clients = []

    @app.get("/<how>")
    def view(how: str) -> str:
        clients.append(extension(app).new_client().connect())
        return str(1 / len(how[1:]))

    with serving(app) as port:
        assert get(port, "/well")[0] == 200
        assert get(port, "/x")[0] == 500  # a division by zero
    assert [client.wait(PATIENCE).by for client in clients] == ["client", "client"]


def test_a_client_of_a_handler_is_closed_with_the_handler(app: flask.Flask) -> None:
    """A handler's context is a context like others: what is made in it ends with it, and the conversation around it does not."""
    inner = []
    with app.app_context():
        client = extension(app).new_client()
        client.on_session_ready(lambda event: inner.append(extension(app).new_client()))
        client.connect()
        client.ask("Hello!", timeout=PATIENCE)
        assert [one.state for one in inner] == ["closed"]
        assert client.is_connected


def test_a_client_that_a_stream_tells_of_lasts_as_long_as_the_stream(app: flask.Flask) -> None:
    """Watched by the request that made it, a conversation ends when the browser goes, not before."""
    clients = []

    @app.get("/watch")
    def watch() -> flask.Response:
        clients.append(extension(app).new_client().connect())
        return extension(app).event_stream(clients[0], heartbeat=0.05)

    with serving(app) as port:
        with Stream(port, "/watch") as stream:
            stream.until("state_changed")
            (client,) = clients
            client.send_text("Hello!")
            stream.until("response_done")
            assert client.is_connected
        assert client.wait(PATIENCE).by == "client"


def test_a_kept_client_is_found_by_later_requests(app: flask.Flask) -> None:
    """`keep` lets a client outlive its request; its name is long and random; another name is 404."""

    @app.post("/calls")
    def begin() -> str:
        client = extension(app).new_client().connect()
        return extension(app).keep(client)

    @app.post("/calls/<name>/ask")
    def ask(name: str) -> str:
        return extension(app).find(name).ask("Hello!", timeout=PATIENCE).text

    @app.post("/calls/<name>/end")
    def end(name: str) -> str:
        client = extension(app).find(name)
        client.close()
        return client.state

    with serving(app) as port:
        status, name = post(port, "/calls")
        assert status == 200
        assert len(name) >= 22
        assert "Hello" in post(port, f"/calls/{name}/ask")[1]
        assert post(port, "/calls/other/ask")[0] == 404
        assert post(port, f"/calls/{name}/end") == (200, "closed")
        assert post(port, f"/calls/{name}/end") == (200, "closed")  # for a minute it is still known


def test_nothing_handles_sigterm_unasked(app: flask.Flask) -> None:
    """Only `REALTIME_CLOSE_ON_SIGTERM` installs a handler, and only in the main thread."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    app.config["REALTIME_CLOSE_ON_SIGTERM"] = True
    raised: list[ConfigError] = []

    def elsewhere() -> None:
        try:
            Realtime(app)
        except ConfigError as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(raised[0])


def test_sigterm_ends_kept_conversations(server: RealtimeServer) -> None:
    """A process that is told to end while it streams says goodbye to the service first, and then ends by the signal."""
    code = f"""
import flask, sys, threading
from qai_realtime_sync.contrib.flask import Realtime
app = flask.Flask("worker")
app.config.update(QAI_API_KEY="flask key", QAI_BASE_URL={server.url!r}, REALTIME_CLOSE_ON_SIGTERM=True)
realtime = Realtime(app)
with app.test_request_context("/"):
    client = realtime.new_client()
    realtime.keep(client)
    print(client.connect().session_id, flush=True)
    for piece in realtime.event_stream(client).response:
        print(piece.decode().strip().splitlines()[-1], flush=True)
threading.Event().wait({PATIENCE})
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        while '"open"' not in process.stdout.readline():
            assert select.select([process.stdout], [], [], PATIENCE)[0]
        process.terminate()
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGTERM
    finally:
        process.kill()
        process.communicate()
    deadline = time.monotonic() + PATIENCE
    while (last := server.journal[-1])["name"] != "closed":
        assert not threading.Event().wait(0.02)
        assert time.monotonic() < deadline, last
    assert last["code"] == 1001


# -- event streams -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pages(app: flask.Flask) -> dict[str, Any]:
    """Routes that begin, speak, watch and end one conversation; ``gone`` is set when a stream was left."""
    shared: dict[str, Any] = {"gone": threading.Event(), "app": app}

    @app.post("/calls")
    def begin() -> str:
        shared["client"] = client = extension(app).new_client()
        name = extension(app).keep(client)
        client.connect()
        return name

    @app.get("/events/<name>")
    def events(name: str) -> flask.Response:
        response = extension(app).event_stream(extension(app).find(name), heartbeat=0.05)
        response.call_on_close(shared["gone"].set)
        return response

    return shared


def test_a_stream_tells_the_whole_conversation(pages: dict[str, Any]) -> None:
    """From connecting to the end, in order, over real HTTP; then the answer is over, and a browser that comes back is sent away."""
    with serving(pages["app"]) as port:
        name = post(port, "/calls")[1]
        client = pages["client"]
        with Stream(port, f"/events/{name}") as stream:
            assert stream.status == 200
            assert stream.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert (stream.headers["Cache-Control"], stream.headers["X-Accel-Buffering"]) == ("no-cache", "no")
            before = stream.until("state_changed")
            client.send_text("Hello!")
            told = before + stream.until("response_done")
            client.close()
            told += list(stream)
        numbers = [number for number, _ in told]
        names = [event["name"] for _, event in told]
        assert numbers == sorted(set(numbers))
        assert names[-1] == "closed"
        assert names.index("response_created") < names.index("audio_delta") < names.index("transcript_done") < names.index("response_done")
        said = "".join(event["delta"] for _, event in told if event["name"] == "transcript_delta")
        assert said == next(event["transcript"] for _, event in told if event["name"] == "transcript_done") != ""
        assert all(isinstance(event["audio"], int) for _, event in told if event["name"] == "audio_delta")
        with Stream(port, f"/events/{name}", str(numbers[-1])) as again:
            assert again.status == 204
        with Stream(port, f"/events/{name}", str(numbers[3])) as late:
            assert [number for number, _ in late] == numbers[4:]


def test_a_browser_that_lost_its_connection_misses_nothing(pages: dict[str, Any]) -> None:
    """What happens while nobody watches is told to who comes back, once."""
    with serving(pages["app"]) as port:
        name = post(port, "/calls")[1]
        with Stream(port, f"/events/{name}") as first:
            told = first.until("state_changed")
        pages["client"].ask("Hello!", timeout=PATIENCE)
        with Stream(port, f"/events/{name}", str(told[-1][0])) as second:
            told += second.until("response_done")
            pages["client"].close()
            told += list(second)
        with Stream(port, f"/events/{name}") as whole:
            assert told == list(whole)


def test_a_browser_that_goes_ends_its_stream(pages: dict[str, Any]) -> None:
    """With the connection gone the next heartbeats fail, the generator is closed, and the conversation lives on."""
    with serving(pages["app"]) as port:
        name = post(port, "/calls")[1]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as browser:
            browser.sendall(f"GET /events/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert browser.recv(100)
            assert not pages["gone"].is_set()
        assert pages["gone"].wait(PATIENCE)
        assert pages["client"].is_connected
        pages["client"].close()


@pytest.mark.parametrize("query", ["", "?words=Hello&fails=1", "?words=Hello&other=1"])
def test_a_stream_that_is_never_sent_keeps_no_client(server: RealtimeServer, query: str) -> None:
    """A view that fails after it made its stream, a hook that fails, or another answer: the client is closed with the request."""
    app = flask.Flask("late")
    app.config.from_mapping(QAI_API_KEY="flask key", QAI_BASE_URL=server.url)
    realtime, made = Realtime(app), []

    @app.get("/live")
    def live() -> flask.Response | str:
        made.append(realtime.new_client().connect())
        stream = realtime.event_stream(made[0])
        made[0].send_text(flask.request.args["words"])
        return "something else" if "other" in flask.request.args else stream

    @app.after_request
    def hook(response: flask.Response) -> flask.Response:
        if "fails" in flask.request.args:
            raise ValueError("not sent either")
        return response

    app.test_client().get("/live" + query).close()
    assert made[0].state == "closed"


@pytest.mark.parametrize("by_hook", [False, True])
def test_a_stream_that_is_wrapped_keeps_its_client_until_its_end(server: RealtimeServer, by_hook: bool) -> None:
    """A view or a hook that sends the events within a response of its own has the client for as long as that, and no longer."""
    app = flask.Flask("wrapped")
    app.config.from_mapping(QAI_API_KEY="flask key", QAI_BASE_URL=server.url)
    realtime, made = Realtime(app), []

    def wrapped(stream: flask.Response) -> flask.Response:
        return flask.Response(itertools.chain([b": mine\n\n"], stream.response), mimetype="text/event-stream")

    @app.get("/live")
    def live() -> flask.Response:
        made.append(realtime.new_client().connect())
        stream = realtime.event_stream(made[0])
        return stream if by_hook else wrapped(stream)

    @app.after_request
    def hook(response: flask.Response) -> flask.Response:
        return wrapped(response) if by_hook else response

    answer = app.test_client().get("/live")
    assert next(iter(answer.response)) == b": mine\n\n"
    assert made[0].state == "open"
    answer.close()
    assert made[0].state == "closed"


def test_a_plain_client_can_be_watched_too(server: RealtimeServer) -> None:
    """A client that was not made by the extension is told from the first watcher on."""
    app = flask.Flask("plain")
    with RealtimeClient("flask key", base_url=server.url) as client, app.test_request_context("/"):
        stream: Any = event_stream(client).response
        assert next(stream) == b"retry: 1000\n\n"
        client.send_text("Hello!")
        client.wait_for("response_done", timeout=PATIENCE)
        assert b'"response_created"' in next(stream)
        stream.close()


def test_a_conversation_that_was_over_sends_browsers_away() -> None:
    """Where nothing was ever told there is no number to come back with: the first answer already says that it is over."""
    client = RealtimeClient("flask key")
    client.close()
    with flask.Flask("plain").test_request_context("/"):
        assert event_stream(client).status_code == 204


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (("gunicorn.workers.sync", types.ModuleType("gunicorn.workers.sync")), "gthread"),
        (("uwsgi", types.SimpleNamespace(opt={b"http": b":80"}, version=b"2.0.26")), "--enable-threads"),
    ],
)
def test_a_worker_that_cannot_last_is_warned_of(
    app: flask.Flask, module: tuple[str, Any], words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Streaming in a worker that will be killed, or in which no thread runs, is logged as a warning that says what to do."""
    monkeypatch.setitem(sys.modules, *module)
    with app.test_request_context("/"):
        event_stream(extension(app).new_client())
    assert words in caplog.text


@pytest.mark.parametrize(
    "uwsgi",
    [{"opt": {"enable-threads": True}, "version": b"2.0.26"}, {"opt": {"http": b":80"}, "version": b"2.0.27"}],
    ids=["asked", "2.0.27"],
)
def test_uwsgi_with_threads_is_fine(
    app: flask.Flask, uwsgi: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Threads that are enabled, as they always are since uWSGI 2.0.27, are no reason to warn."""
    monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(**uwsgi))
    with app.test_request_context("/"):
        event_stream(extension(app).new_client())
    assert caplog.text == ""


def test_watching_costs_handlers_no_context(app: flask.Flask) -> None:
    """The journal takes every event, outside of any app context."""
    with app.app_context():
        client = extension(app).new_client()
        assert isinstance(client, WebClient)
        own = [r.function for r in client._call.handlers._registered]
        assert own == [sse.journal_of(client).add]


# -- the page that talks, and the documentation ---------------------------------------------------------------------------------


DOCS = (ROOT / "docs" / "flask.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
EXAMPLE = ROOT / "examples" / "flask_app.py"


def test_the_documented_app_runs(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """The page's one block is an app: it answers by its tool, streams, and ends what it kept."""
    (block,) = BLOCKS
    (tmp_path / "shop.py").write_text(block.replace("http://127.0.0.1:8765", server.url).replace("any key will do", "flask key"))
    with Program(["-m", "flask", "--app", "shop", "run", "--port", "0"], tmp_path, "Running on http://127.0.0.1:") as port:
        (question,) = re.findall(r"curl -d 'question=([^']+)'", DOCS)
        assert "the bakery is open from 7 to 18 on sunday." in post(port, "/ask", f"question={question}")[1].lower()
        call = json.loads(post(port, "/calls")[1])["call"]
        with Stream(port, f"/calls/{call}/events") as stream:
            stream.until("state_changed")
            assert post(port, f"/calls/{call}/say", "words=Hello!")[0] == 200
            assert stream.until("transcript_done")[-1][1]["transcript"].startswith("Hello")
            assert post(port, f"/calls/{call}/end")[0] == 200
            stream.until("closed")


def speech(seconds: float) -> bytes:
    """What the light server takes for speech: a loud tone at 24000 Hz."""
    return array.array("h", (round(9000 * math.sin(n * 0.1)) for n in range(round(24000 * seconds)))).tobytes()


def test_the_page_s_server_talks(tmp_path: pathlib.Path) -> None:
    """Without a browser: sound goes in by the WebSocket, sound comes back, the transcript is streamed, and speech clears what plays."""
    with Program([str(EXAMPLE), "--light", "--port", "0"], tmp_path, "open http://127.0.0.1:") as port:
        assert "A page that talks" in get(port, "/")[1]
        page = simple_websocket.Client.connect(f"ws://127.0.0.1:{port}/talk?rate=24000")
        with Stream(port, f"/events/{page.receive(timeout=PATIENCE)}") as stream:
            stream.until("state_changed")
            page.send(speech(1.0))
            page.send(bytes(48000))
            sound = page.receive(timeout=PATIENCE)
            assert isinstance(sound, bytes)
            page.send("100")  # as the page says what it has played
            page.send(speech(1.0))
            while isinstance(sound, bytes):
                sound = page.receive(timeout=PATIENCE)
            assert sound == "clear"
            cut = stream.until("playback_stopped")[-1][1]
            assert (cut["reason"], cut["heard_ms"]) == ("barge_in", 100)
            page.close()
            assert stream.until("closed")[-1][1]["by"] == "client"


def test_the_page_s_socket_ends_with_the_conversation(server: RealtimeServer) -> None:
    """When the service hangs up, the page's WebSocket is closed too, though the page says nothing: no thread waits for it."""
    example = runpy.run_path(str(EXAMPLE))
    with serving(example["create_app"]("flask key", server.url)) as port:
        page = simple_websocket.Client.connect(f"ws://127.0.0.1:{port}/talk")
        client = example["realtime"].find(page.receive(timeout=PATIENCE))
        client.close()
        with pytest.raises(simple_websocket.ConnectionClosed):
            page.receive(timeout=PATIENCE)


def test_other_pages_cannot_talk(server: RealtimeServer) -> None:
    """A WebSocket that another site's page opens is refused before a conversation begins; our own page's is not."""
    example = runpy.run_path(str(EXAMPLE))
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "eDNKSkhNYkRMMUV6TGto"}
    before = len(server.conversations)
    with serving(example["create_app"]("flask key", server.url)) as port:
        for origin in ("http://evil.example", f"http://127.0.0.1:{port}.evil.example", "null", ""):
            assert get(port, "/talk", **upgrade, Origin=origin)[0] == 403
        assert len(server.conversations) == before
        page = transport.connect(f"ws://127.0.0.1:{port}/talk", headers={"Origin": f"http://127.0.0.1:{port}"}, proxy=False)
        assert page.recv().text
        page.close()


def test_a_page_that_has_vanished_is_not_paid_for(server: RealtimeServer) -> None:
    """A microphone sends all the time: when it is silent though its WebSocket still stands, the conversation is ended."""
    example = runpy.run_path(str(EXAMPLE))
    example["create_app"].__globals__["PATIENCE"] = 1
    with serving(example["create_app"]("flask key", server.url)) as port:
        page = simple_websocket.Client.connect(f"ws://127.0.0.1:{port}/talk")
        client = example["realtime"].find(page.receive(timeout=PATIENCE))
        assert client.wait(PATIENCE)
        with pytest.raises(simple_websocket.ConnectionClosed):
            page.receive(timeout=PATIENCE)


def test_a_page_that_cannot_connect_is_told_why(tmp_path: pathlib.Path) -> None:
    """The WebSocket is closed with the reason: here that there is no key."""
    with Program([str(EXAMPLE), "--url", "http://127.0.0.1:1", "--port", "0"], tmp_path, "open http://127.0.0.1:") as port:
        page = simple_websocket.Client.connect(f"ws://127.0.0.1:{port}/talk")
        with pytest.raises(simple_websocket.ConnectionClosed) as closed:
            page.receive(timeout=PATIENCE)
        assert (closed.value.reason, "no API key" in str(closed.value.message)) == (1011, True)


# -- in a browser ----------------------------------------------------------------------------------------------------------------


USER = "[...document.querySelectorAll('.user')].map(turn => turn.textContent)"
ASSISTANT = "[...document.querySelectorAll('.assistant')].map(turn => turn.textContent).filter(Boolean)"
SAMPLES = "Number(document.getElementById('played').dataset.samples ?? 0)"


@pytest.mark.long
def test_a_browser_asks_and_hears_the_answer(tmp_path: pathlib.Path) -> None:
    """A question spoken into Chromium's microphone is written down in the page, its answer too, and its sound is played to the end."""
    microphone(tmp_path / "microphone.wav", 2.0, "What time is it?", 60.0)
    with Program([str(EXAMPLE), "--port", "0"], tmp_path, "open http://127.0.0.1:") as port, chromium(tmp_path) as browser:
        browser.get(f"http://127.0.0.1:{port}/")
        browser.find_element("id", "button").click()
        assert wait_until(browser, f"{USER}.find(words => words.includes('time'))") == "what time is it"
        answer = wait_until(browser, f"{ASSISTANT}.find(words => words.endsWith('.'))")
        assert re.fullmatch(r"It is \d+:\d\d [AP]M by my clock\.", answer)
        assert wait_until(browser, f"{SAMPLES} > 36000")  # a second and a half of it
        assert browser.find_element("id", "state").text == "listening"
        browser.save_screenshot(str(tmp_path / "page.png"))
        assert (tmp_path / "page.png").stat().st_size > 5000
        browser.find_element("id", "button").click()
        assert wait_until(browser, "document.getElementById('state').textContent === 'hung up'")
        # The development server still answers the request of a WebSocket that was closed; other servers do not.
        complaints = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert [message for message in complaints if "Invalid frame header" not in message] == []


@pytest.mark.long
def test_a_browser_interrupts(tmp_path: pathlib.Path) -> None:
    """Speaking while a story is told stops it in the page: it is marked as interrupted after as much as was played."""
    # Again and again, so that one of them falls into an answer, also where hearing takes its time.
    microphone(tmp_path / "microphone.wav", 2.0, *["Tell me a long story please.", 6.0] * 8, 60.0)
    with Program([str(EXAMPLE), "--port", "0"], tmp_path, "open http://127.0.0.1:") as port, chromium(tmp_path) as browser:
        browser.get(f"http://127.0.0.1:{port}/")
        browser.find_element("id", "button").click()
        cut, samples = wait_until(browser, f"(cut => cut && [cut.dataset.cut, {SAMPLES}])(document.querySelector('.assistant.cut'))", 90.0)
        heard = float(re.fullmatch(r"interrupted after (\d+\.\d) s", cut)[1])  # type: ignore[index]
        assert 0 < heard < 30
        assert abs(samples / 24000 - heard) < 1.0
