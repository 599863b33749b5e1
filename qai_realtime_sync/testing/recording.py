"""Stands between a client and a real service, and writes down their conversation as a cassette."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO
from urllib.parse import parse_qsl, quote, urlsplit

from qai_realtime_sync import transport
from qai_realtime_sync.commands import Command, SendAudio
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.dialects import choose
from qai_realtime_sync.dialects.address import ws_address
from qai_realtime_sync.errors import ApiError, ConfigError, ConnectionClosedError, RealtimeError
from qai_realtime_sync.offline.ledger import Entry as LedgerEntry, Ledger
from qai_realtime_sync.offline.line import Line
from qai_realtime_sync.offline.server import RealtimeServer
from qai_realtime_sync.offline.tap import Refusal
from qai_realtime_sync.seam import Frame
from qai_realtime_sync.testing.cassette import VERSION, refused, scrubbed, spelled_frame
from qai_realtime_sync.testing.loopback import KEY, Loopback
from qai_realtime_sync.testing.words import commands_of

__all__ = ["RecordingServer"]

_SECRET_PARAMETERS = frozenset("token key access_token conversation_signature".split())
_SENDABLE = frozenset({*range(1000, 1004), *range(1007, 1015)})


class RecordingServer(Loopback):
    """A loopback server that passes every connection on to ``upstream`` and keeps what is said in the file ``path``.

    ``upstream``: the address of a service (``wss://api.x.ai/v1/realtime``), or the gateway's or a local server's base URL;
    ``upstream_key``: its key, which the client need not know, and which is nowhere in the file. ``dialect``: what is spoken;
    ``ssl_context``: an `ssl.SSLContext` for the way to the service. Minting over REST is answered here, without money: only WebSockets go
    on to the service.

    Raises: `ConfigError` for a wrong address or a file that cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        upstream: str,
        upstream_key: str = "",
        dialect: str = "xai",
        key: str | None = KEY,
        ssl_context: Any = None,
    ) -> None:
        if not isinstance(upstream, str):
            raise ConfigError(f"upstream must be an address, like wss://api.x.ai/v1/realtime, not {upstream!r}", code="invalid_base_url")
        ws_address(upstream)
        self.path = pathlib.Path(path)
        self._tape = _Tape(self.path, dialect, (upstream_key, key or ""))
        self._recorder = _Recorder(self._tape, upstream, upstream_key, ssl_context, key=key, dialect=dialect)
        super().__init__(self._recorder, key)

    def report(self) -> str:
        """Return why the recording failed, ``""`` if it did not."""
        return self._tape.problem

    def stop(self) -> None:
        """Close the clients, the server and the file."""
        super().stop()
        self._tape.close()


class _Tape:
    """The file that is being written; safe for several threads."""

    def __init__(self, path: pathlib.Path, dialect: str, secrets: tuple[str, ...]) -> None:
        self._path = path
        self._secrets = tuple(one for one in secrets if len(one) >= 4)
        self._began = time.monotonic()
        self._lock = threading.Lock()  # guards everything below
        self._sound: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()
        self.problem = ""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = open(path, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        except OSError as error:
            raise ConfigError(f"the cassette {str(path)!r} cannot be written: {error.strerror or error}", code="invalid_path") from error
        self._write({"cassette": VERSION, "dialect": dialect, "recorded_at": round(time.time())})
        if self.problem:
            raise ConfigError(self.problem, code="invalid_path")

    def sent(self, connection: int, command: Command) -> None:
        """Write a command of the client; sound is added up until something else comes."""
        with self._lock:
            if isinstance(command, SendAudio):
                told = self._sound.setdefault(connection, {"name": command.command_name, "audio": 0, "count": 0, **self._place(connection)})
                told["audio"] += len(command.audio)
                told["count"] += 1
                return
            self._flush(connection)
            said = {name: value for name, value in command.to_dict().items() if name != "config"}
            self._line(connection, "sent", said)

    def received(self, connection: int, fields: Mapping[str, Any]) -> None:
        """Write something that the service sent."""
        with self._lock:
            self._flush(connection)
            self._line(connection, "received", fields)

    def ended(self, connection: int, direction: str, code: int | None, reason: str) -> None:
        """Write which side closed first, and how: ``sent`` is the client."""
        with self._lock:
            if connection not in self._ended:
                self._ended.add(connection)
                self._flush(connection)
                self._line(connection, direction, {"name": "closed", "code": code, "reason": reason})

    def close(self) -> None:
        """Write what is left, and close the file."""
        with self._lock:
            for connection in [*self._sound]:
                self._flush(connection)
            self._file.close()

    def _place(self, connection: int) -> dict[str, Any]:
        return {"connection": connection, "at": round(time.monotonic() - self._began, 3)}

    def _flush(self, connection: int) -> None:
        sound = self._sound.pop(connection, None)
        if sound is not None:
            self._write({"connection": connection, "at": sound["at"], "direction": "sent", **sound})

    def _line(self, connection: int, direction: str, fields: Mapping[str, Any]) -> None:
        self._write({**self._place(connection), "direction": direction, **scrubbed(dict(fields), self._secrets)})

    def _write(self, value: Mapping[str, Any]) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(json.dumps(value, ensure_ascii=False, default=str) + "\n")
        except OSError as error:  # a full disk: the conversation goes on, and the report tells it
            self.problem = f"the cassette {str(self._path)!r} cannot be written: {error.strerror or error}; it is not whole, record it anew"
            with contextlib.suppress(OSError):  # what it could not write once more
                self._file.close()


class _Doorkeeper(Ledger):
    """A ledger that tells when a key is wrong."""

    turned_away: Callable[[], None]

    def look_up(self, credential: str) -> LedgerEntry:
        """Tell what a credential is good for."""
        entry = super().look_up(credential)
        if entry.refusal:
            self.turned_away()
        return entry


class _Recorder(RealtimeServer):
    """Dials the service before it lets a client in, so that a refusal reaches the client as it is."""

    def __init__(self, tape: _Tape, upstream: str, upstream_key: str, ssl_context: Any, **options: Any) -> None:
        super().__init__(light=True, **options)
        ledger = _Doorkeeper(options["key"], self.ledger.tariff)
        ledger.turned_away = self._hang_up
        self.ledger = ledger
        self._tape, self._upstream, self._upstream_key = tape, upstream, upstream_key
        self._ssl_context = ssl_context
        self._dialled = threading.local()
        self._count_lock = threading.Lock()  # guards _count
        self._count = 0

    def refusal(self, path: str, query: Mapping[str, str]) -> Refusal | None:
        """Dial the service; return how it refused, if it did."""
        self._dialled.connection = None
        try:
            url, headers = self._target(path, query)
            self._dialled.connection = transport.connect(url, headers=headers, timeout=15.0, ssl_context=self._ssl_context)
        except RealtimeError as error:
            status = error.status_code if isinstance(error, ApiError) and error.status_code else 502
            fields = {"status": status, "code": str(error.code or ""), "message": error.message}
            if isinstance(error, ApiError) and error.retry_after is not None:
                fields["retry_after"] = error.retry_after
            self._tape.received(self._next_number(), {"name": "refused", **fields})
            return refused(fields)
        return None

    def _next_number(self) -> int:
        """Number a connection as the replay will: who is turned away at the upgrade, for want of the key, has none."""
        with self._count_lock:
            self._count += 1
            return self._count

    def _hang_up(self) -> None:
        """Nobody is let in for whom the service was dialled."""
        connection = getattr(self._dialled, "connection", None)
        self._dialled.connection = None
        if connection is not None:
            connection.close(timeout=1.0)

    def _target(self, path: str, query: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
        split = urlsplit(self._upstream)
        kept = {name: value for name, value in query.items() if name not in _SECRET_PARAMETERS}
        present = {name for name, _ in parse_qsl(split.query)}
        gateway = split.path in ("", "/") and not path.startswith("/ws/")
        reader = choose("elevenlabs" if path.endswith("/elevenlabs") else self.dialect)(gateway=gateway)
        session = RealtimeSession(url=self._upstream, ephemeral_token="" if gateway else self._upstream_key)
        agent = {"agent_id": kept["agent_id"]} if "agent_id" in kept else {}
        shake = reader.handshake(RealtimeConfig(session=agent), session, self._upstream_key)
        known = present | {name for name, _ in parse_qsl(urlsplit(shake.url).query)}
        more = "&".join(f"{name}={quote(value, safe='')}" for name, value in kept.items() if name not in known)
        glue = "" if not more else "&" if urlsplit(shake.url).query else "?"
        return shake.url + glue + more, shake.headers

    def converse(self, environ: dict[str, Any], *, path: str, subprotocol: str, admitted: bool, **_: Any) -> None:
        """Pass messages on in both directions until one side ends."""
        number, connection = self._next_number(), self._dialled.connection
        threading.current_thread().name = f"qai-offline-line-record-{number}"
        try:
            line = Line(environ, environ["werkzeug.socket"], subprotocol=subprotocol, name=f"record-{number}")
            if not admitted:
                line.hang_up(1008, "this is not the key of the recording server")
                line.flush()
                line.run(lambda message: None)
                return
            dialect = self.dialect_of(path)
            down = threading.Thread(
                target=self._pass_down, args=(connection, line, number, dialect), name=f"qai-offline-record-{number}", daemon=True
            )
            down.start()

            def pass_up(message: str | bytes) -> None:
                for command in commands_of(dialect, message):
                    self._tape.sent(number, command)
                try:
                    connection.send(message)
                except RealtimeError:
                    line.flush()  # the service's end is on its way to the client

            try:
                line.run(pass_up)
            finally:
                code, reason = line.ending
                self._tape.ended(number, "sent", code, reason)
                connection.close(code if code in _SENDABLE else 1000, reason[:100], timeout=1.0)
                down.join(2.0)
        finally:
            if connection is not None:
                connection.abort()

    def _pass_down(self, connection: transport.Connection, line: Line, number: int, dialect: str) -> None:
        reader = choose(dialect)()
        try:
            while True:
                frame = connection.recv()
                payload = bytes(frame.payload)
                message: str | bytes = payload.decode() if frame.text else payload
                told = reader.decode(Frame(payload, frame.text))
                self._tape.received(number, {"name": told[0].event_name if told else "nothing", **spelled_frame(message)})
                line.put(message)
                line.flush()
        except ConnectionClosedError as error:
            code = error.code if isinstance(error.code, int) else None
            self._tape.ended(number, "received", code, error.reason)
            if code is not None and code not in (1005, 1006, 1015):
                line.hang_up(code, error.reason)
            else:
                line.cut()
            line.flush()
