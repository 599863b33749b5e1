"""Requests by the hundred that open, talk and close under gunicorn leave nothing behind: no thread, no socket, no database connection."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("django", reason="django is not installed")
pytest.importorskip("gunicorn", reason="gunicorn is not installed")
pytest.importorskip("werkzeug", reason="werkzeug is not installed")
pytest.importorskip("simple_websocket", reason="simple_websocket is not installed")

from tests.contrib.workers import GTHREAD, Worker, gateway, until

DJANGO_APP = "tests.contrib.worker_apps.django_worker:app"
AT_ONCE = 8
PATIENCE = 120.0
# The socket that listens, and that of the very request that counts them.
NOTHING = {"threads": [], "sockets": 2, "databases": 0}


def ask(port: int) -> str:
    """One request, over a connection of its own: what the conversation in it has answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("POST", "/ask")
        response = connection.getresponse()
        body = response.read().decode()
        assert response.status == 200, body
        return str(json.loads(body)["text"])


def held(worker: Worker) -> dict[str, Any]:
    """What the worker holds: nothing, or else what is still there after a while."""
    seen: list[dict[str, Any]] = []

    def is_nothing() -> bool:
        seen.append({name: value for name, value in worker.get("/census").items() if name in NOTHING})
        return seen[-1] == NOTHING

    with contextlib.suppress(AssertionError):  # told by who compares
        until(is_nothing, "the end of everything")
    return seen[-1]


@pytest.mark.parametrize("requests", [20, pytest.param(200, marks=pytest.mark.long)])
def test_requests_leave_nothing_behind(requests: int, tmp_path: pathlib.Path) -> None:
    """After 200 conversations, eight at a time, the worker holds what it held before the first; each was stored twice and billed once."""
    with contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite3")) as database:
        database.execute("CREATE TABLE answers (status TEXT)")
    with gateway() as server, Worker(server, tmp_path, GTHREAD, {}, DJANGO_APP) as worker, ThreadPoolExecutor(AT_ONCE) as browsers:
        assert held(worker) == NOTHING
        pid = worker.get("/census")["pid"]
        answers = list(browsers.map(ask, [worker.port] * requests))
        assert held(worker) == NOTHING
        assert worker.get("/census")["pid"] == pid
        assert all("answers" in answer for answer in answers), answers
        assert worker.bills() == [1] * requests
        with contextlib.closing(sqlite3.connect(tmp_path / "answers.sqlite3")) as database:
            # One response asks for the tool, one tells its result.
            assert database.execute("SELECT COUNT(*), COUNT(DISTINCT status) FROM answers").fetchone() == (2 * requests, 1)
        assert "Traceback" not in worker.log
