"""English words out of speech, with pocketsphinx (its only owner), as it comes."""

from __future__ import annotations

import threading
from typing import Any

__all__ = ["Hearing"]

_FRAME = 640  # bytes: 20 ms at 16 kHz; pocketsphinx holds the interpreter for each call, so the calls stay short
_GUESS_EVERY = 10  # frames
# What the recogniser assumes of a channel before it has heard any of it (cepstral means). Its own assumption is for a wide band; with it
# two of three words are wrong over a telephone line (8 kHz), with means taken from such a line one of six. Set before every
# utterance, so that what one caller said does not change how the next one is understood.
_WIDE = "40,3,-1,0,0,0,0,0,0,0,0,0,0"
_NARROW = "42.97,27.23,-36.04,34.06,-17.53,-1.8,8.24,-22.06,23.13,-7.07,-1.55,8.25,-15.03"
_NARROW_RATE = 8000
_LONGEST_WAIT = 5.0  # seconds


class Hearing:
    """A small pool of recognisers, made when they are first needed; each takes about 90 MB.

    Raises: ImportError without pocketsphinx.
    """

    def __init__(self, most: int = 4) -> None:
        import pocketsphinx

        self._pocketsphinx: Any = pocketsphinx
        self._most = most
        self._changed = threading.Condition()  # guards the two below
        self._idle: list[Any] = [self._make()]
        self._lent = 0

    def _make(self) -> Any:
        return self._pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")

    def listener(self, rate: int) -> Utterance:
        """Return a listener for one utterance of a stream that was sent at ``rate`` Hz."""
        return Utterance(self, _NARROW if rate <= _NARROW_RATE else _WIDE)

    def borrow(self, wait: bool) -> Any | None:
        """Return a recogniser, or ``None`` if all listen to others and ``wait`` is false.

        Who waits gets an extra one after a while: others may hold theirs for as long as a key is pressed.
        """
        with self._changed:
            if self._lent >= self._most and not (wait and self._wait()):
                return None
            self._lent += 1
            if self._idle:
                return self._idle.pop()
        return self._make()

    def _wait(self) -> bool:
        self._changed.wait_for(lambda: self._lent < self._most, _LONGEST_WAIT)
        return True

    def give_back(self, decoder: Any) -> None:
        """Take a recogniser back that is between two utterances; of the extra ones none is kept."""
        with self._changed:
            self._lent -= 1
            if len(self._idle) < self._most:
                self._idle.append(decoder)
            self._changed.notify()


class Utterance:
    """One utterance; while all recognisers are busy it keeps the sound and catches up later."""

    def __init__(self, hearing: Hearing, channel: str) -> None:
        self._hearing, self._channel = hearing, channel
        self._decoder: Any | None = None
        self._waiting = bytearray()
        self._frames = 0
        self._text = ""

    def feed(self, pcm: bytes) -> str | None:
        """Take PCM16 at 16 kHz; return what was said so far when that changed."""
        self._waiting += pcm
        if not self._begin(wait=False):
            return None
        self._work(len(self._waiting) - len(self._waiting) % _FRAME)
        if self._frames < _GUESS_EVERY:
            return None
        self._frames = 0
        text = self._hypothesis()
        if text == self._text:
            return None
        self._text = text
        return text

    def finish(self) -> str:
        """Return what was said (``""`` if no word was recognised)."""
        self._begin(wait=True)
        self._work(len(self._waiting))
        return self._end()

    def abandon(self) -> None:
        """Forget the utterance."""
        if self._decoder is not None:
            self._end()

    def _begin(self, wait: bool) -> bool:
        if self._decoder is None:
            self._decoder = self._hearing.borrow(wait)
            if self._decoder is not None:
                self._decoder.set_cmn(self._channel)
                self._decoder.start_utt()
        return self._decoder is not None

    def _work(self, upto: int) -> None:
        assert self._decoder is not None
        for at in range(0, upto, _FRAME):
            self._decoder.process_raw(bytes(self._waiting[at : min(at + _FRAME, upto)]), False, False)
            self._frames += 1
        del self._waiting[:upto]

    def _hypothesis(self) -> str:
        hypothesis = self._decoder.hyp() if self._decoder is not None else None
        return " ".join(hypothesis.hypstr.split()) if hypothesis is not None else ""

    def _end(self) -> str:
        decoder, self._decoder = self._decoder, None
        assert decoder is not None
        try:
            decoder.end_utt()
            hypothesis = decoder.hyp()
            return " ".join(hypothesis.hypstr.split()) if hypothesis is not None else ""
        finally:
            self._hearing.give_back(decoder)
