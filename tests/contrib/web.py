"""Real HTTP servers on loopback, in a thread or a process of their own, and a reader of their event streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pathlib
import re
import secrets
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import werkzeug.serving

__all__ = ["PATIENCE", "Program", "Stream", "free_port", "get", "post", "python_path", "serving"]

PATIENCE = 30.0
ROOT = pathlib.Path(__file__).parents[2]


class _Quiet(werkzeug.serving.WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving(app: Callable[..., Any]) -> Iterator[int]:
    """Serve an app on a free port, each request in a thread of its own; at the end all of them must be over."""
    server = werkzeug.serving.make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Quiet)
    server.daemon_threads = False  # so that server_close waits for them
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="web-server")
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _spelled(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _request(port: int, method: str, path: str, body: str, headers: dict[str, str]) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Return status and text."""
    return _request(port, "GET", path, "", _spelled(headers))


def post(port: int, path: str, body: str = "", **headers: str) -> tuple[int, str]:
    """Return status and text; the body is a form."""
    given = {"Content-Type": "application/x-www-form-urlencoded"} | _spelled(headers)
    return _request(port, "POST", path, body, given)


class Stream:
    """A browser's side of an event stream: iterate over ``(id, event)``; leave the ``with`` block and the browser is gone."""

    def __init__(self, port: int, path: str, last_seen: str = "", **headers: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._connection.request("GET", path, headers=_spelled(headers) | ({"Last-Event-ID": last_seen} if last_seen else {}))
        self._response = self._connection.getresponse()
        self.status, self.headers = self._response.status, self._response.headers
        self.comments = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        number = 0
        deadline = time.monotonic() + PATIENCE
        while line := self._response.readline().decode("utf-8", "replace"):
            assert time.monotonic() < deadline, "nothing but heartbeats, or something that cannot be read"
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                yield number, json.loads(value)
            elif line == ":\n":
                self.comments += 1

    def until(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        """Read until an event of this name, and return all that came."""
        found = []
        for number, event in self:
            found.append((number, event))
            if event["name"] == name:
                return found
        raise AssertionError(f"the stream ended without {name}: {found}")


def python_path() -> str:
    """Where a program of its own finds this package, and what these tests find by PYTHONPATH."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))


def free_port() -> int:
    """A port that nobody listens on just now, for a program that cannot choose one itself."""
    while True:
        port = 15_000 + secrets.randbelow(15_000)  # below those that the system gives to whoever asks for any
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Program:
    """A Python program that serves in a process of its own; the ``with`` block gives the port, which it prints after ``mark``."""

    def __init__(self, arguments: list[str], folder: pathlib.Path, mark: str) -> None:
        self._arguments, self._folder, self._mark = arguments, folder, mark

    def __enter__(self) -> int:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QAI_")}
        self._process = subprocess.Popen(
            [sys.executable, *self._arguments],
            cwd=self._folder,
            env=environment | {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        output = b""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(re.escape(self._mark).encode() + rb"(\d+)\D", output)):
            ready = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not piece:
                self.__exit__()
                raise AssertionError(f"{self._mark!r} did not come; the output is:\n{output.decode()}")
            output += piece
        return int(found[1])

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
