"""Conversations in Celery's workers, with pools of processes and of threads, over a real Redis: calls, forks, ends and their bills."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("celery", reason="celery is not installed")
pytest.importorskip("redis", reason="redis is not installed")
pytest.importorskip("werkzeug", reason="werkzeug is not installed")
pytest.importorskip("simple_websocket", reason="simple_websocket is not installed")

from celery import Celery

from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.redis_server import RedisServer
from tests.contrib.web import python_path
from tests.contrib.workers import PATIENCE, gateway, until


class Tasks:
    """A Celery worker with one process or thread for tasks, a gateway and a broker."""

    def __init__(self, folder: pathlib.Path, pool: str, redis: RedisServer, server: RealtimeServer, *options: str) -> None:
        self._folder, self._server = folder, server
        self._sender = Celery("sender", broker=redis.url, set_as_current=False)
        command = ["-m", "celery", "-A", "tests.contrib.worker_apps.celery_worker", "worker", "-P", pool, "-c", "1", "--loglevel", "INFO"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("QAI_", "CELERY_"))} | {
            "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", "QAI_API_KEY": "worker key", "QAI_BASE_URL": server.url,
            "WORKER_BROKER": redis.url, "WORKER_FOLDER": str(folder),
        }  # fmt: skip
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--without-gossip", "--without-mingle", *options],
                cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Tasks:
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def send(self, task: str, told: str = "") -> dict[str, Any]:
        """Let a task be done, and return what it told."""
        path = self._folder / f"{told or task}.json"
        with self._sender.connection_for_write() as connection:
            self._sender.send_task(task, connection=connection)
        until(lambda: path.exists() or self.process.poll() is not None, f"the task {task}")
        assert path.exists(), self.log
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    @property
    def log(self) -> str:
        """What the worker has written."""
        return (self._folder / "log").read_text(errors="replace")

    def end(self, number: int = signal.SIGTERM) -> int:
        """End it, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def bills(self) -> dict[str, int]:
        """How often each session was ended."""
        return {session["id"]: session["ended"] for session in self._server.ledger.sessions()}


@pytest.fixture
def redis(tmp_path: pathlib.Path) -> Iterator[RedisServer]:
    """A broker."""
    with RedisServer(tmp_path) as running:
        yield running


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    """A gateway of the test's own."""
    with gateway() as running:
        yield running


@pytest.mark.parametrize("pool", ["prefork", "threads", pytest.param("gevent", marks=pytest.mark.long)])
def test_tasks_converse(pool: str, tmp_path: pathlib.Path, redis: RedisServer, server: RealtimeServer) -> None:
    """A task asks and is answered; a client from before the fork says what to do; at a warm shutdown what outlived its task is settled."""
    with Tasks(tmp_path, pool, redis, server) as tasks:
        assert tasks.send("ask")["text"].startswith("Hello")
        old = tasks.send("old")["text"]
        if pool == "prefork":
            assert old.startswith("ForkedClientError: ")
            assert "in Celery in the task" in old
        else:
            assert old.startswith("Hello")
        kept = tasks.send("keep")
        assert (kept["pid"] == tasks.process.pid) == (pool != "prefork")
        assert tasks.bills()[kept["session"]] == 0
        assert tasks.end() == 0
        assert set(tasks.bills().values()) == {1}
        assert len(tasks.bills()) == 2
        assert "Traceback" not in tasks.log


@pytest.mark.long
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_warm_shutdown_waits_for_the_call(pool: str, tmp_path: pathlib.Path, redis: RedisServer, server: RealtimeServer) -> None:
    """A task that converses is not interrupted by SIGTERM: the worker ends after it."""
    with Tasks(tmp_path, pool, redis, server) as tasks:
        session = tasks.send("talk", "began")["session"]
        tasks.process.send_signal(signal.SIGTERM)
        until(lambda: "Warm shutdown" in tasks.log, "the warm shutdown")
        assert tasks.process.poll() is None
        assert tasks.bills() == {session: 0}
        (tmp_path / "enough").touch()
        assert tasks.process.wait(PATIENCE) == 0
        assert tasks.bills() == {session: 1}


@pytest.mark.long
def test_a_cold_shutdown_settles(tmp_path: pathlib.Path, redis: RedisServer, server: RealtimeServer) -> None:
    """SIGQUIT ends the task with an exception, so its `with` block settles the call."""
    with Tasks(tmp_path, "prefork", redis, server) as tasks:
        session = tasks.send("talk", "began")["session"]
        tasks.end(signal.SIGQUIT)
        assert tasks.bills() == {session: 1}


@pytest.mark.long
def test_a_time_limit_ends_the_call(tmp_path: pathlib.Path, redis: RedisServer, server: RealtimeServer) -> None:
    """Celery's soft time limit interrupts the wait, and the `with` block settles the call."""
    with Tasks(tmp_path, "prefork", redis, server, "--soft-time-limit", "2") as tasks:
        session = tasks.send("talk", "began")["session"]
        assert tasks.send("ask")["text"].startswith("Hello")  # by the same process, when the first is over
        assert (tmp_path / "over_time.json").exists()
        assert tasks.bills()[session] == 1
