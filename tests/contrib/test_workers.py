"""Conversations in gunicorn, uWSGI and waitress as they really are: calls through them, forks, SIGTERM, and what kills them."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import signal
from collections.abc import Iterator

import pytest

pytest.importorskip("flask", reason="flask is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")
pytest.importorskip("gevent", reason="gevent is not installed")
pytest.importorskip("waitress", reason="waitress is not installed")
pytest.importorskip("werkzeug", reason="werkzeug is not installed")
pytest.importorskip("simple_websocket", reason="simple_websocket is not installed")

from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.web import Stream
from tests.contrib.workers import FORKS, GEVENT, GTHREAD, GUNICORN, SIGTERM, WORKERS, Worker, gateway, program, until

QUICK = ("gunicorn gthread", "gunicorn gthread --preload", "gunicorn gevent", "uwsgi", "waitress")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in WORKERS]


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A gateway of the test's own, so that every bill in it is the worker's."""
    with gateway() as running:
        yield running


def started(name: str, server: RealtimeServer, folder: pathlib.Path) -> Worker:
    """A worker of the table; skips where its web server is missing."""
    arguments, settings = WORKERS[name]
    if arguments[0] == "uwsgi" and not program("uwsgi"):
        pytest.skip("uwsgi is not installed")
    return Worker(server, folder, arguments, settings)


@pytest.mark.parametrize("name", EACH)
def test_a_worker_converses(name: str, server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """A call in a request is answered, and leaves no thread; an old client works, or where it came before the fork says what to do; at
    SIGTERM a call that is open is settled once, long before the web server loses patience."""
    with started(name, server, tmp_path) as worker:
        assert "the name is worker" in worker.ask().lower()
        until(worker.holds_nothing, "the end of the conversation's threads")
        answer = worker.use_old()
        if name in FORKS:
            assert answer.startswith("ForkedClientError: ")
            assert "make a client in each process, after the fork" in answer
        else:
            assert "Hello" in answer
        seconds, bills = worker.end_idle() if name.startswith("uwsgi") else worker.end_watched()
        assert bills == [1]
        assert seconds < 15  # gunicorn's graceful timeout is 20
        assert "Traceback" not in worker.log
        assert "no effect" not in worker.log


@pytest.mark.long
@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "sync"])
def test_an_idle_worker_settles_unasked(worker_class: str, server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """A call that no request belongs to at the moment is settled when gunicorn ends its worker, also if nothing handles SIGTERM."""
    with Worker(server, tmp_path, [*GUNICORN, "--threads", "1", "--worker-class", worker_class], {}) as worker:
        assert worker.end_idle()[1] == [1]


@pytest.mark.long
@pytest.mark.parametrize("arguments", [GTHREAD, GEVENT])
def test_a_busy_worker_settles_nothing_unasked(arguments: list[str], server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """Without the setting a stream outlives gunicorn's patience, and the worker is killed with an open bill."""
    with Worker(server, tmp_path, [*arguments, "--graceful-timeout", "2"], {}) as worker:
        assert worker.end_watched()[1] == [0]


@pytest.mark.long
@pytest.mark.parametrize("name", ["gunicorn gthread", "gunicorn gevent", "gunicorn gevent --preload"])
def test_tls_in_a_worker(name: str, tmp_path: pathlib.Path) -> None:
    """Over TLS too: with gevent also where the master has imported what uses `ssl`, if its configuration patches first."""
    arguments, settings = WORKERS[name]
    with (
        gateway(tls=True) as server,
        Worker(server, tmp_path, arguments, settings, "tests.contrib.worker_apps.early_requests:app") as worker,
    ):
        assert "the name is worker" in worker.ask().lower()
        assert worker.end_watched()[1] == [1]
        assert "Traceback" not in worker.log


@pytest.mark.long
@pytest.mark.parametrize("name", ["uwsgi", "uwsgi --lazy-apps"])
def test_a_busy_uwsgi_worker_settles_nothing(name: str, server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """uWSGI runs nothing of a worker that serves a request when it ends; as the page says, and warns."""
    with started(name, server, tmp_path) as worker:
        assert worker.end_watched()[1] == [0]


@pytest.mark.long
def test_uwsgi_takes_sigterm_away(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """Where the settings want SIGTERM handled, uWSGI does not let us, and the log says so."""
    if not program("uwsgi"):
        pytest.skip("uwsgi is not installed")
    with Worker(server, tmp_path, WORKERS["uwsgi --lazy-apps"][0], SIGTERM) as worker:
        assert worker.ask()
        assert worker.log.count("REALTIME_CLOSE_ON_SIGTERM has no effect in this process: uWSGI handles it") == 1


@pytest.mark.long
def test_without_the_hook_a_preloaded_app_is_warned(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """With --preload gunicorn's own handler takes the place of ours in the worker: the log says it once, with the mend, and it is true."""
    arguments = [*GTHREAD, "--preload", "--graceful-timeout", "2"]
    with Worker(server, tmp_path, arguments, SIGTERM) as worker:
        assert worker.ask()
        assert worker.ask()
        assert worker.log.count("REALTIME_CLOSE_ON_SIGTERM has no effect in this process: another handler") == 1
        assert "post_worker_init" in worker.log
        assert worker.end_watched()[1] == [0]


@pytest.mark.long
def test_a_sync_worker_is_killed_in_mid_stream(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """After its timeout the browser's stream breaks off and another worker comes; the log has warned of it, and the call is settled."""
    with Worker(server, tmp_path, [*GUNICORN, "--worker-class", "sync", "--timeout", "3"], SIGTERM) as worker:
        assert "gthread" in worker.get("/census")["problem"]
        before = worker.get("/census")["pid"]
        call = worker.post("/calls")["name"]
        with Stream(worker.port, f"/calls/{call}/events") as stream, contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            names = [event["name"] for _, event in stream]
            assert "state_changed" in names
        assert "WORKER TIMEOUT" in worker.log
        assert "an event stream lasts as long as its conversation, and gunicorn kills its sync workers" in worker.log
        assert worker.get("/census")["pid"] != before
        until(lambda: worker.bills() == [1], "the bill")


@pytest.mark.long
@pytest.mark.parametrize("name", ["gunicorn gthread", "gunicorn gevent"])
def test_a_request_that_waits_is_answered_at_sigterm(name: str, server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """A view in the middle of `ask` gets an error of ours, and the browser an answer, instead of a connection that breaks."""
    with started(name, server, tmp_path) as worker:
        connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=60)
        with contextlib.closing(connection):
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/ask", "question=Tell me a long story.", form)
            until(lambda: any(entry["name"] == "response.create" for entry in server.journal), "the question")
            worker.process.send_signal(signal.SIGTERM)
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read())["error"]) == (500, "ConnectionClosedError")
            worker.process.wait(60)
