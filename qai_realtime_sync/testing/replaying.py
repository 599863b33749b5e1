"""A loopback service that answers as it did when a cassette was recorded."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from qai_realtime_sync.commands import Command, Configure, Pong, SendAudio
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.line import Line
from qai_realtime_sync.offline.server import RealtimeServer
from qai_realtime_sync.offline.tap import Refusal
from qai_realtime_sync.testing.cassette import Cassette, Entry, difference, frame_of, refused, scrubbed, shown
from qai_realtime_sync.testing.loopback import KEY, Loopback
from qai_realtime_sync.testing.words import commands_of

__all__ = ["ReplayServer"]

_ENOUGH = 0.9  # of the recorded sound
_IDS = ("event_id", "item_id")


class ReplayServer(Loopback):
    """Answers every connection with the messages of the cassette ``path``, as the client comes to where each was recorded.

    The client must send the same commands in the same order; ids, the configuration and the content of sound do not count, neither do
    the fields named in ``ignore`` (such as ``"output"``, where tools tell the time). Of sound nine tenths must have been sent. The first
    command that differs ends the connection (1008), and `assert_complete` tells both sides of it.

    Raises: `ConfigError` for a file that is no cassette, or one of another dialect than is asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        key: str | None = KEY,
        dialect: str = "",
        ignore: Iterable[str] = (),
        must_complete: bool = True,
    ) -> None:
        self.cassette = Cassette(path)
        if dialect and dialect != self.cassette.dialect:
            raise ConfigError(
                f"the cassette {str(path)!r} was recorded of {self.cassette.dialect}, not of {dialect}; record it anew",
                code="invalid_cassette",
            )
        self.must_complete = must_complete
        self._player = _Player(self.cassette, frozenset(ignore), key=key, dialect=self.cassette.dialect)
        super().__init__(self._player, key)

    def report(self) -> str:
        """Return in words what differed from the recording, or was not sent; ``""`` for nothing."""
        found = self._player.problems()
        return "\n".join([f"the conversation differs from {self.cassette.path.name}:", *(f"  - {one}" for one in found)]) if found else ""

    def assert_complete(self, timeout: float = 2.0) -> None:
        """Wait a moment for what is under way; then raise AssertionError if the conversation was another one, or only a part of it."""
        self._player.wait(timeout)
        super().assert_complete()


class _Player(RealtimeServer):
    """Gives each connection the next recorded one."""

    def __init__(self, cassette: Cassette, ignore: frozenset[str], **options: Any) -> None:
        super().__init__(light=True, **options)
        self.cassette, self.ignore = cassette, ignore
        self.changed = threading.Condition()  # guards everything below, and the entries of the cassette
        self.found: list[str] = []
        self._next = 0
        self._open = 0

    def refusal(self, path: str, query: Mapping[str, str]) -> Refusal | None:
        """Refuse as it was recorded."""
        with self.changed:
            entries = self.cassette.of(self._next + 1)
            if not entries or entries[0].name != "refused":
                return None
            self._next += 1
            entries[0].met = True
        return refused(entries[0].fields)

    def converse(self, environ: dict[str, Any], *, path: str, subprotocol: str, admitted: bool, session_id: str = "", **_: Any) -> None:
        """Play one recorded connection."""
        with self.changed:
            self._next += 1
            number = self._next
            self._open += 1
        threading.current_thread().name = f"qai-offline-line-replay-{number}"
        line = Line(environ, environ["werkzeug.socket"], subprotocol=subprotocol, name=f"replay-{number}")
        playing = _Playing(self, line, number, self.dialect_of(path))
        self.ledger.connected(session_id)
        try:
            if admitted:
                playing.begin()
            else:
                line.hang_up(1008, "this is not the key of the replaying server")
            line.flush()
            line.run(playing.receive)
        finally:
            with self.changed:
                self._open -= 1
                self.changed.notify_all()

    def wait(self, timeout: float) -> None:
        """Wait until all is played, something differs, or nobody is connected."""
        deadline = time.monotonic() + timeout
        with self.changed:
            while self._open and not self.found and self._unmet():
                if not self.changed.wait(max(0.0, deadline - time.monotonic())):
                    return

    def problems(self) -> list[str]:
        """Return in words what differed; if nothing did, the first command that did not come."""
        with self.changed:
            unmet = self._unmet()
            if self.found or not unmet:
                return list(self.found)
            entry = unmet[0]
            more = f" (and {len(unmet) - 1} more)" if len(unmet) > 1 else ""
            return [f"line {entry.number}: the recording has {shown(entry.fields)}, which the client never sent{more}"]

    def _unmet(self) -> list[Entry]:
        return [one for one in self.cassette.entries if one.direction == "sent" and not one.met and one.name not in ("pong", "closed")]


class _Playing:
    """Where one connection is in its recording."""

    def __init__(self, player: _Player, line: Line, number: int, dialect: str) -> None:
        self._player, self._line, self._number, self._dialect = player, line, number, dialect
        self._entries = [one for one in player.cassette.of(number) if one.name != "pong"]
        self._at = 0
        self._heard = 0  # bytes of sound
        self._ids: dict[str, str] = {}  # recorded -> this time's
        self._later = time.time() - player.cassette.recorded_at
        self._over = False

    def begin(self) -> None:
        """Send what the service says by itself."""
        with self._player.changed:
            if not self._entries:
                self._fail(f"connection {self._number} was made, but only {self._player.cassette.connections} were recorded")
            self._advance()

    def receive(self, message: str | bytes) -> None:
        """Take a message of the client, and answer as it was recorded."""
        with self._player.changed:
            for command in commands_of(self._dialect, message):
                if not self._over:
                    self._take(command)
            if not self._over:
                self._advance()
            self._player.changed.notify_all()
        self._line.flush()

    def _take(self, command: Command) -> None:
        if isinstance(command, Pong):
            return
        if isinstance(command, SendAudio):
            self._heard += len(command.audio)
            return
        told = {name: value for name, value in command.to_dict().items() if name != "config"}
        sent = scrubbed(told, (KEY,))  # as it was recorded
        waiting = [one for one in self._entries[self._at :] if one.direction == "sent" and not one.met and one.name != "send_audio"]
        entry = self._same(waiting, sent)
        if entry is None:
            if waiting:
                first = waiting[0]
                self._fail(f"line {first.number}: the recording has {shown(first.fields)}, the client sent {shown(sent)}")
            else:
                self._fail(f"the recording ends here, the client sent {shown(sent)}")
            return
        entry.met = True
        if not isinstance(command, Configure):
            self._learn(entry.fields, sent)

    def _same(self, waiting: list[Entry], sent: dict[str, Any]) -> Entry | None:
        """Return the line that was met: the next one, but results of tools may come in another order."""
        ignore = self._player.ignore
        for entry in waiting:
            if not difference(entry.fields, sent, ignore):
                return entry
            if sent["name"] != "send_function_result" or entry.name not in ("send_function_result", "configure"):
                return None
        return None

    def _learn(self, recorded: Mapping[str, Any], sent: Mapping[str, Any]) -> None:
        pairs = [(recorded.get(name), sent.get(name)) for name in _IDS]
        old, new = recorded.get("metadata"), sent.get("metadata")
        if isinstance(old, dict) and isinstance(new, dict):
            pairs += [(value, new.get(name)) for name, value in old.items()]
        for before, now in pairs:
            if isinstance(before, str) and isinstance(now, str) and before:
                self._ids[before] = now

    def _advance(self) -> None:
        """Queue what the service said until it waited for the client."""
        heard = 0
        for entry in self._entries[: self._at]:
            heard += entry.fields.get("audio", 0) if entry.name == "send_audio" else 0
        while self._at < len(self._entries) and not self._over:
            entry = self._entries[self._at]
            if entry.direction == "sent":
                if entry.name == "send_audio" and not entry.met:
                    entry.met = self._heard >= (heard + entry.fields["audio"]) * _ENOUGH or self._is_past(self._at)
                if not entry.met and entry.name != "closed":
                    return
                heard += entry.fields.get("audio", 0) if entry.name == "send_audio" else 0
            elif entry.name == "closed":
                self._end(entry)
            else:
                entry.met = True
                self._line.put(frame_of(entry.fields, self._change))
            self._at += 1

    def _is_past(self, at: int) -> bool:
        """The client has sent something that was recorded later: there will be no more of this sound."""
        return any(one.met for one in self._entries[at + 1 :] if one.direction == "sent" and one.name != "send_audio")

    def _end(self, entry: Entry) -> None:
        self._over = entry.met = True
        code = entry.fields.get("code")
        if isinstance(code, int) and code not in (1005, 1006, 1015):
            self._line.hang_up(code, str(entry.fields.get("reason") or ""))
        else:
            self._line.cut()

    def _change(self, key: str, value: Any) -> Any:
        """Put this time's ids and times in the place of the recorded ones."""
        if isinstance(value, str):
            return self._ids.get(value, value)
        if key == "expires_at" and isinstance(value, (int, float)) and not isinstance(value, bool):
            return round(value + self._later)
        return value

    def _fail(self, problem: str) -> None:
        self._over = True
        self._player.found.append(problem)
        self._line.hang_up(1008, ("cassette: " + problem).encode()[:120].decode(errors="ignore"))
