"""``qai-realtime replay``: tell a recorded conversation again, to the screen or to the handlers of a program."""

from __future__ import annotations

import argparse
import pathlib
import threading
import time
from typing import Any

from qai_realtime_sync import AudioDelta, Conversation, Event, HandlerFailed, PlaybackStopped, RealtimeClient
from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.cli.assistant import load_object
from qai_realtime_sync.cli.json_events import follow_as_json
from qai_realtime_sync.cli.live import Live
from qai_realtime_sync.cli.recorded import config_of, event_of, find_recording
from qai_realtime_sync.cli.sound_files import check_writable, is_same_file, write_wav
from qai_realtime_sync.cli.terminal import json_line, say
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.turns import Turn

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime replay qai-demo --speed 4"
_ENDING = 2.0
_COMPARED = ("user", "assistant", "interrupted", "heard_ms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to replay, how fast, and what for."""
    parser.add_argument("folder", metavar="FOLDER", nargs="?", help="a recording (default: the newest here)")
    parser.add_argument("--speed", type=_speed, default=1.0, help="1 as it happened (default), 2 twice as fast, 0 at once")
    parser.add_argument("--handlers", metavar="MODULE:NAME", help="a function that is given the client and registers handlers")
    parser.add_argument("--out", metavar="FILE", help="what was heard of the answers, as a WAV file")
    parser.add_argument("--verify", action="store_true", help="compare the turns with the recording's transcript.json")
    parser.add_argument("--json", action="store_true", help="events and commands as lines of JSON, the result last")


def _speed(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number, 0 or more, not {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    """Replay; return 0, or 1 if `--verify` found a difference. Raises: `ConfigError` for what is no recording."""
    folder = find_recording(arguments.folder)
    if arguments.out:  # known before, not after an hour of replaying
        check_writable(arguments.out)
        if is_same_file(arguments.out, folder / "conversation.wav"):
            raise ConfigError(f"--out {arguments.out!r} is the recording's own sound; name another file", code="invalid_path")
    again = _Again(folder, arguments)
    again.run()
    turns = again.client.conversation
    seconds = write_heard(again.heard, arguments.out) if arguments.out else None
    differences = _differences(folder, turns) if arguments.verify else []
    if arguments.json:
        told = {"folder": str(folder), "turns": len(turns), "events": again.events, "handlers_failed": again.failed}
        verified = not differences if arguments.verify else None
        more = {"verified": verified, "differences": differences, "out": arguments.out}
        json_line({"name": "result", "command": "replay", "ok": not differences, "exit_code": int(bool(differences)), **told, **more})
        return 1 if differences else 0
    for line in differences:
        say(f"differs: {line}", "bad")
    if arguments.verify and not differences:
        say(f"the {len(turns)} turns are those of transcript.json", "good")
    if seconds is not None:
        say(f"{seconds:.1f} s of sound in {arguments.out}", "good")
    return 1 if differences else 0


class _Again:
    """One replay, in a thread of its own: the main thread hears Ctrl-C."""

    def __init__(self, folder: pathlib.Path, arguments: argparse.Namespace) -> None:
        self._folder, self._speed = folder, arguments.speed
        rows = _rows(folder / "events.jsonl")
        config = config_of(rows)
        self._began = 0.0
        self._virtual = 0.0  # seconds of the recording; belongs to the thread that replays
        self._stop = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None
        self.client = RealtimeClient("replay", config, clock=lambda: self._virtual)
        self.heard = _Heard(config.output_audio)
        self.heard.follow(self.client)
        self.events = self.failed = 0
        self._commands = [row for row in rows if row.get("direction") == "sent" and row.get("name") != "send_audio"]
        self._json = arguments.json
        self._live: Live | None = None
        self._follow(arguments)

    def _follow(self, arguments: argparse.Namespace) -> None:
        def count(event: Event) -> None:
            self.events += 1
            self.failed += isinstance(event, HandlerFailed)

        self.client.on(Event, count)
        if arguments.json:
            follow_as_json(self.client, seconds=lambda: self._virtual, background=False)
        else:
            self._live = Live(lambda: self._virtual)
            self._live.follow(self.client, background=False)
        if arguments.handlers:
            register = load_object(arguments.handlers, "--handlers")
            if not callable(register):
                raise ConfigError(f"--handlers {arguments.handlers}: that is {type(register).__name__}, not a function")
            try:
                register(self.client)
            except (Exception, SystemExit) as error:
                raise ConfigError(f"--handlers {arguments.handlers}, called with the client: {type(error).__name__}: {error}") from error

    def run(self) -> None:
        """Replay to the end. Raises: `ConfigError`; what the replay raised; `OSError` if it could not be shown."""
        thread = threading.Thread(target=self._replay, name="qai-replay", daemon=True)
        thread.start()
        try:
            self._done.wait()
        except BaseException:
            self._stop.set()
            self.client.close()
            self._done.wait(_ENDING)
            raise
        finally:
            if self._live is not None:
                self._live.end()
        thread.join(_ENDING)
        if self._error is not None:
            raise self._error
        if self._live is not None:
            self._live.check()

    def _replay(self) -> None:
        self._began = time.monotonic()
        try:
            self.client.replay(self._folder, speed=1.0, wait=self._wait)
            self._tell_commands(float("inf"))
        except BaseException as error:  # for the main thread, which tells it
            self._error = error
        finally:
            self._done.set()

    def _wait(self, left: float) -> None:
        """Let the recording's time pass: the clock of the client jumps, and we wait as long as the speed says."""
        until = self._virtual + left
        self._tell_commands(until)
        if self._speed > 0:
            self._stop.wait(max(0.0, self._began + until / self._speed - time.monotonic()))
        self._virtual = until

    def _tell_commands(self, until: float) -> None:
        """What the program sent is no event: it is told from the file, before what happened after it."""
        while self._commands and float(self._commands[0].get("at", 0.0)) < until and not self._stop.is_set():
            row = self._commands.pop(0)
            if self._json:
                json_line(row)
            elif self._live is not None and row.get("name") == "send_text":
                self._live.line("caller", f"{row.get('text', '')} (typed)", at=float(row["at"]))


class _Heard:
    """The sound of the answers, as much of each as was heard."""

    def __init__(self, audio: AudioFormat) -> None:
        self.audio = audio
        self._items: dict[tuple[str, str], bytearray] = {}

    def follow(self, client: RealtimeClient) -> None:
        client.on(AudioDelta, self._sound)
        client.on(PlaybackStopped, self._stopped)

    def _sound(self, event: AudioDelta) -> None:
        self._items.setdefault((event.response_id, event.item_id), bytearray()).extend(event.audio)

    def _stopped(self, event: PlaybackStopped) -> None:
        item = self._items.get((event.response_id, event.item_id))
        if item is not None and event.reason != "finished":
            width = self.audio.sample_width
            del item[round(event.heard_ms / 1000 * self.audio.sample_rate) * width :]

    @property
    def pcm(self) -> bytes:
        """All of it as PCM16, at the same rate."""
        whole = b"".join(self._items.values())
        converter = Converter(self.audio, AudioFormat("pcm16", self.audio.sample_rate))
        return converter.convert(whole) + converter.flush()


def write_heard(heard: _Heard, out: str) -> float:
    """Write what was heard; return how many seconds. Raises: `ConfigError`."""
    pcm = heard.pcm
    audio = AudioFormat("pcm16", heard.audio.sample_rate)
    write_wav(out, pcm, audio)
    return len(pcm) / audio.bytes_per_second


def _rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The lines as they are, but for a last one that is cut off; that the file is not there, the replay says.

    Raises: `ConfigError` for a line that is not of a recording, and where there is none at all.
    """
    if not path.is_file():
        return []
    rows = []
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                row = event_of(line)
                if row is not None:
                    rows.append(row)
                elif line.endswith("\n"):
                    raise ConfigError(f"line {number} of {str(path)!r} is not of a recording", code="invalid_recording")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror or error}", code="invalid_recording") from error
    if not rows:
        raise ConfigError(f"there is no event in {str(path)!r}: nothing to replay", code="invalid_recording")
    return rows


def _differences(folder: pathlib.Path, turns: Conversation) -> list[str]:
    """Compare with the transcript that was written at the time. Raises: `ConfigError` without one."""
    path = folder / "transcript.json"
    if not path.is_file():
        raise ConfigError(f"there is no transcript.json in {str(folder)!r} to compare with", code="invalid_recording")
    written = Conversation.from_json(path.read_bytes())
    found = [] if len(written) == len(turns) else [f"transcript.json has {len(written)} turns, the events tell {len(turns)}"]
    for old, new in zip(written, turns):
        found += [
            f"turn {old.number}, {name}: {getattr(old, name)!r} in transcript.json, {getattr(new, name)!r} in the events"
            for name in _COMPARED
            if getattr(old, name) != getattr(new, name)
        ]
        if _calls(old) != _calls(new):
            found.append(f"turn {old.number}, tool calls: {_calls(old)} in transcript.json, {_calls(new)} in the events")
    return found


def _calls(turn: Turn) -> list[tuple[str, str, str | None]]:
    return [(call.name, call.arguments, call.output) for call in turn.tool_calls]
