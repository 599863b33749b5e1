"""The user's sound from anywhere: files, streams and iterators in any format, paced if wanted; muting, and how loud it is."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, TypeAlias

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.client.speaking import Speaking
from qai_realtime_sync.client.wav_in import WavIn
from qai_realtime_sync.errors import ConfigError, NotConnectedError

__all__ = ["AudioIn", "Source"]

Source: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]

_PIECES_PER_SECOND = 50
_AHEAD = 1.0  # seconds of sound that may wait to be sent while a source is read faster than it sounds
_LOOK_AGAIN = 1.0


class AudioIn(Speaking):
    """What a client does with the user's sound beside `Speaking.send_audio`."""

    def send_audio_from(
        self,
        source: Source,
        *,
        audio: AudioFormat | None = None,
        pace: bool = False,
        stop: threading.Event | None = None,
        wait: Callable[[float], object] | None = None,
    ) -> float:
        """Send all of ``source`` as the user's sound and return how many seconds of it were sent; blocks meanwhile.

        ``source``: the path of a WAV file; an open binary file, a WAV file or raw sound; bytes; or anything that yields bytes, of any
        size. WAV files may have any rate, 8 to 32 bits, floats or G.711, and several channels, which are mixed. Raw sound is in
        ``audio``, or in the configuration's input format if that is not given. ``pace=True`` sends it as fast as it sounds, as a
        microphone does; else as fast as the network takes it, at most a second ahead. It ends early when ``stop`` is set or the
        conversation is closed. ``wait(seconds)`` replaces the waiting of ``pace``.

        Raises: `ConfigError` for what is no sound; `NotConnectedError` before ``connect()``; `RealtimeError` in a handler, which would
        hold up the conversation.
        """
        call = self._call
        call.check_process()
        call.delivery.check_not_in_handler("send_audio_from")
        if call.reader is None:
            raise NotConnectedError("the sound cannot be sent: call connect() first, or use `with client:`")
        target = call.config.input_audio
        pause = wait or (stop or call.over).wait
        call.waiting.mark()  # once: what is heard while this is sent belongs to it
        started, sent, unchecked = call.clock(), 0.0, 0.0
        with _opened(source, audio or target) as sound:
            for piece in _cut(_converted(sound, target), target.sample_rate // _PIECES_PER_SECOND * target.sample_width):
                if pace and (left := started + sent - call.clock()) > 0:
                    pause(left)
                if call.closing or call.over.is_set() or (stop is not None and stop.is_set()):
                    break
                try:
                    self._send_sound(piece)
                except NotConnectedError:
                    break  # closed in this very moment
                seconds = len(piece) / target.bytes_per_second
                sent, unchecked = sent + seconds, unchecked + seconds
                if not pace and unchecked >= _AHEAD:
                    unchecked = 0.0
                    while not call.outbox.drain(_LOOK_AGAIN) and not (call.closing or (stop is not None and stop.is_set())):
                        pass  # the network is slow, or the connection is being replaced
        return sent

    def mute(self) -> None:
        """Send silence in place of the user's sound from now on: the service's clock goes on, and nobody is heard."""
        self._call.check_process()
        self._call.sound.muted = True

    def unmute(self) -> None:
        """Send the user's sound again."""
        self._call.check_process()
        self._call.sound.muted = False

    @property
    def muted(self) -> bool:
        """True between `mute` and `unmute`."""
        return self._call.sound.muted

    @property
    def input_level(self) -> float:
        """How loud the last piece was that ``send_audio`` was given, 0 (silence) to 1, muted or not; calculated when it is asked for."""
        return self._call.sound.level()


class _Sound:
    """Pieces of raw sound and their format; closes the file that was opened for it."""

    def __init__(self, pieces: Iterator[bytes], audio: AudioFormat, file: BinaryIO | None = None) -> None:
        self.pieces, self.audio, self._file = pieces, audio, file

    def __enter__(self) -> _Sound:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def _opened(source: Any, raw: AudioFormat) -> _Sound:
    if isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")  # noqa: SIM115 - closed by _Sound, or here
        except OSError as error:
            raise ConfigError(f"{str(source)!r} cannot be read: {error.strerror or error}", code="invalid_wav") from error
        try:
            wav = WavIn(file)
        except BaseException as error:
            file.close()
            if isinstance(error, ConfigError):
                raise ConfigError(f"{os.fspath(source)!r}: {error}", code=str(error.code)) from error
            raise
        return _Sound(wav.pieces(), wav.audio, file)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if callable(getattr(source, "read", None)):
        start = None if isinstance(source, io.TextIOBase) else source.read(12)
        if not isinstance(start, bytes):
            raise ConfigError("the file must be opened in binary mode, as open(path, 'rb')", code="invalid_audio")
        if start[:4] == b"RIFF" and start[8:] == b"WAVE":
            wav = WavIn(source, start)
            return _Sound(wav.pieces(), wav.audio)
        return _Sound(_read(source, start), raw)
    try:
        return _Sound(iter(source), raw)
    except TypeError:
        raise ConfigError(
            f"send_audio_from takes a path, an open file, bytes or an iterator of bytes, not {type(source).__name__}", code="invalid_audio"
        ) from None


def _read(file: Any, start: bytes) -> Iterator[bytes]:
    if start:
        yield start
    while piece := file.read(4096):
        yield piece


def _converted(sound: _Sound, target: AudioFormat) -> Iterator[bytes]:
    converter = Converter(sound.audio, target)
    for piece in sound.pieces:
        if not isinstance(piece, (bytes, bytearray, memoryview)):
            raise ConfigError(f"the source of the sound gave {type(piece).__name__}, not bytes", code="invalid_audio")
        yield converter.convert(piece)
    yield converter.flush()


def _cut(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Cut pieces of any size into small ones, without holding back what is there."""
    for piece in pieces:
        for at in range(0, len(piece), size):
            yield piece[at : at + size]
