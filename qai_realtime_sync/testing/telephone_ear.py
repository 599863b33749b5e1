"""What a telephone does with the messages of a media stream: plays them in real time, returns marks, forgets what is cleared."""

from __future__ import annotations

import collections
import json

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter, b64decode

__all__ = ["LINE", "PAUSE", "PIECE_SECONDS", "Ear", "Heard"]

LINE = AudioFormat("g711_ulaw", 8000)
PIECE_SECONDS = 0.02
PAUSE = 1.0  # seconds without sound after which what comes is a new sound, not the late rest of the last one


@attrs.define
class Heard:
    """A piece of sound: when it came, from when on it was heard (seconds of the clock), and how late it was.

    ``gap``: seconds of silence between it and the piece before it. ``behind``: seconds it came after its time, counted from the first
    piece of its sound. Both are 0.0 for what is on time.
    """

    sound: bytes
    arrived: float
    at: float
    gap: float = 0.0
    behind: float = 0.0

    @property
    def ends(self) -> float:
        """When it was heard to its end."""
        return self.at + len(self.sound) / LINE.bytes_per_second

    def heard_by(self, now: float) -> float:
        """How many seconds of it were heard by then."""
        return max(0.0, min(self.ends, now) - self.at)


class Ear:
    """Twilio's side of the sound, without threads or a lock: whoever has it guards it, and tells it the time."""

    def __init__(self, stream_sid: str) -> None:
        self._stream_sid = stream_sid
        self.dry_at = 0.0
        """When all that came will have been heard."""
        self._sound_due = 0.0
        self._fresh = True  # the next piece begins a new sound
        self._marks: collections.deque[tuple[float, str]] = collections.deque()  # when each is due
        self.heard: list[Heard] = []
        self.clears: list[float] = []
        self.problems: list[str] = []

    def take(self, message: bytes, now: float) -> None:
        """Take a message, ``b""`` for one that was no text; what Twilio would not understand is a problem."""
        try:
            told = json.loads(message)
            event = told["event"]
            if told["streamSid"] != self._stream_sid:
                raise ValueError("the streamSid is that of another stream")
            if event == "media":
                self._play(b64decode(told["media"]["payload"]), now)
            elif event == "mark":
                self._marks.append((max(self.dry_at, now), str(told["mark"]["name"])))
            elif event == "clear":
                self._clear(now)
            else:
                raise ValueError("Twilio takes media, mark and clear")
        except (ValueError, TypeError, LookupError) as error:
            self.problems.append(f"{message[:80].decode('utf-8', 'replace')!r}: {type(error).__name__}: {error}")

    def _play(self, sound: bytes, now: float) -> None:
        if self._fresh or now > self.dry_at + PAUSE:
            self.dry_at = self._sound_due = now
            self._fresh = False
        at = max(self.dry_at, now)
        self.heard.append(Heard(sound, now, at, gap=at - self.dry_at, behind=max(0.0, now - self._sound_due)))
        self.dry_at = self.heard[-1].ends
        self._sound_due += len(sound) / LINE.bytes_per_second

    def _clear(self, now: float) -> None:
        self.clears.append(now)
        while self.heard and self.heard[-1].at >= now:
            self.heard.pop()
        if self.heard and self.heard[-1].ends > now:
            last = self.heard[-1]
            last.sound = last.sound[: round((now - last.at) * LINE.bytes_per_second)]
        self._marks = collections.deque((now, name) for _, name in self._marks)
        self.dry_at, self._fresh = now, True

    def due_marks(self, now: float) -> list[str]:
        """The marks before which all was heard by now; each is given once."""
        names = []
        while self._marks and self._marks[0][0] <= now:
            names.append(self._marks.popleft()[1])
        return names

    def recording(self, began: float) -> bytes:
        """What was heard since ``began``, silence where it was silent: PCM16 at 8000 Hz."""
        line = bytearray()
        for one in self.heard:
            line += LINE.silent_byte * (round((one.at - began) * LINE.sample_rate) - len(line)) + one.sound
        return Converter(LINE, AudioFormat("pcm16", LINE.sample_rate)).convert(line)
