"""The voice of a server for tests: it loads nothing before it is needed, and knows what was said to it if the test had it spoken.

Speech that `Ears.spoken` made is recognised by its loudness over time, which survives resampling, G.711 and silence around it: no
recogniser is needed and nothing is misheard. Other sound is heard by pocketsphinx if that is wanted, else as speech without words.
"""

from __future__ import annotations

import functools
import math
import threading
from array import array
from collections.abc import Iterator

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.offline.conversation import SPEECH_WITHOUT_WORDS
from qai_realtime_sync.offline.hearing import Hearing
from qai_realtime_sync.offline.listening import Listener
from qai_realtime_sync.offline.speech import HibariSpeech, Sentence, Speech, ToneSpeech
from qai_realtime_sync.offline.vad import Detector, EnergyDetector
from qai_realtime_sync.offline.voice import Voice

__all__ = ["Ears", "LazySpeech", "Shape"]

_RATE = 16000
_WINDOW = _RATE // 50  # samples: 20 ms
_SILENT = 0.002  # of full scale
_ALIKE = 0.9
_SLACK = 8  # windows that the ends may be off by
_loading = threading.Lock()  # one thread loads the voice, the others wait for it


@functools.cache
def _hibari() -> HibariSpeech | None:
    """The one voice of this process; it takes a second to load."""
    try:
        return HibariSpeech()
    except (ImportError, OSError):
        return None


@functools.cache
def _hearing() -> Hearing | None:
    try:
        return Hearing()
    except (ImportError, OSError):
        return None


@functools.lru_cache(maxsize=256)
def _spoken(text: str, rate: int, speed: float) -> tuple[Sentence, ...]:
    with _loading:
        voice = _hibari()
    return tuple((voice or ToneSpeech()).speak(text, rate, speed))


class LazySpeech:
    """Hibari where it is installed, loaded with the first word, else tones; ``light``: tones. What was said once is kept."""

    def __init__(self, light: bool = False) -> None:
        self._tones: Speech | None = ToneSpeech() if light else None

    def speak(self, text: str, rate: int, speed: float = 1.0) -> Iterator[Sentence]:
        """Yield each sentence; the same text always sounds the same."""
        yield from self._tones.speak(text, rate, speed) if self._tones is not None else _spoken(text, rate, speed)

    def load(self) -> None:
        """Load the voice if that was not done yet, so that nobody waits for it later."""
        if self._tones is None:
            with _loading:
                _hibari()

    def caller(self, text: str, rate: int) -> bytes:
        """Return text as another person says it, PCM16 at ``rate`` Hz; tones have one voice only."""
        voice = None
        if self._tones is None:
            with _loading:
                voice = _hibari()
        if voice is None:
            return b"".join(sentence.pcm for sentence in ToneSpeech().speak(text, rate))
        return _called(text, rate)


@functools.lru_cache(maxsize=256)
def _called(text: str, rate: int) -> bytes:
    voice = _hibari()
    assert voice is not None
    return _converted(voice.caller(text), 24000, rate)


def _converted(pcm: bytes, rate: int, wanted: int) -> bytes:
    if rate == wanted:
        return pcm
    converter = Converter(AudioFormat("pcm16", rate), AudioFormat("pcm16", wanted))
    return converter.convert(pcm) + converter.flush()


@attrs.frozen
class Shape:
    """How loud a piece of speech is, 20 ms by 20 ms, without the silence around it."""

    levels: tuple[float, ...]

    @classmethod
    def of(cls, pcm: bytes) -> Shape:
        """Return the shape of PCM16 at 16000 Hz."""
        samples = array("h", pcm[: len(pcm) // 2 * 2])
        levels = []
        for start in range(0, len(samples), _WINDOW):
            window = samples[start : start + _WINDOW]
            levels.append(sum(map(abs, window)) / (len(window) * 32768))
        sounding = [at for at, level in enumerate(levels) if level > _SILENT]
        return cls(tuple(levels[sounding[0] : sounding[-1] + 1]) if sounding else ())

    def likeness(self, other: Shape) -> float:
        """Return how well two shapes fit, 1 for the same: the best correlation with the ends moved a little."""
        if abs(len(self.levels) - len(other.levels)) > 2 * _SLACK or not self.levels or not other.levels:
            return 0.0
        return max(_correlation(self.levels, other.levels, shift) for shift in range(-_SLACK, _SLACK + 1))


def _correlation(one: tuple[float, ...], other: tuple[float, ...], shift: int) -> float:
    one, other = one[max(0, -shift) :], other[max(0, shift) :]
    count = min(len(one), len(other))
    one, other = one[:count], other[:count]
    if count < 2:
        return 1.0 if count else 0.0
    middle_one, middle_other = sum(one) / count, sum(other) / count
    both = sum((a - middle_one) * (b - middle_other) for a, b in zip(one, other))
    own = math.sqrt(sum((a - middle_one) ** 2 for a in one) * sum((b - middle_other) ** 2 for b in other))
    return both / own if own else 0.0


class Ears(Voice):
    """Voice and ears of one server. ``recognise`` hands what no test had spoken to pocketsphinx."""

    def __init__(self, *, light: bool = False, recognise: bool = False) -> None:
        self._speech = LazySpeech(light)
        super().__init__(self._speech, None, False, light, "for tests: recognises the speech that the test had spoken")
        self._recognise = recognise
        self._guard = threading.Lock()  # guards _known
        self._known: list[tuple[str, Shape, bool]] = []  # what was made, how it sounds, whether it was heard

    def rate(self, rate: int) -> int:
        """Return the sample rate for detectors and listeners."""
        return _RATE

    def detector(self, rate: int) -> Detector:
        """Return a gate that takes every sound for speech: tones, voices, and always the same way."""
        return EnergyDetector(_RATE)

    def release(self, detector: Detector) -> None:
        """Take a detector back."""

    def load(self) -> None:
        """Load the voice."""
        self._speech.load()

    def spoken(self, text: str, rate: int) -> bytes:
        """Return text as a caller says it, PCM16 at ``rate`` Hz, and know it when it is heard."""
        pcm = self._speech.caller(text, rate)
        self.know(text, pcm, rate)
        return pcm

    def know(self, text: str, pcm: bytes, rate: int) -> None:
        """Know these words when this sound is heard."""
        shape = Shape.of(_converted(pcm, rate, _RATE))
        with self._guard:
            self._known.append((text, shape, False))

    def listener(self, rate: int) -> Listener:
        """Return a listener for one utterance."""
        hearing = None
        if self._recognise:
            with _loading:
                hearing = _hearing()
        return _Utterance(self, hearing.listener(rate) if hearing is not None else None)

    def words_of(self, pcm: bytes) -> str | None:
        """Return what was said, if it was made here; of two that sound alike the one that was not heard before, first made first."""
        shape = Shape.of(pcm)
        with self._guard:
            rated = [(shape.likeness(known), not heard, -at) for at, (_, known, heard) in enumerate(self._known)]
            alike = [one for one in rated if one[0] >= _ALIKE]
            if not alike:
                return None
            best = max(one[0] for one in alike)
            at = -max((fresh, place) for likeness, fresh, place in alike if likeness >= best - 0.02)[1]
            text, known, _ = self._known[at]
            self._known[at] = text, known, True
            return text


class _Utterance:
    """One utterance, kept whole until it is over."""

    def __init__(self, ears: Ears, recogniser: Listener | None) -> None:
        self._ears, self._recogniser = ears, recogniser
        self._pcm = bytearray()

    def feed(self, pcm: bytes) -> str | None:
        """Take PCM16 at 16000 Hz; there are no guesses on the way."""
        self._pcm += pcm
        if self._recogniser is not None:
            self._recogniser.feed(pcm)
        return None

    def finish(self) -> str:
        """Return what was said."""
        known = self._ears.words_of(bytes(self._pcm))
        if self._recogniser is None:
            return SPEECH_WITHOUT_WORDS if known is None else known
        if known is not None:
            self._recogniser.abandon()
            return known
        return self._recogniser.finish() or SPEECH_WITHOUT_WORDS

    def abandon(self) -> None:
        """Forget the utterance."""
        if self._recogniser is not None:
            self._recogniser.abandon()
