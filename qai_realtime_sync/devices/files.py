"""Files and pipes in place of microphone and loudspeaker: the same blocks at the same pace, without a device."""

from __future__ import annotations

import io
import logging
import math
import os
import select
import sys
import threading
import time
import wave
from collections.abc import Callable, Iterator
from typing import BinaryIO

from qai_realtime_sync.audio import AudioFormat, Chunker, Converter
from qai_realtime_sync.client.wav_in import WavIn
from qai_realtime_sync.devices.lines import Failed, lost
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["FileInput", "FileOutput", "PipeInput", "PipeOutput"]

_log = logging.getLogger("qai_realtime_sync")
_STOPS_WITHIN = 1.0
_LATE = 1.0  # seconds: who is later than that has been suspended, and does not catch up


class _Paced:
    """A thread that does something for every block, as fast as blocks sound."""

    def __init__(self, name: str, block_ms: int, thread_name: str) -> None:
        self.name = name
        self._seconds = block_ms / 1000
        self._thread_name = thread_name
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def _run(self, step: Callable[[], bool], failed: Failed) -> None:
        """Start; ``step`` returns False at the end."""

        def paced() -> None:
            due = time.monotonic()
            try:
                while not self._stopping.wait(max(0.0, due - time.monotonic())) and step():
                    due += self._seconds
                    if time.monotonic() - due > _LATE:
                        due = time.monotonic()
            except (OSError, ValueError, EOFError) as error:  # ValueError: the file was closed by somebody else
                if not self._stopping.is_set():
                    failed(lost(self.name, getattr(error, "strerror", "") or str(error) or type(error).__name__))
            except RealtimeError as error:
                failed(error)
            except Exception as error:  # a pipe may be an object of the user's own
                _log.error("%s failed", self.name, exc_info=error)
                failed(lost(self.name, f"{type(error).__name__}: {error}"))
            finally:
                self._close()

        self._thread = threading.Thread(target=paced, name=self._thread_name, daemon=True)
        self._thread.start()

    def _close(self) -> None:
        """Close what was opened; in the thread, at its end."""

    def _wake(self) -> None:
        """Wake the thread where it waits for something else than time."""

    def stop(self) -> None:
        """End the thread and wait for it, unless it is the caller's own or hangs in a write."""
        self._stopping.set()
        self._wake()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(_STOPS_WITHIN)


class FileOutput(_Paced):
    """A WAV file of what would be heard: PCM16, one channel, pauses too."""

    latency = 0.0

    def __init__(self, path: str | os.PathLike[str], rate: int, block_ms: int) -> None:
        super().__init__(f"the file {os.fspath(path)}", block_ms, "qai-speaker")
        self._path, self._rate, self._size = path, rate, rate * block_ms // 1000 * 2
        self._file: wave.Wave_write | None = None

    def start(self, take: Callable[[int], bytes], failed: Failed) -> None:
        """Open the file and begin. Raises: `ConfigError` if it cannot be written."""
        try:
            opened = open(self._path, "wb")  # noqa: SIM115 - closed by the thread
        except OSError as error:
            raise ConfigError(f"{self.name} cannot be written: {error.strerror or error}", code="invalid_path") from error
        file = wave.open(opened, "wb")  # noqa: SIM115 - closed by the thread
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(self._rate)
        self._file, self._opened = file, opened

        def step() -> bool:
            file.writeframes(take(self._size))  # also puts the header right, so that a killed process leaves a whole file
            opened.flush()
            return True

        self._run(step, failed)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._opened.close()


class PipeOutput(_Paced):
    """Raw PCM16 into an open binary file; it is not closed. Whoever reads it slower than it sounds holds up nobody but the sound."""

    latency = 0.0

    def __init__(self, pipe: BinaryIO, rate: int, block_ms: int) -> None:
        super().__init__("the output pipe", block_ms, "qai-speaker")
        self._pipe, self._size = pipe, rate * block_ms // 1000 * 2

    def start(self, take: Callable[[int], bytes], failed: Failed) -> None:
        """Begin."""

        def step() -> bool:
            self._pipe.write(take(self._size))
            self._pipe.flush()
            return True

        self._run(step, failed)


class _Input(_Paced):
    """Blocks one by one, then silence, then the end."""

    def __init__(self, name: str, rate: int, block_ms: int, silence: float) -> None:
        super().__init__(name, block_ms, "qai-microphone-input")
        self._audio = AudioFormat("pcm16", rate)
        self._size = rate * block_ms // 1000 * 2
        self._silent_blocks = math.inf if silence == math.inf else round(silence / self._seconds)
        self.said = threading.Event()

    def _give_all(self, blocks: Iterator[bytes], give: Callable[[bytes], None], ended: Callable[[], None], failed: Failed) -> None:
        def step() -> bool:
            block = b"" if self.said.is_set() else next(blocks, b"")
            if not block:
                self.said.set()
                self._silent_blocks -= 1
                if self._silent_blocks < 0:
                    ended()
                    return False
            give(block + bytes(self._size - len(block)))
            return True

        self._run(step, failed)


class FileInput(_Input):
    """A WAV file of any kind and rate, then ``silence`` seconds of silence (`math.inf`: until it is stopped)."""

    def __init__(self, path: str | os.PathLike[str], rate: int, block_ms: int, silence: float) -> None:
        super().__init__(f"the file {os.fspath(path)}", rate, block_ms, silence)
        self._path = path
        self._chunker = Chunker(self._audio, block_ms)
        self._file: BinaryIO | None = None

    def start(self, give: Callable[[bytes], None], ended: Callable[[], None], failed: Failed) -> None:
        """Open the file and begin. Raises: `ConfigError` for what cannot be read as a WAV file."""
        try:
            self._file = open(self._path, "rb")  # noqa: SIM115 - closed by the thread, or here
        except OSError as error:
            raise ConfigError(f"{os.fspath(self._path)!r} cannot be read: {error.strerror or error}", code="invalid_wav") from error
        try:
            wav = WavIn(self._file)
            converter = Converter(wav.audio, self._audio)
        except ConfigError as error:
            self._file.close()
            raise ConfigError(f"{os.fspath(self._path)!r}: {error}", code=str(error.code)) from error
        except BaseException:
            self._file.close()
            raise
        self._give_all(self._blocks(wav, converter), give, ended, failed)

    def _blocks(self, wav: WavIn, converter: Converter) -> Iterator[bytes]:
        for piece in wav.pieces():
            yield from self._chunker.feed(converter.convert(piece))
        yield from self._chunker.feed(converter.flush())
        yield self._chunker.flush()

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


class PipeInput(_Input):
    """Raw PCM16 from an open binary file, which is not closed: never faster than it sounds, and as slow as it comes."""

    def __init__(self, pipe: BinaryIO, rate: int, block_ms: int, silence: float) -> None:
        super().__init__("the input pipe", rate, block_ms, silence)
        self._pipe = pipe
        self._lock = threading.Lock()  # guards _waker
        self._waker: tuple[int, int] | None = None  # a pipe whose other end wakes a read that gets nothing

    def start(self, give: Callable[[bytes], None], ended: Callable[[], None], failed: Failed) -> None:
        """Begin."""
        descriptor = self._descriptor()
        if descriptor is not None:
            self._waker = os.pipe()
        self._give_all(iter(lambda: self._read(descriptor), None), give, ended, failed)

    def _descriptor(self) -> int | None:
        """What can be waited for together with the waker: an operating system's file, where there is `select` for it.

        Only of files whose bytes are those of their descriptor: one that unpacks, decrypts or counts chunks has one too.
        """
        known = (io.FileIO, io.BufferedReader, io.BufferedRandom, io.TextIOWrapper)
        if sys.platform == "win32" or not isinstance(self._pipe, known):
            return None
        try:
            return self._pipe.fileno()
        except (OSError, ValueError):
            return None

    def _read(self, descriptor: int | None) -> bytes:
        """Return a block, shorter at the end."""
        if descriptor is None or self._waker is None:
            return self._pipe.read(self._size)
        parts = bytearray()
        while len(parts) < self._size:
            ready = select.select([descriptor, self._waker[0]], [], [])[0]
            if self._waker[0] in ready:
                break
            piece = self._some(descriptor, self._size - len(parts))
            if not piece:
                break
            parts += piece
        return bytes(parts)

    def _some(self, descriptor: int, size: int) -> bytes:
        """What is there, at most ``size`` bytes; first what the file has read ahead, as after a header that the program read."""
        if isinstance(self._pipe, (io.BufferedReader, io.BufferedRandom)):
            return self._pipe.read1(size)  # one read of the system at most, and none beyond size
        return os.read(descriptor, size)

    def _wake(self) -> None:
        with self._lock:
            if self._waker is not None:
                os.write(self._waker[1], b"x")

    def _close(self) -> None:
        with self._lock:
            waker, self._waker = self._waker, None
        if waker is not None:
            for descriptor in waker:
                os.close(descriptor)
