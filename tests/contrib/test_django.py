"""The Django adapter, against real HTTP, a real SQLite file and the local server: connections, transactions, ends, checks, streams."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import pathlib
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("django", reason="the adapter needs Django")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        SECRET_KEY="for tests",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        INSTALLED_APPS=["qai_realtime_sync.contrib.django"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "set by the fixture"}},
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()

from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.core.wsgi import get_wsgi_application
from django.db import connection, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.test import RequestFactory, override_settings
from django.urls import path

from qai_realtime_sync import ConfigError, Event, RealtimeClient
from qai_realtime_sync.contrib.django import connect_on_commit, event_stream, find, keep, new_client, own_connections
from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.browser import chromium, wait_until
from tests.contrib.web import PATIENCE, Program, Stream, free_port, get, post, python_path, serving

ROOT = pathlib.Path(__file__).parents[2]
made: list[RealtimeClient] = []


# -- the project ---------------------------------------------------------------------------------------------------------------


def count_rows() -> int:
    """How many rows there are; opens a connection in this thread."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM calls")
        return int(cursor.fetchone()[0])


def add_row(words: str) -> None:
    """Add a row."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO calls VALUES (%s)", [words])


def begin(request: HttpRequest) -> HttpResponse:
    """Begin a conversation that lasts, with a handler and a tool that use the database."""
    client = new_client()
    made.append(client)
    client.on_response_done(lambda event: add_row(event.status))
    client.connect()
    count_rows()
    return HttpResponse(keep(client))


def brief(request: HttpRequest) -> HttpResponse:
    """A conversation for one request, which fails if asked to."""
    client = new_client()
    made.append(client)
    client.connect()
    if "fail" in request.GET:
        raise ValueError
    return HttpResponse(client.ask("Hello!", timeout=PATIENCE).text)


def once(request: HttpRequest) -> HttpResponseBase:
    """A conversation that is watched by who began it, and ends when that one goes."""
    client = new_client().connect()
    made.append(client)
    count_rows()
    return event_stream(request, client, heartbeat=0.05)


def events(request: HttpRequest, name: str) -> HttpResponseBase:
    """Watch a conversation."""
    count_rows()
    return event_stream(request, find(name), heartbeat=0.05)


urlpatterns = [path("calls", begin), path("brief", brief), path("once", once), path("events/<name>", events)]


@pytest.fixture(scope="module")
def server() -> Iterator[RealtimeServer]:
    """A local server that wants the key `django key`."""
    with RealtimeServer(light=True, key="django key") as running:
        yield running


@pytest.fixture(autouse=True)
def project(server: RealtimeServer, tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A database of its own for each test, and the local server in the settings; gives the database's file."""
    made.clear()
    file = tmp_path / "calls.sqlite3"
    assert settings.DATABASES["default"] is connection.settings_dict  # of all threads
    connection.settings_dict["NAME"] = str(file)
    with override_settings(QAI_API_KEY="django key", QAI_BASE_URL=server.url):
        with connection.cursor() as cursor:
            cursor.execute("CREATE TABLE calls (words TEXT)")
        connection.close()
        yield file
        connection.close()
        for client in made:
            client.close()


@pytest.fixture
def persistent() -> Iterator[None]:
    """Connections that are to last for ever: what usually closes them with the request leaves them alone."""
    connection.settings_dict["CONN_MAX_AGE"] = None
    yield
    connection.settings_dict["CONN_MAX_AGE"] = 0


def open_connections(file: pathlib.Path) -> int:
    """How many descriptors of the database this process has, in whatever thread (Linux)."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{descriptor}") == str(file)
    return found


# -- handlers and the database --------------------------------------------------------------------------------------------------


def test_a_handler_leaves_no_connection_behind(project: pathlib.Path, persistent: None) -> None:
    """Reader, lane and tools use the database and have closed it when they are done, even with connections that are to last."""
    during: dict[str, int] = {}

    def look(event: Event) -> None:
        count_rows()
        during[threading.current_thread().name] = open_connections(project)

    with new_client() as client:
        client.on("response_done", look)
        client.on("response_done", look, background=True)
        client.ask("Hello!", timeout=PATIENCE)
        client.ask("Hello again!", timeout=PATIENCE)
    assert set(during) == {"qai-reader", "qai-lane"}
    assert all(count >= 1 for count in during.values())
    assert open_connections(project) == 0


def test_while_a_conversation_lasts_nothing_is_held(project: pathlib.Path, persistent: None) -> None:
    """Between two handlers there is no connection, though their thread lives on."""
    with new_client() as client:
        client.on_response_done(lambda event: add_row("done"))
        client.ask("Hello!", timeout=PATIENCE)
        client.off("response_done")
        client.ask("Quiet now.", timeout=PATIENCE)  # when this is answered, the handler of the first answer has returned
        assert "qai-reader" in [thread.name for thread in threading.enumerate()]
        assert open_connections(project) == 0
        assert count_rows() == 1


def test_a_tool_leaves_no_connection_behind(project: pathlib.Path, persistent: None) -> None:
    """A tool reads the database in the pool; it is answered, and its thread holds nothing."""
    add_row("one")
    connection.close()
    inside = []
    client = new_client()

    @client.tool
    def count_calls() -> int:
        """Count the calls."""
        found = count_rows()
        inside.append(open_connections(project))
        return found

    with client:
        assert "1" in client.ask("How many calls are there? Please count calls.", timeout=PATIENCE).text
        assert inside == [1]
        assert open_connections(project) == 0


def test_a_failing_handler_leaves_nothing_behind(project: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in the middle of a transaction rolls it back and closes the connection; the conversation goes on."""
    client = new_client()

    @client.on_session_ready
    def fail(event: Event) -> None:
        with transaction.atomic():
            add_row("never")
            raise ValueError("on purpose")

    with client:
        failed = client.wait_for("handler_failed", timeout=PATIENCE)
        assert str(failed.error) == "on purpose"
        assert open_connections(project) == 0
        assert count_rows() == 0
    assert "on purpose" in caplog.text


def test_a_transaction_around_is_left_alone() -> None:
    """Handlers that run in the program's thread, as in a replay, do not end the transaction that is open there."""
    with transaction.atomic():
        with own_connections():
            add_row("kept")
        assert count_rows() == 1
        transaction.set_rollback(True)
    assert count_rows() == 0


def test_a_client_connects_when_the_transaction_is_committed() -> None:
    """Its handlers see the row that was written before; after a rollback it never connects."""
    seen: queue.Queue[int] = queue.Queue()
    client, never = new_client(), new_client()
    client.on_session_ready(lambda event: seen.put(count_rows()))
    with transaction.atomic():
        add_row("this call")
        connect_on_commit(client)
        assert client.state == "idle"
    assert client.is_connected
    assert seen.get(timeout=PATIENCE) == 1
    with contextlib.suppress(ValueError), transaction.atomic():
        connect_on_commit(never)
        raise ValueError
    assert never.state == "idle"
    client.close()


# -- ends ----------------------------------------------------------------------------------------------------------------------


def test_a_client_is_closed_with_its_request(project: pathlib.Path) -> None:
    """Whatever the view does, the conversation it began is over when the request is, and no database is open."""
    with serving(get_wsgi_application()) as port:
        status, words = get(port, "/brief")
        assert (status, "Hello" in words) == (200, True)
        assert get(port, "/brief?fail=1")[0] == 500
        assert [client.wait(PATIENCE).by for client in made] == ["client", "client"]
    assert open_connections(project) == 0


def test_outside_a_request_the_program_closes() -> None:
    """In a command nobody else does it; a request that ends in this thread later does not either."""
    client = new_client().connect()
    list(get_wsgi_application()(RequestFactory().get("/nowhere").environ, lambda *_: None))
    assert client.is_connected
    client.close()


def test_a_client_that_a_stream_tells_of_lasts_as_long_as_the_stream(project: pathlib.Path) -> None:
    """Watched by the request that made it, a conversation ends when the browser goes, and so does its thread."""
    with serving(get_wsgi_application()) as port:
        with Stream(port, "/once") as stream:
            stream.until("state_changed")
            (client,) = made
            assert client.is_connected
            assert open_connections(project) == 0  # the view has read the database
        assert client.wait(PATIENCE).by == "client"


def test_a_name_that_nobody_keeps_is_404() -> None:
    """`find` ends the request as Django does."""
    with serving(get_wsgi_application()) as port:
        assert get(port, "/events/nobody")[0] == 404


# -- event streams -------------------------------------------------------------------------------------------------------------


def test_a_stream_tells_the_whole_conversation(project: pathlib.Path) -> None:
    """From connecting to the end, over real HTTP; who comes back gets the rest, or is told that there is none."""
    with serving(get_wsgi_application()) as port:
        name = get(port, "/calls")[1]
        (client,) = made
        with Stream(port, f"/events/{name}") as stream:
            assert stream.headers["Content-Type"] == "text/event-stream"
            assert stream.headers["Cache-Control"] == "no-cache"
            told = stream.until("state_changed")
            client.send_text("Hello!")
            told += stream.until("response_done")
            client.close()
            told += list(stream)
        numbers = [number for number, _ in told]
        assert numbers == sorted(set(numbers))
        assert told[-1][1]["name"] == "closed"
        with Stream(port, f"/events/{name}", str(numbers[-1])) as again:
            assert again.status == 204
        with Stream(port, f"/events/{name}", str(numbers[2])) as late:
            assert [number for number, _ in late] == numbers[3:]
    assert open_connections(project) == 0


def test_a_browser_that_goes_ends_its_stream(project: pathlib.Path) -> None:
    """Its request is over within some heartbeats, though the conversation goes on: the server has no thread to wait for."""
    with serving(get_wsgi_application()) as port:
        name = get(port, "/calls")[1]
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as browser:
            browser.sendall(f"GET /events/{name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert browser.recv(100)
    (client,) = made  # serving has waited for all of its threads
    assert client.is_connected
    client.close()


def test_compression_does_not_hold_events_back(project: pathlib.Path) -> None:
    """With GZipMiddleware, for a browser that takes gzip, every event still comes when it happens, as it is."""
    with override_settings(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"]), serving(get_wsgi_application()) as port:
        name = get(port, "/calls")[1]
        with Stream(port, f"/events/{name}", Accept_Encoding="gzip") as stream:
            stream.until("state_changed")
            made[0].close()
            assert stream.until("closed")


def test_asgi_is_refused() -> None:
    """Under ASGI Django would collect the stream before it sends it, so it says so instead."""
    request = RequestFactory().get("/")
    request.scope = {"type": "http"}
    with pytest.raises(ConfigError, match="WSGI"):
        event_stream(request, new_client())


# -- settings and checks --------------------------------------------------------------------------------------------------------


def ids() -> list[str]:
    """The messages of the adapter's checks."""
    return [message.id for message in run_checks(tags=["qai_realtime"])]


def test_good_settings_pass_the_checks(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key, and nothing known of a web server, there is nothing to say."""
    monkeypatch.chdir(tmp_path)
    assert ids() == []


def test_a_missing_key_is_warned_of(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the settings nor in the environment: W001; a key in one of them, or a direct address, is enough."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QAI_API_KEY", raising=False)
    with override_settings(QAI_API_KEY=None):
        assert ids() == ["qai_realtime.W001"]
        with pytest.raises(ConfigError, match="QAI_API_KEY"):
            new_client().connect()
        with override_settings(REALTIME_CLIENT={"url": "wss://127.0.0.1/v1/realtime", "token": "t", "dialect": "xai"}):
            assert ids() == []
        monkeypatch.setenv("QAI_API_KEY", "key")
        assert ids() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"REALTIME_CONFIG": {"sample_rate": 1}},
        {"REALTIME_CLIENT": {"mints": True}},
        {"REALTIME_CLIENT": 5},
        {"REALTIME_CLIENT": {"config": {"voice": "Eve"}}},
    ],
)
def test_settings_that_make_no_client_are_an_error(wrong: dict[str, Any], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E001 carries what the client says of them."""
    monkeypatch.chdir(tmp_path)
    with override_settings(**wrong):
        assert ids() == ["qai_realtime.E001"]


@pytest.mark.parametrize(
    ("file", "arguments", "warned"),
    [
        (None, "", False),
        ("workers = 4\n", "", True),
        ('worker_class = "sync"\n', "", True),
        ('worker_class = "sync"\nthreads = 8\n', "", False),
        ('worker_class = "gthread"\n', "", False),
        ('worker_class = "gthread"\n', "-k sync", True),
        ("workers = compute()\nworker_class = 'gevent'\n", "", False),
        ("this is no Python", "", False),
        ('import os\nthreads = int(os.environ.get("THREADS", "20"))\n', "", False),
        ('import os\nworker_class = os.environ["WORKER"]\n', "", False),
        ('worker_class: str = "gthread"\n', "", False),
        ('worker_class: str = "sync"\n', "", True),
        ('threads = 1\nif workers := 3:\n    threads = 20\n', "", False),
        ('worker_class, threads = "gthread", 20\n', "", False),
        ("from base import *\n", "", False),
        ("from base import threads\n", "-k sync --threads 1", True),
        ("from base import bind\n", "", True),
        (None, "--workers 2", True),
        (None, "--worker-class=gthread", False),
        (None, "--worker-class gunicorn.workers.sync.SyncWorker --threads=1", True),
        (None, "--threads 8", False),
        (None, "--unclosed 'quote", True),
    ],
)
def test_a_sync_worker_is_warned_of(
    file: str | None, arguments: str, warned: bool, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gunicorn.conf.py and GUNICORN_CMD_ARGS are read as gunicorn would, without running anything."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GUNICORN_CMD_ARGS", arguments)
    if file is not None:
        (tmp_path / "gunicorn.conf.py").write_text(file)
    assert ids() == (["qai_realtime.W002"] if warned else [])


def test_in_a_sync_worker_the_check_knows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Inside gunicorn no configuration has to be read, and a stream logs the warning."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "gunicorn.workers.sync", types.ModuleType("gunicorn.workers.sync"))
    assert ids() == ["qai_realtime.W002"]
    event_stream(RequestFactory().get("/"), new_client())
    assert "gthread" in caplog.text


def test_the_app_must_be_installed() -> None:
    """Without the app nobody would close a request's clients: it is named, with the line to add."""
    with override_settings(INSTALLED_APPS=[]), pytest.raises(ConfigError, match='add "qai_realtime_sync.contrib.django" to INSTALLED_APPS'):
        new_client()


def test_nothing_handles_sigterm_unasked() -> None:
    """Only `REALTIME_CLOSE_ON_SIGTERM` makes the app install a handler, when it is ready."""
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    code = """
import signal
from django.conf import settings
settings.configure(INSTALLED_APPS=["qai_realtime_sync.contrib.django"], REALTIME_CLOSE_ON_SIGTERM=True)
import django
django.setup()
print(signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_without_django_the_extra_is_named() -> None:
    """Importing the adapter without Django says what to install."""
    code = "import sys; sys.modules['django'] = None\nimport qai_realtime_sync.contrib.django"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert "pip install 'qai-realtime-sync[django]'" in done.stderr


# -- the command ---------------------------------------------------------------------------------------------------------------


def test_the_demo_reads_the_database(project: pathlib.Path) -> None:
    """`manage.py realtime_demo` answers by a tool that reads the project's database, with a server of its own."""
    out = io.StringIO()
    call_command("realtime_demo", stdout=out)
    assert re.search(r"assistant: 1\..*\n\d+\.\d s of sound", out.getvalue()), out.getvalue()
    connection.close()
    assert open_connections(project) == 0


def test_the_demo_can_ask_the_service_of_the_settings(server: RealtimeServer) -> None:
    """With `--live` the settings say where; what goes wrong there is a CommandError."""
    out = io.StringIO()
    call_command("realtime_demo", "Hello!", "--live", stdout=out)
    assert "assistant: Hello!" in out.getvalue()
    with override_settings(QAI_API_KEY="wrong key"), pytest.raises(CommandError, match="401"):
        call_command("realtime_demo", "--live", stdout=out)


# -- documentation and example ---------------------------------------------------------------------------------------------------


DOCS = (ROOT / "docs" / "django.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


def test_the_documented_project_runs(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """The page's one block is a project: it migrates, checks itself, serves, answers from its database and streams."""
    (block,) = BLOCKS
    (tmp_path / "shop.py").write_text(block.replace("http://127.0.0.1:8765", server.url).replace("any key will do", "django key"))
    environment = os.environ | {"PYTHONPATH": python_path()}

    def manage(*arguments: str) -> str:
        command = [sys.executable, "-W", "error", "shop.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout

    manage("migrate")
    assert "no issues" in manage("check")
    with Program(["shop.py", "runserver", "--noreload", f"127.0.0.1:{free_port()}"], tmp_path, "server at http://127.0.0.1:") as port:
        (question,) = re.findall(r"curl -d 'question=([^']+)'", DOCS)
        assert post(port, "/ask", f"question={question}") == (200, "1.")
        call = json.loads(post(port, "/calls")[1])["call"]
        with Stream(port, f"/calls/{call}/events") as stream:
            stream.until("state_changed")
            assert post(port, f"/calls/{call}/say", "words=Hello!")[0] == 200
            said = [event for _, event in stream.until("transcript_done")][-1]["transcript"]
            assert post(port, f"/calls/{call}/end")[0] == 200
            stream.until("closed")
    assert said.startswith("Hello")


def test_the_example_runs(tmp_path: pathlib.Path) -> None:
    """It serves its page, answers by what is in its database, streams, and stores every line."""
    with Program([str(ROOT / "examples" / "django_app.py"), "--port", "0"], tmp_path, "open http://127.0.0.1:") as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            answer = connection.getresponse()
            assert "A conversation in Django" in answer.read().decode()
            cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]
        headers = {"Cookie": cookie, "X_CSRFToken": cookie.partition("=")[2]}
        assert post(port, "/calls")[0] == 403
        call = json.loads(post(port, "/calls", **headers)[1])["call"]
        with Stream(port, f"/calls/{call}/events") as stream:
            stream.until("state_changed")
            post(port, f"/calls/{call}/say", "words=How many lines are there? Please count lines.", **headers)
            assert stream.until("transcript_done")[-1][1]["transcript"] == "1."
            stream.until("response_done")
            stored = json.loads(post(port, f"/calls/{call}/end", **headers)[1])["lines"]
            stream.until("closed")
    assert [(line["speaker"], line["words"][:8]) for line in stored] == [("you", "How many"), ("assistant", "1.")]


@pytest.mark.long
def test_the_example_s_page_works_in_a_browser(tmp_path: pathlib.Path) -> None:
    """What is written there is answered live, and at the end the page says how many lines were stored."""
    with Program([str(ROOT / "examples" / "django_app.py"), "--port", "0"], tmp_path, "open http://127.0.0.1:") as port:
        with chromium(tmp_path) as browser:
            browser.get(f"http://127.0.0.1:{port}/")
            browser.find_element("name", "words").send_keys("Hello! Please count lines.\n")
            assert wait_until(browser, "document.querySelector('p.assistant')?.textContent.endsWith('.')")
            browser.find_element("id", "end").click()
            assert wait_until(browser, "[...document.querySelectorAll('p')].some(line => line.textContent === '2 lines were stored.')")
            browser.save_screenshot(str(tmp_path / "page.png"))
            assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
