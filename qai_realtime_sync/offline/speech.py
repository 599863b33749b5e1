"""The voice of the server: hibari where it is installed, else a tone per syllable (the only owner of hibari-tts and of numpy here)."""

from __future__ import annotations

import functools
import importlib
import math
import re
import threading
from array import array
from collections.abc import Iterator
from typing import Any, Protocol

import attrs

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.offline.items import Word

__all__ = ["HibariSpeech", "Sentence", "Speech", "ToneSpeech", "sentences_of"]

_END = re.compile(r"(?<=[.!?…])\s+")
_CLAUSE = re.compile(r"(?<=[,;:])\s+")


@attrs.frozen
class Sentence:
    """A piece of speech: PCM16 in the rate that was asked for, and when each word is heard, in ms from the piece's start."""

    pcm: bytes
    words: list[Word]


class Speech(Protocol):
    """Turns text into sound, sentence by sentence, so that the first one can go out early. Safe for several threads."""

    def speak(self, text: str, rate: int, speed: float = 1.0) -> Iterator[Sentence]:
        """Yield each sentence of ``text`` at ``rate`` Hz; the joined words are the text with single spaces."""
        ...


def sentences_of(text: str) -> list[str]:
    """Return the sentences of a text; a very long one is cut at commas, so that speech starts soon and no model is overfed."""
    pieces = []
    for sentence in _END.split(" ".join(text.split())):
        pieces += [sentence] if len(sentence) <= 240 else _CLAUSE.split(sentence)
    return [piece for piece in pieces if piece]


def timed_words(text: str, duration_ms: float, first: bool) -> list[Word]:
    """Return the words of a sentence with times in proportion to their length; ``first`` leaves out the very first space."""
    words = text.split()
    weights = [len(word) + 1.5 for word in words]
    scale = duration_ms / sum(weights) if words else 0.0
    timed, at = [], 0.0
    for number, (word, weight) in enumerate(zip(words, weights)):
        timed.append(Word(word if first and not number else " " + word, at, at + weight * scale))
        at += weight * scale
    return timed


class HibariSpeech:
    """Natural English from hibari's own voice, about two hundred times faster than it is spoken. Raises: ImportError without it."""

    def __init__(self) -> None:
        # By name: neither is a requirement of the package, and hibari has no types.
        self._numpy: Any = importlib.import_module("numpy")
        self._model: Any = importlib.import_module("hibari").Hibari()
        self._lock = threading.Lock()  # guards the text-to-phoneme part of the model, which was not made for two threads
        next(iter(self._model.stream("Ready.", seed=1)))  # loads what the first sentence would wait for

    def speak(self, text: str, rate: int, speed: float = 1.0) -> Iterator[Sentence]:
        """Yield each sentence; the same text always sounds the same."""
        for number, sentence in enumerate(sentences_of(text)):
            pcm = self.pcm(sentence, speed)
            if rate != self._model.sample_rate:
                converter = Converter(AudioFormat("pcm16", self._model.sample_rate), AudioFormat("pcm16", rate))
                pcm = converter.convert(pcm) + converter.flush()
            yield Sentence(pcm, timed_words(sentence, len(pcm) / 2 * 1000 / rate, number == 0))

    def pcm(self, text: str, speed: float = 1.0) -> bytes:
        """Return PCM16 at 24 kHz of one text."""
        with self._lock:
            phonemes = self._model.phonemize(text)
        pieces = [self._model.from_phonemes(piece, speed, seed=1) for piece in phonemes]
        if not pieces:
            return bytes(2400 * 2)  # nothing to pronounce: 100 ms of silence
        numpy = self._numpy
        # Doubled: hibari speaks at a third of full scale, services at about two thirds.
        made: bytes = (numpy.clip(numpy.concatenate(pieces) * 2, -1.0, 1.0) * 32767).astype("<i2").tobytes()
        return made

    def caller(self, text: str, pitch: float = 0.8) -> bytes:
        """Return PCM16 at 24 kHz in another voice: spoken faster, then played slower, so that it is deeper at the same pace."""
        source = AudioFormat("pcm16", round(24000 * pitch))
        converter = Converter(source, AudioFormat("pcm16", 24000))
        pcm = b"".join(self.pcm(sentence, 1 / pitch) for sentence in sentences_of(text))
        return converter.convert(pcm) + converter.flush()


class ToneSpeech:
    """A short tone for each syllable, 5 to 6 a second: no words, but the length, pauses and loudness of speech, for next to nothing."""

    _tones = (196, 220, 247, 262, 294)
    _syllable = re.compile(r"[aeiouy]+", re.IGNORECASE)

    def speak(self, text: str, rate: int, speed: float = 1.0) -> Iterator[Sentence]:
        """Yield each sentence as tones, with a pause of 200 ms after it."""
        for number, sentence in enumerate(sentences_of(text)):
            pcm = bytearray()
            words: list[Word] = []
            for word in sentence.split():
                start = len(pcm)
                for _ in range(max(1, len(self._syllable.findall(word)))):
                    pcm += _tone(self._tones[(len(pcm) // 2 + len(word)) % len(self._tones)], rate, 0.17 / speed)
                text_of = word if not (number or words) else " " + word
                words.append(Word(text_of, start / 2 * 1000 / rate, len(pcm) / 2 * 1000 / rate))
            pcm += bytes(2 * round(rate * 0.2))
            yield Sentence(bytes(pcm), words)


@functools.lru_cache(maxsize=256)
def _tone(frequency: int, rate: int, seconds: float) -> bytes:
    """Return a tone that swells and fades, and 15 % of silence after it, as PCM16."""
    count = round(rate * seconds)
    sounding = round(count * 0.85)
    samples = array("h", bytes(2 * count))
    for position in range(sounding):
        swell = math.sin(math.pi * position / sounding)
        samples[position] = round(9000 * swell * math.sin(2 * math.pi * frequency * position / rate))
    return samples.tobytes()
