"""``qai-realtime record``: hold a conversation, written, from files or with a microphone, and keep all of it."""

from __future__ import annotations

import argparse
import io
import os
import pathlib
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from qai_realtime_sync import Closed, PacedSink, PlaybackStopped, RealtimeClient, Recorder, ResponseDone, TurnDetection
from qai_realtime_sync.cli.address import add_address, client_for, seconds
from qai_realtime_sync.cli.assistant import add_assistant, config_from
from qai_realtime_sync.cli.caller import RealTime, SkippingTime
from qai_realtime_sync.cli.json_events import follow_as_json
from qai_realtime_sync.cli.live import Live
from qai_realtime_sync.cli.recorded import load
from qai_realtime_sync.cli.recording_folder import check_kept, discard, recording_folder
from qai_realtime_sync.cli.say import recording_of, say_aloud
from qai_realtime_sync.cli.terminal import json_line
from qai_realtime_sync.errors import ConfigError, RealtimeTimeoutError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = 'qai-realtime record "Hello!" question.wav --out call'
_BETWEEN = 0.5  # seconds from the end of an answer to the next question
_PATIENCE = 5.0
_SHOWN_WITHIN = 1.0  # seconds: a terminal that is slower has its prompt behind the answer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to say, where to, and where it is kept."""
    parser.add_argument("turns", metavar="TEXT|FILE", nargs="*", help="sentences and WAV files, in turn; none: lines of stdin")
    parser.add_argument("--out", metavar="FOLDER", help="where it is kept (default: a new folder qai-recording)")
    parser.add_argument("--mic", action="store_true", help="microphone and loudspeaker, until Ctrl-C")
    parser.add_argument("--input", metavar="NAME", default="", help="with --mic: the microphone, by a part of its name")
    parser.add_argument("--output", metavar="NAME", default="", help="with --mic: the loudspeaker, by a part of its name")
    parser.add_argument("--seconds", type=seconds, help="end after so many seconds of --mic")
    parser.add_argument("--pace", action="store_true", help="as slow as it is spoken, not as fast as it goes")
    add_assistant(parser)
    parser.add_argument("--timeout", type=seconds, default=30.0, help="seconds to wait for an answer (default: %(default)g)")
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="events as lines of JSON, the result last")


def run(arguments: argparse.Namespace) -> int:
    """Hold the conversation and keep it; return 0. Raises: `RealtimeError`."""
    if arguments.mic and arguments.turns:
        raise ConfigError("--mic listens to you; it does not go with sentences and files")
    if not arguments.mic and (arguments.seconds or arguments.input or arguments.output):
        raise ConfigError("--seconds, --input and --output are for --mic")
    if arguments.mic:
        _look_for_devices()
    turns = [] if arguments.mic else _turns(arguments.turns)
    config = config_from(arguments, turn_detection=TurnDetection() if arguments.mic else None)
    talk: _Talk | None = None
    folder, is_new = pathlib.Path(), False
    try:
        with client_for(arguments, config) as client:
            is_new = arguments.out is None or not os.path.exists(arguments.out)
            folder = recording_folder(arguments.out, "qai-recording", _note)
            talk = _Talk(arguments, client, folder)
            if arguments.mic:
                talk.aloud()
            else:
                talk.through(turns)
    finally:
        if talk is not None and talk.connected:
            talk.finish()
        elif is_new:
            discard(folder)
    talk.check()
    turns_kept = load(folder).turns
    if arguments.json:
        json_line({"name": "result", "command": "record", "ok": True, "exit_code": 0, "folder": str(folder), "turns": len(turns_kept)})
    return 0


def _look_for_devices() -> None:
    """Say at once what is missing. Raises: `ConfigError`."""
    from qai_realtime_sync.cli.talk_sound import quiet_alsa
    from qai_realtime_sync.devices import list_devices

    quiet_alsa()
    if not list_devices("input"):
        raise ConfigError("there is no microphone here; give sentences or WAV files instead of --mic", code="no_device")


def _note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _turns(given: Sequence[str]) -> Iterator[tuple[str, bytes]] | list[tuple[str, bytes]]:
    """What is said in turn, as text and sound; files are read before anything begins. Raises: `ConfigError`."""
    if list(given) not in ([], ["-"]):
        return [(one, recording_of(one)) for one in given]
    if sys.stdin is None or sys.stdin.closed:
        raise ConfigError("there is nothing to say: give sentences or WAV files, or write lines to standard input")
    lines = _lines()
    first = next(lines, None)
    if first is None:
        raise ConfigError("there is nothing to say: give sentences or WAV files, or write lines to standard input")
    return _and_then(first, lines)


def _lines() -> Iterator[tuple[str, bytes]]:
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is refused with words, as in an argument
    while True:
        if sys.stdin.isatty():
            print("you (Ctrl-D ends): ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip(), recording_of(line.strip())


def _and_then(first: tuple[str, bytes], rest: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield first
    yield from rest


class _Talk:
    """One conversation that is kept, from before it connects."""

    def __init__(self, arguments: argparse.Namespace, client: RealtimeClient, folder: pathlib.Path) -> None:
        self._arguments, self._client, self._folder = arguments, client, folder
        self.connected = False
        self._clock = RealTime() if arguments.pace or arguments.mic else SkippingTime()
        self._recorder = Recorder(folder, clock=self._clock.now if self._clock.skips else None)
        client.record_to(self._recorder)
        self._begun = self._clock.now()
        self._live: Live | None = None
        self._shown = threading.Condition()  # guards the two below
        self._answered = self._printed = 0  # answers that are over, and those that are over on the screen
        if arguments.json:
            follow_as_json(client, seconds=self._now, cut_off=client.close if arguments.mic else None)
        else:
            self._live = Live(self._now)
            self._live.follow(client)
            client.on(ResponseDone, self._ended)
            client.on(ResponseDone, self._was_printed, background=True)  # after what Live prints of it

    def through(self, turns: Any) -> None:
        """Say one thing after the other, each when the answer before was heard. Raises: `RealtimeError`."""
        client, arguments = self._client, self._arguments
        sink = PacedSink(client.config.output_audio, clock=self._clock.now)
        client.play_to(sink)
        with self._recorder, client:
            self._started()
            for text, pcm in turns:
                self._line("caller", text)
                if pcm:
                    self._say(pcm)
                else:
                    client.ask(text, arguments.timeout)
                self._hear_out(sink)
                self._pause()

    def aloud(self) -> None:
        """Listen to the microphone and play to the loudspeaker, until Ctrl-C or the time is over. Raises: `RealtimeError`."""
        from qai_realtime_sync.devices import Microphone, Speaker

        client = self._client
        speaker = Speaker(self._arguments.output)
        client.play_to(speaker)
        listening = Microphone(self._arguments.input, audio=client.config.input_audio, half_duplex=speaker)
        with speaker, listening as microphone, self._recorder, client:
            self._started()
            _note(f"listening to {microphone.name}; the microphone is deaf while the answer plays; Ctrl-C ends")
            microphone.send_to(client.send_audio)
            try:
                client.wait_for(Closed, self._arguments.seconds)
            except RealtimeTimeoutError:
                return  # the time is over

    def finish(self) -> None:
        """Say where it is; times that were skipped are put right in the transcript."""
        self._recorder.close()
        if self._live is not None:
            self._live.end()
        if self._clock.skips and self._recorder.error is None:
            text = load(self._folder).turns.to_json(indent=2)
            (self._folder / "transcript.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        _note(f"the conversation is in {self._folder}{os.sep}; see it with: qai-realtime report {shlex.quote(str(self._folder))}")

    def check(self) -> None:
        """Raise `RealtimeError` if not all of it could be kept, `OSError` if it could not be shown."""
        check_kept(self._recorder)
        if self._live is not None:
            self._live.check()

    def _started(self) -> None:
        self.connected = True
        self._begun = self._clock.now()
        self._line("", f"(connected, session {self._client.session_id})")

    def _now(self) -> float:
        return self._clock.now() - self._begun

    def _line(self, who: str, text: str) -> None:
        if self._live is not None:
            self._live.line(who, text)

    def _pause(self) -> None:
        """Finish the line of the answer: the next input may be asked for on the same terminal."""
        if self._live is not None:
            with self._shown:
                self._shown.wait_for(lambda: self._printed >= self._answered, _SHOWN_WITHIN)
            self._live.pause()

    def _ended(self, done: ResponseDone) -> None:
        with self._shown:
            self._answered += 1

    def _was_printed(self, done: ResponseDone) -> None:
        with self._shown:
            self._printed += 1
            self._shown.notify_all()

    def _say(self, pcm: bytes) -> None:
        if self._clock.skips:
            say_aloud(self._client, pcm, self._arguments.timeout, said=self._clock.skip)
        else:
            say_aloud(self._client, pcm, self._arguments.timeout, pace=True)

    def _hear_out(self, sink: PacedSink) -> None:
        """Wait until the answer was heard."""
        if self._clock.skips:
            self._clock.skip(sink.seconds_left + _BETWEEN)
        elif sink.seconds_left > 0:
            self._client.wait_for(PlaybackStopped, sink.seconds_left + _PATIENCE, where=lambda stopped: stopped.reason == "finished")
