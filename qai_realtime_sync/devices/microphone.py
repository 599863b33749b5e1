"""The microphone: gives blocks of 20 ms, keeps some if nobody takes them, and can be deaf while the loudspeaker plays."""

from __future__ import annotations

import collections
import logging
import os
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO

from qai_realtime_sync.audio import AudioFormat, Chunker, Converter, level
from qai_realtime_sync.client.wakeup import Changes
from qai_realtime_sync.devices.engine import DeviceInput
from qai_realtime_sync.devices.files import FileInput, PipeInput
from qai_realtime_sync.devices.lines import InputLine, check_block, check_one_end
from qai_realtime_sync.devices.speaker import Speaker
from qai_realtime_sync.errors import ConfigError, NotConnectedError, OutboxFullError, RealtimeError, RealtimeTimeoutError

__all__ = ["Microphone"]

_log = logging.getLogger("qai_realtime_sync")


class Microphone:
    """Sound from a device, a file or a pipe, in blocks: `read` one, iterate over them, or `send_to` a client.

    | argument | default | meaning |
    |---|---|---|
    | ``device`` | the system's choice | a part of a device's name, see `list_devices` |
    | ``file`` | – | a WAV file instead, as fast as it sounds; then ``silence_after`` seconds of silence, then the end |
    | ``pipe`` | – | an open binary file instead: raw PCM16, mono, at the rate of ``audio``; then the same |
    | ``audio`` | PCM16 at 24000 Hz | the format of the blocks: ``client.config.input_audio``; G.711 is encoded |
    | ``half_duplex`` | – | a `Speaker`: while it is heard, and ``tail`` (0.3) seconds after, the blocks are silence, against echo |
    | ``block_ms`` | 20 | how long a block is |
    | ``most_waiting`` | 1.0 | seconds that are kept when nobody takes them; then the oldest are dropped and counted (a file waits) |
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
        half_duplex: Speaker | None = None,
        tail: float = 0.3,
        block_ms: int = 20,
        most_waiting: float = 1.0,
        silence_after: float = 0.0,
        on_lost: Callable[[RealtimeError], object] | None = None,
        backend: str = "",
    ) -> None:
        check_one_end(device, file, pipe, "read")
        for name, value in (("tail", tail), ("most_waiting", most_waiting), ("silence_after", silence_after)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
                raise ConfigError(f"{name} must be a number of seconds, 0 or more, not {value!r}", code="invalid_audio")
        if half_duplex is not None and not isinstance(half_duplex, Speaker):
            raise ConfigError(f"half_duplex must be the Speaker that is heard, not {type(half_duplex).__name__}", code="invalid_device")
        self.audio = audio or AudioFormat()
        """The format of the blocks."""
        check_block(self.audio, block_ms)
        pcm = AudioFormat("pcm16", self.audio.sample_rate)
        self._encoder = Converter(pcm, self.audio)
        self._chunker = Chunker(pcm, block_ms)
        self._line = self._new_line(device, file, pipe, pcm.sample_rate, block_ms, silence_after, backend)
        self._half_duplex, self._tail = half_duplex, tail
        self._on_lost = on_lost
        self._most = max(1, round(most_waiting * 1000 / block_ms))
        self._can_wait = file is not None or pipe is not None  # for whoever takes the blocks: nothing is lost of a file
        self._lock = threading.Lock()  # guards everything below
        self._changes = Changes(self._lock)
        self._blocks: collections.deque[bytes] = collections.deque()
        self._started = self._over = False
        self._last = b""
        self._sender: threading.Thread | None = None
        self.overruns = 0
        """How many blocks were dropped: nobody took them in time."""
        self.error: RealtimeError | None = None
        """Why it gives no more sound, if that was not asked for."""

    @staticmethod
    def _new_line(
        device: str, file: str | os.PathLike[str] | None, pipe: BinaryIO | None, rate: int, block_ms: int, silence: float, backend: str
    ) -> InputLine:
        if file is not None:
            return FileInput(file, rate, block_ms, silence)
        if pipe is not None:
            return PipeInput(pipe, rate, block_ms, silence)
        return DeviceInput(device, rate, block_ms, backend)

    # -- life ------------------------------------------------------------------------------------------------------------------

    def start(self) -> Microphone:
        """Open the device and begin to listen. Raises: `ConfigError` for what is not there; `RealtimeError` for what does not open."""
        if self._started:
            raise ConfigError("this Microphone was started before; make a new one", code="already_used")
        self._started = True
        try:
            self._line.start(self._give, self._ended, self._lost)
        except BaseException:
            self._started = False
            raise
        return self

    def stop(self) -> None:
        """Close the device; whoever waits for a block gets the end. From any thread, any number of times, within about two seconds."""
        self._finish(None)
        self._line.stop()
        sender = self._sender
        if sender is not None and sender is not threading.current_thread():
            sender.join(1.0)

    def __enter__(self) -> Microphone:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def name(self) -> str:
        """What it listens to, for people."""
        return self._line.name

    # -- taking ----------------------------------------------------------------------------------------------------------------

    def read(self, timeout: float | None = None) -> bytes:
        """Return the next block, or ``b""`` after the last one.

        Raises: `RealtimeTimeoutError` if none comes in time; `RealtimeError` when the device is lost; `NotConnectedError` unless started.
        """
        if not self._started:
            raise NotConnectedError("this Microphone does not listen: call start(), or use it in a `with` block", code="not_started")
        taken: list[bytes] = []

        def take() -> bool:
            if self._blocks:
                taken.append(self._blocks.popleft())
                self._changes.tell()  # there is room for the next block of a file
            return bool(taken) or self.error is not None or self._over

        if not self._changes.wait_for(take, timeout):
            raise RealtimeTimeoutError(f"no sound came within {timeout:g} s")
        if taken:
            return taken[0]
        if self.error is not None:
            raise self.error.with_traceback(None)  # else it grows each time
        return b""

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks until the end. Raises: `RealtimeError` when the device is lost."""
        while block := self.read():
            yield block

    def send_to(self, send: Callable[[bytes], object]) -> None:
        """Give every block from now on to ``send``, like ``client.send_audio``, in a thread of its own, until the end of either.

        What ``send`` raises ends it and is told as if the device were lost; a full outbox drops a block and counts it in `overruns`.

        Raises: `ConfigError` if it does that already; `NotConnectedError` before ``start()``.
        """
        if not self._started:
            raise NotConnectedError("this Microphone does not listen: call start(), or use it in a `with` block", code="not_started")
        with self._lock:
            if self._sender is not None:
                raise ConfigError("this Microphone sends already; use another one for a second receiver", code="already_used")
            if not self._can_wait:
                self._blocks.clear()  # what was said before is not for this receiver
            self._sender = threading.Thread(target=self._send, args=(send,), name="qai-microphone", daemon=True)
        self._sender.start()

    def _send(self, send: Callable[[bytes], object]) -> None:
        try:
            for block in self:
                try:
                    send(block)
                except OutboxFullError:
                    with self._lock:
                        self.overruns += 1
        except NotConnectedError:
            self._finish(None)  # the conversation is over
        except RealtimeError as error:
            if error is not self.error:  # a lost device was told already
                self._lost(error)
        except Exception as error:
            _log.error("what the microphone sends to failed", exc_info=error)
            self._lost(RealtimeError(f"what the microphone sends to failed: {type(error).__name__}: {error}", code="device_failed"))

    # -- what it hears ---------------------------------------------------------------------------------------------------------

    @property
    def level(self) -> float:
        """How loud the last block was, 0 (silence) to 1, half-duplex or not; calculated when it is asked for."""
        with self._lock:
            last = self._last
        return min(1.0, level(last))

    @property
    def is_said(self) -> bool:
        """True once the sound of the file or pipe was given, and only silence follows; a device never ends by itself."""
        return self._line.said.is_set() or self.is_over

    @property
    def is_over(self) -> bool:
        """True after the end of the file or pipe, or once it is stopped or lost."""
        with self._lock:
            return self._over

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it `is_over`; return whether it is."""
        return self._changes.wait_for(lambda: self._over, timeout)

    # -- inside: called by the line, in its thread ------------------------------------------------------------------------------

    def _give(self, pcm: bytes) -> None:
        speaker = self._half_duplex
        is_deaf = speaker is not None and speaker.is_heard(self._tail)
        for block in self._chunker.feed(pcm):
            encoded = self._encoder.convert(bytes(len(block)) if is_deaf else block)
            if self._can_wait:
                self._changes.wait_for(lambda: len(self._blocks) < self._most or self._over)
            with self._lock:
                if self._over:
                    return
                self._last = block
                self._blocks.append(encoded)
                while len(self._blocks) > self._most:
                    self._blocks.popleft()
                    self.overruns += 1
                self._changes.tell()

    def _ended(self) -> None:
        self._finish(None)

    def _lost(self, error: RealtimeError) -> None:
        self._finish(error)
        if self._on_lost is not None:
            self._on_lost(error)

    def _finish(self, error: RealtimeError | None) -> None:
        with self._lock:
            if error is not None and self.error is None:
                self.error = error
            self._over = True
            self._changes.tell()
