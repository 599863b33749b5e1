"""Sound on its way: whole samples, and the program's format turned into the service's and back where they differ."""

from __future__ import annotations

import threading

from qai_realtime_sync.audio import AudioFormat, Converter, SampleAligner, level
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.errors import ConfigError

__all__ = ["SoundPath"]

_MOST_ANSWERS = 16  # whose sound is converted at the same time


class SoundPath:
    """Both directions of one conversation. Outgoing may be used by several threads, incoming by the one that delivers."""

    def __init__(self, config: RealtimeConfig) -> None:
        self._ours_in, self._ours_out = config.input_audio, config.output_audio
        self._lock = threading.Lock()  # guards the outgoing half, so that two threads' samples are not torn apart
        self._aligner = SampleAligner(self._ours_in.sample_width)
        self._outgoing: Converter | None = None
        self._incoming_formats: tuple[AudioFormat, AudioFormat] | None = None
        # By answer: one beside the conversation may be told between the pieces of another, and each has a filter's state of its own.
        self._incoming: dict[str, Converter] = {}
        self._idle: Converter | None = None  # of an answer that is over: a filter takes a millisecond to make
        self.muted = False
        self.last = b""  # what was given last of the user's sound
        self.converts_incoming = False
        """True if the service's sound has to be turned into ours."""

    def service_wants(self, taken: AudioFormat | None, sent: AudioFormat | None) -> None:
        """The service takes and sends these formats; ``None`` = what the configuration says."""
        with self._lock:
            self._outgoing = self._converter(self._outgoing, self._ours_in, taken)
        formats = (sent, self._ours_out) if sent is not None and sent != self._ours_out else None
        if formats != self._incoming_formats:
            self._incoming.clear()
            self._idle = Converter(*formats) if formats is not None else None
        self._incoming_formats = formats
        self.converts_incoming = formats is not None

    @property
    def sends(self) -> AudioFormat:
        """The format of the sound that goes out."""
        converter = self._outgoing
        return self._ours_in if converter is None else converter.target

    def outgoing(self, audio: bytes | bytearray | memoryview) -> bytes:
        """Return what can be sent now: whole samples in the service's format, perhaps ``b""``."""
        with self._lock:
            self.last = whole = self._aligner.feed(audio)
            if self.muted:
                whole = self._ours_in.silent_byte * len(whole)
            return self._outgoing.convert(whole) if self._outgoing is not None else whole

    def level(self, seconds: float | None = None) -> float:
        """How loud the last piece of the user's sound was, or its last ``seconds``: 0 (silence) to 1, muted or not."""
        own, sound = self._ours_in, self.last
        if seconds is not None:
            sound = sound[-round(seconds * own.sample_rate) * own.sample_width :]
        pcm = Converter(own, AudioFormat("pcm16", own.sample_rate)).convert(sound)
        return min(1.0, level(pcm))

    def outgoing_end(self) -> bytes:
        """The user has finished: return the rest. Raises: `ConfigError` if half a sample is left."""
        with self._lock:
            if self._aligner.carry:
                self._aligner.reset()
                raise ConfigError(
                    "the sound sent so far ends in the middle of a sample: pcm16 has two bytes per sample, and an odd number of "
                    "bytes was given; check that the sound is 16 bit, or send the missing byte before commit_audio()",
                    code="invalid_audio",
                )
            return self._outgoing.flush() if self._outgoing is not None else b""

    def outgoing_clear(self) -> None:
        """Forget what is kept of the user's sound."""
        with self._lock:
            self._aligner.reset()
            if self._outgoing is not None:
                self._outgoing.flush()

    def incoming(self, audio: bytes, response_id: str = "") -> bytes:
        """Return a piece of an answer's sound in the program's format."""
        if self._incoming_formats is None:
            return audio
        converter = self._incoming.get(response_id)
        if converter is None:
            converter, self._idle = self._idle or Converter(*self._incoming_formats), None
            self._incoming[response_id] = converter
            if len(self._incoming) > _MOST_ANSWERS:
                del self._incoming[next(iter(self._incoming))]  # its end was never told
        return converter.convert(audio)

    def incoming_end(self, response_id: str = "") -> bytes:
        """Return what the conversion of an answer's sound still holds; what comes next of it begins anew."""
        converter = self._incoming.pop(response_id, None)
        if converter is None:
            return b""
        self._idle = converter
        return converter.flush()

    @staticmethod
    def _converter(old: Converter | None, source: AudioFormat | None, target: AudioFormat | None) -> Converter | None:
        if source is None or target is None or source == target:
            return None
        if old is not None and (old.source, old.target) == (source, target):
            return old  # the filter's state belongs to the running sound
        return Converter(source, target)
