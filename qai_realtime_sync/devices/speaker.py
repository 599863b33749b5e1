"""The loudspeaker: plays what it is given, knows what was heard, and is silent at once when it is told to be."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO

from qai_realtime_sync.audio import AudioFormat, Converter, level
from qai_realtime_sync.devices.engine import DeviceOutput
from qai_realtime_sync.devices.files import FileOutput, PipeOutput
from qai_realtime_sync.devices.jitter import JitterBuffer
from qai_realtime_sync.devices.lines import OutputLine, check_block, check_one_end
from qai_realtime_sync.errors import ConfigError, NotConnectedError, RealtimeError

__all__ = ["Speaker"]


class Speaker:
    """For `RealtimeClient.play_to`: ``write`` never blocks, ``clear`` is heard within a block, ``played_ms`` counts what was heard.

    | argument | default | meaning |
    |---|---|---|
    | ``device`` | the system's choice | a part of a device's name, see `list_devices` |
    | ``file`` | – | a WAV file instead: what would be heard, pauses too, as it would be heard |
    | ``pipe`` | – | an open binary file instead: raw PCM16, mono, at the rate of ``audio`` |
    | ``audio`` | that of the client, else PCM16 at 24000 Hz | the format of what is written; G.711 is decoded |
    | ``jitter_ms`` | 60 | how much is collected before an answer begins to play, against a network that stutters |
    | ``block_ms`` | 20 | how much is played at a time; the device holds two such blocks |
    | ``latency_ms`` | 0 | what the device takes beyond that, a Bluetooth headset 100 to 200 |
    | ``on_lost`` | – | called with a `RealtimeError` when the device is gone, in another thread |

    ``start()`` opens it, or a ``with`` block.
    """

    def __init__(
        self,
        device: str = "",
        *,
        file: str | os.PathLike[str] | None = None,
        pipe: BinaryIO | None = None,
        audio: AudioFormat | None = None,
        jitter_ms: float = 60,
        block_ms: int = 20,
        latency_ms: float = 0,
        on_lost: Callable[[RealtimeError], object] | None = None,
        backend: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_one_end(device, file, pipe, "write")
        for name, value in (("jitter_ms", jitter_ms), ("latency_ms", latency_ms)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 5000:
                raise ConfigError(f"{name} must be 0 to 5000 milliseconds, not {value!r}", code="invalid_audio")
        check_block(audio or AudioFormat(), block_ms)
        self._device, self._file, self._pipe, self._backend = device, file, pipe, backend
        self._audio = audio
        self._jitter_ms, self._block_ms, self._latency_ms = jitter_ms, block_ms, latency_ms
        self._on_lost = on_lost
        self._clock = clock
        self._line: OutputLine | None = None
        self._is_over = False
        self._decoder: Converter | None = None
        self._buffer = self._new_buffer()
        self.error: RealtimeError | None = None
        """Why it plays no more, if that was not asked for."""

    # -- life ------------------------------------------------------------------------------------------------------------------

    @property
    def audio(self) -> AudioFormat:
        """The format of what is written."""
        return self._audio or AudioFormat()

    def adopt(self, audio: AudioFormat) -> None:
        """Learn the format of what will be written, if none was given; `RealtimeClient.play_to` does.

        Raises: `ConfigError` if it was made for another one, or plays at another rate already.
        """
        own = self.audio
        fixed = self._audio is not None or (self._line is not None and own.sample_rate != audio.sample_rate)
        if fixed and own != audio:
            raise ConfigError(
                f"this Speaker plays {own.encoding} at {own.sample_rate} Hz, and the client's sound is {audio.encoding} at "
                f"{audio.sample_rate} Hz: make it with audio=client.config.output_audio",
                code="invalid_audio",
            )
        if own != audio:
            check_block(audio, self._block_ms)
            self._audio = audio
            self._buffer = self._new_buffer() if self._line is None else self._buffer
            self._decoder = self._new_decoder()

    def start(self) -> Speaker:
        """Open the device and begin to play. Raises: `ConfigError` for what is not there; `RealtimeError` for what does not open."""
        if self._line is not None or self._is_over:
            raise ConfigError("this Speaker was started before; make a new one", code="already_used")
        line = self._new_line()
        self._buffer.latency = line.latency + self._latency_ms / 1000
        self._decoder = self._new_decoder()
        self._line = line
        try:
            line.start(self._take, self._lost)
        except BaseException:
            self._line = None
            raise
        return self

    def stop(self) -> None:
        """Be silent and close the device; from any thread, any number of times, within about a second."""
        self._is_over = True
        self._buffer.clear()
        if self._line is not None:
            self._line.stop()

    def __enter__(self) -> Speaker:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """What it plays to, for people; ``""`` before it was started."""
        return self._line.name if self._line is not None else ""

    # -- the sink --------------------------------------------------------------------------------------------------------------

    def write(self, audio: bytes) -> None:
        """Queue sound behind what still plays. Raises: `NotConnectedError` unless started; `RealtimeError` when the device is lost."""
        if self.error is not None:
            raise self.error.with_traceback(None)  # else it grows each time
        if self._line is None or self._is_over:
            raise NotConnectedError("this Speaker does not play: call start(), or use it in a `with` block", code="not_started")
        pcm = self._decoder.convert(audio) if self._decoder is not None else bytes(audio)
        self._buffer.write(pcm)

    def clear(self) -> None:
        """Stop playing and forget the rest; what the device already has, at most two blocks, is still heard."""
        self._buffer.clear()

    @property
    def played_ms(self) -> float:
        """Milliseconds of all that was written that have been heard: what the device still holds is not counted."""
        return self._buffer.played_ms

    def is_heard(self, tail: float = 0.0) -> bool:
        """True while there is sound to play, or it ended less than ``tail`` seconds ago."""
        return self._buffer.is_heard(tail)

    # -- what it took ----------------------------------------------------------------------------------------------------------

    @property
    def level(self) -> float:
        """How loud it plays, 0 (silence) to 1; calculated when it is asked for."""
        return min(1.0, level(self._buffer.last)) if self._buffer.is_heard() else 0.0

    @property
    def waiting(self) -> float:
        """Seconds of sound that wait to be played."""
        return self._buffer.waiting

    @property
    def underruns(self) -> int:
        """How often sound came too late and there was a hole in an answer: a longer ``jitter_ms`` helps."""
        return self._buffer.underruns

    @property
    def overruns(self) -> int:
        """How many pieces were dropped, since more than ten minutes waited."""
        return self._buffer.overruns

    # -- inside ----------------------------------------------------------------------------------------------------------------

    def _new_buffer(self) -> JitterBuffer:
        rate = 2 * self.audio.sample_rate
        return JitterBuffer(rate, ahead=self._jitter_ms / 1000, latency=0.0, most=600.0, clock=self._clock)

    def _new_decoder(self) -> Converter:
        """Also of PCM16: it keeps half a sample back."""
        return Converter(self.audio, AudioFormat("pcm16", self.audio.sample_rate))

    def _new_line(self) -> OutputLine:
        rate = self.audio.sample_rate
        if self._file is not None:
            return FileOutput(self._file, rate, self._block_ms)
        if self._pipe is not None:
            return PipeOutput(self._pipe, rate, self._block_ms)
        return DeviceOutput(self._device, rate, self._block_ms, self._backend)

    def _take(self, size: int) -> bytes:
        return self._buffer.take(size)

    def _lost(self, error: RealtimeError) -> None:
        self.error = error
        if self._on_lost is not None:
            self._on_lost(error)
