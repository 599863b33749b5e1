"""The page on workers (docs/workers.md): its apps, its hooks of gunicorn and its tasks run as they stand there."""

from __future__ import annotations

import contextlib
import http.client
import pathlib
import re
import runpy
from collections.abc import Iterator

import pytest

pytest.importorskip("flask", reason="flask is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")
pytest.importorskip("gevent", reason="gevent is not installed")
pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("werkzeug", reason="werkzeug is not installed")
pytest.importorskip("simple_websocket", reason="simple_websocket is not installed")

from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.web import Stream
from tests.contrib.workers import WORKERS, Worker, gateway

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "workers.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
APP, THREADS, GREENLETS, TASKS = BLOCKS


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A gateway of the test's own."""
    with gateway() as running:
        yield running


def test_the_documented_app_runs(server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """The app answers under gunicorn with the command of the page, and its call is settled with the request."""
    (tmp_path / "shop.py").write_text(
        APP.replace("http://127.0.0.1:8765", server.url).replace("any key will do", "worker key")
        + "\n\n@app.get('/census')\ndef census():\n    return {}\n"
    )
    (command,) = re.findall(r"^(gunicorn .*) shop:app$", PAGE, re.MULTILINE)
    with Worker(server, tmp_path, command.split(), {}, "shop:app") as worker:
        assert "Hello" in _text(worker)
        assert worker.bills() == [1]
        assert "no effect" not in worker.log


def _text(worker: Worker) -> str:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", worker.port, timeout=60)) as connection:
        connection.request("POST", "/ask", "question=Hello!", {"Content-Type": "application/x-www-form-urlencoded"})
        return connection.getresponse().read().decode()


@pytest.mark.parametrize("hook", [THREADS, pytest.param(GREENLETS, marks=pytest.mark.long)], ids=["gthread", "gevent"])
def test_the_documented_hook_settles(hook: str, server: RealtimeServer, tmp_path: pathlib.Path) -> None:
    """With the configuration of the page alone a preloaded app settles a watched call at SIGTERM."""
    (tmp_path / "gunicorn.conf.py").write_text(hook)
    with Worker(server, tmp_path, ["gunicorn"], {}) as worker:
        assert worker.use_old().startswith("ForkedClientError")
        call = worker.post("/calls")["name"]
        with Stream(worker.port, f"/calls/{call}/events") as stream:
            stream.until("state_changed")
            assert worker.terminate() < 15
            assert stream.until("closed")
        assert worker.bills() == [1]


def test_the_documented_tasks_run(server: RealtimeServer, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called as functions, the tasks converse; what lasts is ended by the handler of `worker_process_shutdown`."""
    (tmp_path / "calls.py").write_text(TASKS)
    monkeypatch.setenv("QAI_API_KEY", "worker key")
    monkeypatch.setenv("QAI_BASE_URL", server.url)
    module = runpy.run_path(str(tmp_path / "calls.py"))
    assert module["interview"](["Hello!", "How are you?"])[0].startswith("Hello")
    module["begin"]()
    assert [session["ended"] for session in server.ledger.sessions()] == [1, 0]
    module["end"]()
    assert [session["ended"] for session in server.ledger.sessions()] == [1, 1]


def test_the_page_names_every_worker() -> None:
    """What is tried in the table of workers stands in that of the page."""
    words = {word for name in WORKERS for word in name.replace("uwsgi", "uWSGI").split()}
    assert [word for word in words if word not in PAGE] == []
