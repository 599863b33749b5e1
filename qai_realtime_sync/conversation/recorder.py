"""Keeps a conversation as it was heard: a stereo WAV file, every event and command with its time, and the turns."""

from __future__ import annotations

import json
import logging
import os
import pathlib
import threading
from collections.abc import Callable
from typing import Any, TextIO

import attrs

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.commands import Command, SendAudio, TruncateItem
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.conversation.record import Conversation
from qai_realtime_sync.conversation.tracks import Track
from qai_realtime_sync.conversation.wav import StereoWav
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import AudioDelta, Closed, Event, PlaybackStopped, Reconnected, TurnDone
from qai_realtime_sync.turns import Turn

__all__ = ["Recorder"]

_log = logging.getLogger("qai_realtime_sync")
_HICCUP = 0.04  # seconds: a piece of the caller that is less late than this follows the one before without a gap
_KEPT_BACK = 0.5  # seconds of the past that an interruption may still cut
_WRITE_EVERY = 0.25
_LONGEST_AHEAD = 300.0  # seconds of sound that wait in memory for their time to come
_BLOCK = 10.0
_REMEMBERED = 64


@attrs.define
class _Spoken:
    """Where the sound of one answer lies, in samples of the recording."""

    response_id: str
    item_id: str
    begins: int
    ends: int


class Recorder:
    """Writes down a conversation while it happens; give it to `RealtimeClient.record_to` before connecting.

    ``path``: a folder, which gets ``conversation.wav`` (the caller left, the assistant right, each sound where it was sent or heard),
    ``events.jsonl`` (every event and command by name, with its time; sound as its length) and ``transcript.json`` (the turns); or the
    name of a ``.wav`` file, for the sound alone. Files of these names are replaced. Times are seconds since the client connected. All files
    are whole at any moment, also when the process is killed. ``clock`` replaces the times that the client tells.

    Sound that is sent ahead of its time waits in memory, up to five minutes of it. An answer that is interrupted ends where it was cut;
    what a sink had not played when the conversation ended is left out; where nothing plays (no `play_to`) all that came is kept.
    Safe for several threads. A disk that fails ends the recording with a logged error, never the conversation.

    Raises: `ConfigError` for a path that cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], sample_rate: int = 24000, *, clock: Callable[[], float] | None = None
    ) -> None:
        self.path = pathlib.Path(path)
        self.sample_rate = sample_rate
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._events: TextIO | None = None
        self._transcript: pathlib.Path | None = None
        self._wav = self._open_files()
        self._started: float | None = None
        self._now = 0.0
        self._over = self._followed = False
        self._error: OSError | None = None
        self._input, self._output = AudioFormat(), AudioFormat()
        self._turns: Callable[[], list[Turn]] = list
        self._is_played: Callable[[], bool] = bool
        self._begins: Callable[[], float] | None = None
        self._caller = Track(sample_rate, late=_HICCUP)
        self._assistant = Track(sample_rate)
        self._spoken: list[_Spoken] = []
        self._written = 0  # samples of each channel that are in the file

    def _open_files(self) -> StereoWav:
        alone = self.path.suffix.lower() == ".wav"
        folder = self.path.parent if alone else self.path
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not alone:
                self._transcript = folder / "transcript.json"
                self._transcript.unlink(missing_ok=True)
                # A lone surrogate, which no encoding has, becomes the escape that JSON knows for it.
                self._events = open(folder / "events.jsonl", "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
            return StereoWav(self.path if alone else folder / "conversation.wav", self.sample_rate)
        except OSError as error:
            if self._events is not None:
                self._events.close()
            raise ConfigError(
                f"the recording cannot be written to {str(self.path)!r}: {error.strerror or error}", code="invalid_path"
            ) from error

    # -- what the client tells ------------------------------------------------------------------------------------------------

    def follow(
        self,
        config: RealtimeConfig,
        turns: Callable[[], list[Turn]],
        is_played: Callable[[], bool],
        begins: Callable[[], float] | None = None,
    ) -> None:
        """Learn the formats of a conversation, where its turns are to be had, and whether somebody plays its sound; before it begins.

        ``begins`` says when it began, in seconds of the client's clock; without it, it begins with the first event.

        Raises: `ConfigError` for a second conversation: its times are others, and would be laid out as hours of silence.
        """
        with self._lock:
            if self._followed or self._over:
                raise ConfigError("this recorder has had a conversation: make a Recorder for each one", code="already_used")
            self._followed = True
            self._input, self._output = config.input_audio, config.output_audio
            self._turns, self._is_played = turns, is_played
            self._begins = begins if self._clock is None else None

    def told(self, event: Event, at: float) -> None:
        """The client told an event at ``at``, in seconds of its clock."""
        turns = self._turns() if isinstance(event, (TurnDone, Closed)) else None
        with self._lock:
            if self._over:
                return
            try:
                now = self._note("received", event.to_dict(), at)
                if isinstance(event, AudioDelta):
                    self._play(event, now)
                elif isinstance(event, PlaybackStopped) and event.reason != "finished":
                    self._stop(event, now)
                elif isinstance(event, Reconnected):
                    self._spoken.clear()  # the service may count its answers anew
                self._write(now - _KEPT_BACK)
                if turns is not None:
                    self._write_turns(turns)
                if isinstance(event, Closed):
                    self._finish()
            except OSError as error:
                self._give_up(error)

    def sent(self, command: Command, at: float, audio: AudioFormat | None = None) -> float | None:
        """The client sent a command at ``at``; ``audio`` is the format of the sound in it, if not that of the configuration.

        Return where sound stands in the recording, in seconds; ``None`` for other commands, and with a clock of the recorder's own.
        """
        placed = None
        with self._lock:
            if self._over:
                return None
            try:
                now = self._note("sent", command.to_dict(), at)
                if isinstance(command, SendAudio):
                    placed = self._caller.put(command.audio, audio or self._input, now)[0] / self.sample_rate
                elif isinstance(command, TruncateItem):
                    self._shorten(command.item_id, command.audio_end_ms)
                self._write(now - _KEPT_BACK)
            except OSError as error:
                self._give_up(error)
        return placed if self._clock is None else None

    def close(self) -> None:
        """Write what is left and close the files; happens by itself with `Closed`, and only once."""
        turns = self._turns()
        with self._lock:
            if self._over:
                return
            try:
                self._write_turns(turns)
                self._finish()
            except OSError as error:
                self._give_up(error)

    @property
    def error(self) -> OSError | None:
        """What ended the recording early, like a full disk; ``None`` for one that is whole so far."""
        with self._lock:
            return self._error

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def seconds(self, at: float) -> float:
        """Return the time of the recording at ``at``, in seconds of the client's clock."""
        with self._lock:
            return at - self._started if self._started is not None else 0.0

    # -- under the lock -------------------------------------------------------------------------------------------------------

    def _note(self, direction: str, what: dict[str, Any], at: float) -> float:
        """Write a line of events.jsonl and return the time of the recording."""
        at = self._clock() if self._clock is not None else at
        if self._started is None:
            self._started = at if self._begins is None else min(at, self._begins())
        self._now = max(self._now, at - self._started)
        if self._events is not None:
            line = {"at": round(self._now, 4), "direction": direction, **what}
            self._events.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")
        return self._now

    def _play(self, event: AudioDelta, now: float) -> None:
        begins, ends = self._assistant.put(event.audio, self._output, now)
        last = self._spoken[-1] if self._spoken else None
        if last is not None and (last.response_id, last.item_id) == (event.response_id, event.item_id):
            last.ends = ends
        else:
            self._spoken = [*self._spoken[-_REMEMBERED:], _Spoken(event.response_id, event.item_id, begins, ends)]

    def _stop(self, event: PlaybackStopped, now: float) -> None:
        """Cut all that was not heard yet."""
        found = next((s for s in reversed(self._spoken) if (s.response_id, s.item_id) == (event.response_id, event.item_id)), None)
        self._assistant.cut(self._at(now) if found is None else found.begins + self._at(event.heard_ms / 1000))

    def _shorten(self, item_id: str, heard_ms: int) -> None:
        """Cut one answer where the program says that it was cut; what was said after it stays."""
        found = next((one for one in reversed(self._spoken) if one.item_id == item_id), None)
        if found is not None:
            self._assistant.erase(found.begins + self._at(heard_ms / 1000), found.ends)

    def _at(self, seconds: float) -> int:
        return max(0, round(seconds * self.sample_rate))

    def _write(self, until: float) -> None:
        longest = max(self._caller.end, self._assistant.end) - self._at(_LONGEST_AHEAD)
        end = max(self._at(until), longest)
        if end - self._written >= self._at(_WRITE_EVERY):
            self._write_samples(end)

    def _write_samples(self, end: int) -> None:
        while self._written < end:
            count = min(end - self._written, self._at(_BLOCK))
            self._wav.append(self._caller.take(count), self._assistant.take(count))
            self._written += count

    def _write_turns(self, turns: list[Turn]) -> None:
        if self._transcript is None:
            return
        new = self._transcript.with_suffix(".json.new")
        new.write_text(Conversation(turns).to_json(indent=2) + "\n", encoding="utf-8", errors="backslashreplace")
        new.replace(self._transcript)

    def _finish(self) -> None:
        self._over = True
        self._caller.end_segment()
        self._assistant.end_segment()
        if self._is_played():
            self._assistant.cut(self._at(self._now))
        self._write_samples(max(self._caller.end, self._assistant.end, self._at(self._now)))
        self._close_files()

    def _give_up(self, error: OSError) -> None:
        self._over, self._error = True, error
        _log.error("the recording in %s ended early: %s", self.path, error)
        try:
            self._close_files()
        except OSError:
            _log.debug("a file of the recording could not be closed", exc_info=True)

    def _close_files(self) -> None:
        try:
            self._wav.close()
        finally:
            if self._events is not None:
                self._events.close()
