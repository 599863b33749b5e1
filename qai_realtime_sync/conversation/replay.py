"""Reads a recording back: its events and commands in order, with their times, and the sound that was heard."""

from __future__ import annotations

import json
import os
import pathlib
import wave
from collections.abc import Iterator
from typing import Any

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.commands import Command, SendAudio, command_from_dict
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.conversation.record import Conversation
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import AudioDelta, Event, PlaybackStopped, event_from_dict

__all__ = ["Entry", "Recording"]

_HICCUP = 0.04  # seconds: as the recorder lays the caller's sound


@attrs.frozen
class Entry:
    """One line of a recording: what happened ``at`` seconds; ``begins`` is where its sound stands in the recording."""

    at: float
    what: Event | Command
    begins: float | None = None


class Recording:
    """A folder that a `Recorder` wrote.

    ``config`` says in which formats the sound is wanted: those of the conversation that was recorded. What of the assistant's sound was
    not heard, or is not in the recording, is silence; so is the user's.

    Raises: `ConfigError` for a folder without ``events.jsonl``, and while it is read for a line that is none; a last line that is cut
    off, as a killed process may leave it, is left out.
    """

    def __init__(self, path: str | os.PathLike[str], config: RealtimeConfig | None = None) -> None:
        self.path = pathlib.Path(path)
        self._config = config or RealtimeConfig()
        self._lines = self.path / "events.jsonl"
        if not self._lines.is_file():
            raise ConfigError(
                f"{str(self.path)!r} is no recording: there is no events.jsonl in it; a recording of the sound alone cannot be replayed",
                code="invalid_path",
            )

    @property
    def conversation(self) -> Conversation:
        """The turns as they were written down at the end; none if there was no end. Raises: `ConfigError`."""
        transcript = self.path / "transcript.json"
        return Conversation.from_json(transcript.read_bytes()) if transcript.is_file() else Conversation()

    def entries(self) -> Iterator[Entry]:
        """Yield what happened, in order; the file is read as it goes."""
        heard = _Heard(self.path / "conversation.wav", self._config.output_audio)
        spoken = 0.0
        own = self._config.input_audio
        try:
            with open(self._lines, encoding="utf-8", errors="replace") as lines:
                for number, line in enumerate(lines, 1):
                    try:
                        at, what = self._read(line, number)
                    except ConfigError:
                        if line.endswith("\n"):
                            raise
                        return  # cut off in the middle: what wrote it was killed
                    begins = None
                    if isinstance(what, AudioDelta):
                        begins, what.audio = heard.sound(at, len(what.audio))
                    elif isinstance(what, PlaybackStopped) and what.reason != "finished":
                        heard.stop(at)
                    elif isinstance(what, SendAudio):
                        begins = at if at - spoken > _HICCUP else spoken
                        spoken = begins + len(what.audio) / own.bytes_per_second
                    yield Entry(at, what, begins)
        except OSError as error:
            raise ConfigError(f"the recording {str(self._lines)!r} cannot be read: {error}", code="invalid_recording") from error
        finally:
            heard.close()

    def _read(self, line: str, number: int) -> tuple[float, Event | Command]:
        try:
            value: dict[str, Any] = json.loads(line)
            at, sent = float(value["at"]), value["direction"] == "sent"
            if sent:
                return at, command_from_dict(value, self._config.input_audio)
            return at, event_from_dict(value, self._config.output_audio)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigError(f"line {number} of {str(self._lines)!r} is not of a recording: {error}", code="invalid_recording") from error


class _Heard:
    """The assistant's channel, read where the recorder put each piece."""

    def __init__(self, path: pathlib.Path, wanted: AudioFormat) -> None:
        self._wanted = wanted
        self._ends = 0.0
        self._file: wave.Wave_read | None = None
        if path.is_file():
            try:
                self._file = wave.open(str(path), "rb")  # noqa: SIM115 - closed by close()
            except (OSError, EOFError, wave.Error) as error:
                raise ConfigError(f"{str(path)!r} cannot be read as a WAV file: {error}", code="invalid_wav") from error

    def sound(self, at: float, size: int) -> tuple[float, bytes]:
        """Return where ``size`` bytes that came ``at`` seconds were heard, and what they sound like."""
        seconds = size / self._wanted.bytes_per_second
        begins = max(at, self._ends)
        self._ends = begins + seconds
        silent = self._wanted.silent_byte * size
        file = self._file
        if file is None or file.getnchannels() != 2 or file.getsampwidth() != 2:
            return begins, silent
        rate = file.getframerate()
        first = min(round(begins * rate), file.getnframes())
        file.setpos(first)
        frames = file.readframes(round(seconds * rate))
        pcm = bytearray(len(frames) // 2)
        pcm[0::2], pcm[1::2] = frames[2::4], frames[3::4]
        converter = Converter(AudioFormat("pcm16", rate), self._wanted)
        sound = converter.convert(bytes(pcm)) + converter.flush()
        return begins, sound[:size] + silent[len(sound) :]

    def stop(self, at: float) -> None:
        """What had not been heard at ``at`` is not in the recording; what comes next begins then."""
        self._ends = min(self._ends, at)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
