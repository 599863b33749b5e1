"""The parent's side of a local server in a process of its own."""

from __future__ import annotations

import json
import queue
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.request
from typing import IO, Any

from qai_realtime_sync.cli.interruptions import holding
from qai_realtime_sync.errors import RealtimeError, RealtimeTimeoutError

__all__ = ["ServerProcess"]

_READY_WITHIN = 40.0
_STOP_WITHIN = 2.0
_LAST_LINES = 12


class ServerProcess:
    """Starts the local server, in light mode or with TLS if asked, and ends it with the ``with`` block.

    It has a session of its own, so that Ctrl-C in a terminal reaches only us and the end can be an orderly one; should we be killed, its
    standard input ends and so does it.
    """

    def __init__(self, *, key: str, light: bool = False, tls: bool = False, dialect: str = "xai") -> None:
        self._key = key
        self._arguments = ["--key", key, "--dialect", dialect, *(["--light"] if light else []), *(["--tls"] if tls else [])]
        self._process: subprocess.Popen[bytes] | None = None
        self._complaints: IO[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader: threading.Thread | None = None
        self.url = self.ws_url = ""
        self.description = ""
        self._certificate = ""

    def __enter__(self) -> ServerProcess:
        try:
            with holding():
                self._start()
        except BaseException:  # Ctrl-C, which came meanwhile
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "qai_realtime_sync.cli.attached_server", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), name="qai-server-output", daemon=True)
        self._reader.start()

    def _read(self, output: IO[bytes]) -> None:
        for line in output:
            self._lines.put(line)
        self._lines.put(b"")

    def wait_until_ready(self) -> None:
        """Wait until it listens; then `url` and `description` are known. Raises: `RealtimeError` with what it complained about."""
        try:
            line = self._lines.get(timeout=_READY_WITHIN)
        except queue.Empty:
            raise RealtimeTimeoutError(f"the local server was not ready within {_READY_WITHIN:g} s; {self._complaint()}") from None
        if not line:
            raise RealtimeError(f"the local server did not start: {self._complaint()}", code="server_failed")
        ready = json.loads(line)
        self.url, self.ws_url = ready["url"], ready["ws_url"]
        self.description, self._certificate = ready["description"], ready["certificate"]

    def _complaint(self) -> str:
        assert self._complaints is not None
        self._complaints.seek(0)
        lines = self._complaints.read().decode("utf-8", "replace").strip().splitlines()
        return "\n".join(lines[-_LAST_LINES:]) or "it said nothing"

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """Trusts the server's certificate, which was made on the fly; ``None`` without TLS."""
        return ssl.create_default_context(cadata=self._certificate) if self._certificate else None

    def journal(self) -> dict[str, Any]:
        """What the server knows: ``journal``, ``conversations`` and ``sessions``. Raises: `RealtimeError` if it does not answer."""
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        context = self.ssl_context
        if context is not None:
            handlers.append(urllib.request.HTTPSHandler(context=context))
        request = urllib.request.Request(f"{self.url}/journal", headers={"Authorization": f"Bearer {self._key}"})
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=5.0) as answer:
                journal: dict[str, Any] = json.load(answer)
                return journal
        except OSError as error:
            raise RealtimeError(f"the local server does not tell its journal: {error}", code="server_failed") from error

    def __exit__(self, *_: object) -> None:
        process = self._process
        try:
            if process is not None:
                self._end(process)
        finally:
            if self._reader is not None:
                self._reader.join(_STOP_WITHIN)
            if process is not None and process.stdout is not None:
                process.stdout.close()
            if self._complaints is not None:
                self._complaints.close()

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        if not self.url:
            process.terminate()  # it still loads its voices, and there is nothing to be ended in order
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        except BaseException:  # Ctrl-C while we wait: it gets no more time
            process.kill()
            process.wait()
            raise
