"""Sound in bytes: formats, base64, G.711, durations, chunks and sample rates.

Everything here is pure. PCM16 is signed 16 bit, little endian, one channel. pybase64 and soxr are used where they are installed;
without them the standard library gives the same base64, and a filter of our own converts between rates of small ratios.
"""

from __future__ import annotations

import binascii
import functools
import math
import operator
import sys
from array import array
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import attrs

from qai_realtime_sync.errors import ConfigError

__all__ = [
    "AudioFormat",
    "Chunker",
    "Converter",
    "SampleAligner",
    "alaw_decode",
    "alaw_encode",
    "b64decode",
    "b64encode",
    "duration",
    "duration_ms",
    "level",
    "rms",
    "silence",
    "ulaw_decode",
    "ulaw_encode",
]

Buffer: TypeAlias = bytes | bytearray | memoryview


def _check_encoding(owner: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"AudioFormat.encoding must be text, such as 'pcm16', not {value!r}", code="invalid_audio")


def _check_rate(owner: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        is_rate = operator.index(value) > 0
    except TypeError:
        is_rate = False
    if not is_rate:
        raise ConfigError(f"AudioFormat.sample_rate must be a whole number of Hz above 0, not {value!r}", code="invalid_audio")


@attrs.frozen
class AudioFormat:
    """How sound is written: ``encoding`` and ``sample_rate`` in Hz; always one channel.

    ``pcm16`` is signed 16 bit, little endian; ``g711_ulaw`` and ``g711_alaw`` have one byte per sample. ``opus`` is compressed:
    it can be named, but has no bytes per sample and no duration by length.

    Raises: `ConfigError` for a rate that is no whole number above 0.
    """

    encoding: str = attrs.field(default="pcm16", validator=_check_encoding)
    sample_rate: int = attrs.field(default=24000, validator=_check_rate)

    @property
    def sample_width(self) -> int:
        """Bytes per sample: 2 for pcm16, 1 for G.711. Raises: `ConfigError` for a compressed encoding."""
        try:
            return _WIDTHS[self.encoding]
        except KeyError:
            raise ConfigError(
                f"{self.encoding!r} has no fixed sample width, so its length says nothing about its duration; "
                f"use one of {', '.join(_WIDTHS)}",
                code="invalid_audio",
            ) from None

    @property
    def silent_byte(self) -> bytes:
        """The byte that silence is made of. Raises: `ConfigError` for a compressed encoding."""
        self.sample_width  # noqa: B018 - raises
        return _SILENCE[self.encoding]

    @property
    def bytes_per_second(self) -> int:
        """How many bytes one second of sound takes. Raises: `ConfigError` for a compressed encoding."""
        return self.sample_width * self.sample_rate


_WIDTHS: Final = {"pcm16": 2, "g711_ulaw": 1, "g711_alaw": 1}
_SILENCE: Final = {"pcm16": b"\x00", "g711_ulaw": b"\xff", "g711_alaw": b"\xd5"}

# -- base64 ------------------------------------------------------------------------------------------------------------------

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")


def _standard_b64encode(data: Buffer) -> bytes:
    return binascii.b2a_base64(data, newline=False)


def _standard_b64decode(text: str | Buffer) -> bytes:
    data = text.encode("ascii") if isinstance(text, str) else bytes(text)
    # Python 3.10 has no strict mode, so what is not the alphabet is looked at here: nothing, or one or two "=" at the very end.
    rest = data.translate(None, _ALPHABET)
    if len(data) % 4 or rest not in (b"", b"=", b"==") or not data.endswith(rest):
        raise binascii.Error("not base64")
    return binascii.a2b_base64(data)


@functools.cache
def _base64() -> tuple[Callable[[Buffer], bytes], Callable[[str | Buffer], bytes]]:
    try:
        import pybase64
    except ImportError:
        return _standard_b64encode, _standard_b64decode
    decode = pybase64.b64decode
    # Without validation it is two to four times slower, and skips what is not base64; positional, because it is called for each sound.
    return pybase64.b64encode, lambda text: decode(text, None, True)


def b64encode(data: Buffer) -> bytes:
    """Return the standard base64 of ``data`` with padding, as ASCII bytes without line breaks."""
    return _base64()[0](data)


def b64decode(text: str | Buffer) -> bytes:
    """Return the bytes that padded base64 stands for; both alphabets (``+/`` and ``-_``) are read.

    Raises: `ValueError` for white space, wrong padding or any other character; the message does not repeat the text.
    """
    decode = _base64()[1]
    try:
        return decode(text)
    except ValueError:
        pass  # rare: the other alphabet, or no base64 at all
    try:
        data = text.encode("ascii") if isinstance(text, str) else bytes(text)
        return decode(data.translate(_TO_STANDARD))
    except ValueError:
        raise ValueError(f"not valid base64 ({len(text)} characters)") from None


# -- G.711 -------------------------------------------------------------------------------------------------------------------


def _ulaw_to_linear(code: int) -> int:
    """Expand one µ-law code to 16 bit (source: ITU-T G.711, table 2)."""
    code = ~code & 0xFF
    value = (((code & 0x0F) << 3) + 0x84 << (code >> 4 & 7)) - 0x84
    return -value if code & 0x80 else value


def _alaw_to_linear(code: int) -> int:
    """Expand one A-law code to 16 bit (source: ITU-T G.711, table 1)."""
    code ^= 0x55
    segment = code >> 4 & 7
    value = ((code & 0x0F) << 4) + (0x108 if segment else 8)
    value <<= max(segment - 1, 0)
    return value if code & 0x80 else -value


def _linear_to_ulaw(sample: int) -> int:
    """Compress 16 bit to one µ-law code (source: ITU-T G.711, table 2); 14 bits count."""
    mask = 0xFF  # the bias of 33 makes each segment begin at a power of 2
    sample >>= 2
    if sample < 0:
        sample, mask = -sample, 0x7F
    sample = min(sample + 33, 8191)
    segment = sample.bit_length() - 6
    return (segment << 4 | sample >> segment + 1 & 0x0F) ^ mask


def _linear_to_alaw(sample: int) -> int:
    """Compress 16 bit to one A-law code (source: ITU-T G.711, table 1); 13 bits count, every other bit is inverted."""
    mask = 0xD5
    sample >>= 3
    if sample < 0:
        sample, mask = -sample - 1, 0x55
    segment = max(sample.bit_length() - 5, 0)
    return (segment << 4 | sample >> max(segment, 1) & 0x0F) ^ mask


@functools.cache
def _decode_tables(encoding: str) -> tuple[bytes, bytes]:
    """Return two tables for `bytes.translate`: code to low byte, code to high byte of the sample."""
    expand = _ulaw_to_linear if encoding == "g711_ulaw" else _alaw_to_linear
    samples = [expand(code) & 0xFFFF for code in range(256)]
    return bytes(sample & 0xFF for sample in samples), bytes(sample >> 8 for sample in samples)


@functools.cache
def _encode_table(encoding: str) -> list[int]:
    """Return the code of each sample, by the sample read as an unsigned number (made at first use in 20 ms; 0.5 MB)."""
    compress = _linear_to_ulaw if encoding == "g711_ulaw" else _linear_to_alaw
    return [compress(sample - 0x10000 if sample & 0x8000 else sample) for sample in range(0x10000)]


def _decode(data: Buffer, encoding: str) -> bytes:
    low, high = _decode_tables(encoding)
    codes = bytes(data)
    pcm = bytearray(2 * len(codes))
    pcm[0::2] = codes.translate(low)
    pcm[1::2] = codes.translate(high)
    return bytes(pcm)


def _encode(pcm: Buffer, encoding: str) -> bytes:
    table = _encode_table(encoding)
    return bytes([table[sample] for sample in _samples(pcm, "H")])  # half the time of map() over a bytes table


def ulaw_decode(data: Buffer) -> bytes:
    """Return the PCM16 of G.711 µ-law sound: two bytes for each one."""
    return _decode(data, "g711_ulaw")


def alaw_decode(data: Buffer) -> bytes:
    """Return the PCM16 of G.711 A-law sound: two bytes for each one."""
    return _decode(data, "g711_alaw")


def ulaw_encode(pcm: Buffer) -> bytes:
    """Return the G.711 µ-law form of PCM16 sound: one byte for every two. Raises: `ConfigError` for half a sample."""
    return _encode(pcm, "g711_ulaw")


def alaw_encode(pcm: Buffer) -> bytes:
    """Return the G.711 A-law form of PCM16 sound: one byte for every two. Raises: `ConfigError` for half a sample."""
    return _encode(pcm, "g711_alaw")


# -- samples, durations, loudness --------------------------------------------------------------------------------------------


def _samples(pcm: Buffer, kind: str = "h") -> array[int]:
    """Return the samples of PCM16 as numbers: ``h`` signed, ``H`` unsigned."""
    if len(pcm) % 2:
        raise ConfigError(
            f"PCM16 has two bytes per sample, but {len(pcm)} bytes were given; "
            "pass whole samples (SampleAligner keeps half ones back)",
            code="invalid_audio",
        )
    samples = array(kind, bytes(pcm))
    if sys.byteorder == "big":  # pragma: no cover - needs such a machine
        samples.byteswap()
    return samples


def _pcm(samples: array[int]) -> bytes:
    if sys.byteorder == "big":  # pragma: no cover - needs such a machine
        samples.byteswap()
    return samples.tobytes()


def duration(audio: Buffer | int, audio_format: AudioFormat) -> float:
    """Return how many seconds ``audio`` (bytes, or their number) lasts. Raises: `ConfigError` for a compressed encoding."""
    return (audio if isinstance(audio, int) else len(audio)) / audio_format.bytes_per_second


def duration_ms(audio: Buffer | int, audio_format: AudioFormat) -> int:
    """Return how many whole milliseconds ``audio`` (bytes, or their number) lasts, rounded down: never more than there is.

    Raises: `ConfigError` for a compressed encoding.
    """
    return (audio if isinstance(audio, int) else len(audio)) * 1000 // audio_format.bytes_per_second


def silence(seconds: float, audio_format: AudioFormat) -> bytes:
    """Return ``seconds`` of silence in whole samples. Raises: `ConfigError` for a compressed encoding."""
    return audio_format.silent_byte * (audio_format.sample_width * round(seconds * audio_format.sample_rate))


def rms(pcm: Buffer) -> float:
    """Return the root mean square of PCM16 in sample units, 0 to 32768. Raises: `ConfigError` for half a sample."""
    samples = _samples(pcm)
    return math.sqrt(sum(map(operator.mul, samples, samples)) / len(samples)) if samples else 0.0


def level(pcm: Buffer) -> float:
    """Return how loud PCM16 is, from 0 (silence) to 1 (a full-scale square wave). Raises: `ConfigError` for half a sample."""
    return rms(pcm) / 32768


# -- cutting -----------------------------------------------------------------------------------------------------------------


class SampleAligner:
    """Takes bytes cut anywhere and returns whole samples; ``carry`` holds the begun one."""

    def __init__(self, sample_width: int = 2) -> None:
        self.sample_width = sample_width
        self.carry = b""

    def feed(self, data: Buffer) -> bytes:
        """Return all whole samples there are by now, perhaps ``b""``."""
        whole = self.carry + data if self.carry else bytes(data)
        cut = len(whole) % self.sample_width
        if not cut:
            self.carry = b""
            return whole
        self.carry = whole[-cut:]
        return whole[:-cut]

    def reset(self) -> None:
        """Forget the begun sample: what comes next starts a new sound."""
        self.carry = b""


class Chunker:
    """Takes bytes cut anywhere and returns chunks of ``ms`` milliseconds each, as telephones and services like them.

    Raises: `ConfigError` if ``ms`` is no whole number of samples, or for a compressed encoding.
    """

    def __init__(self, audio_format: AudioFormat, ms: int = 20) -> None:
        samples, rest = divmod(audio_format.sample_rate * ms, 1000)
        if samples < 1 or rest:
            raise ConfigError(
                f"{ms} ms are not a whole number of samples at {audio_format.sample_rate} Hz; use 20 ms", code="invalid_audio"
            )
        self.size = samples * audio_format.sample_width
        self._format = audio_format
        self._kept = bytearray()

    def feed(self, data: Buffer) -> list[bytes]:
        """Return all whole chunks there are by now, in order; the rest is kept."""
        self._kept += data
        end = len(self._kept) - len(self._kept) % self.size
        if not end:
            return []
        whole = bytes(self._kept[:end])
        del self._kept[:end]
        return [whole[start : start + self.size] for start in range(0, end, self.size)]

    def flush(self, *, pad: bool = False) -> bytes:
        """Return what is left, shorter than a chunk, and start anew; half a sample is dropped. ``pad`` fills up with silence."""
        width = self._format.sample_width
        rest = bytes(self._kept[: len(self._kept) - len(self._kept) % width])
        self._kept.clear()
        return rest + _SILENCE[self._format.encoding] * (self.size - len(rest)) if pad and rest else rest


# -- converting --------------------------------------------------------------------------------------------------------------

_CROSSINGS: Final = 16  # half the filter's length in zero crossings: 60 dB down, flat up to 0.78 of the lower rate's half
_LARGEST_RATIO: Final = 6


class _RatioResampler:
    """A polyphase low-pass filter for rates whose ratio is up:down in small numbers (Kaiser window, delay taken out)."""

    def __init__(self, up: int, down: int) -> None:
        self._up, self._down = up, down
        phases = _filter(up, down)
        self._taps = len(phases[0])
        self._phases = phases
        self._delay = _CROSSINGS * max(up, down)  # of the filter, at the rate up × source
        self._start()

    def _start(self) -> None:
        self._kept = [0.0] * self._taps  # the newest of these is the sample number self._seen - 1
        self._seen = 0
        self._made = 0

    def convert(self, samples: array[int]) -> array[int]:
        self._seen += len(samples)
        return self._filter(samples, (self._seen * self._up - 1 - self._delay) // self._down + 1)

    def flush(self) -> array[int]:
        wanted = -(-self._seen * self._up // self._down)
        tail = array("h", bytes(2 * (self._delay // self._up + 1)))
        self._seen += len(tail)
        made = self._filter(tail, wanted)
        self._start()
        return made

    def _filter(self, samples: array[int], end: int) -> array[int]:
        """Return the outputs from the next one up to number ``end``; all inputs they need have come."""
        taps, phases, up, down = self._taps, self._phases, self._up, self._down
        buffer = self._kept + list(map(float, samples))
        first = self._seen - len(buffer)  # the number of the sample at buffer[0]
        out = array("h")
        for position in range(self._made * down + self._delay, max(end, 0) * down + self._delay, down):
            newest, phase = divmod(position, up)
            at = newest - first + 1
            value = round(sum(map(operator.mul, phases[phase], buffer[at - taps : at])))
            out.append(min(max(value, -32768), 32767))
        self._made += len(out)
        oldest = (self._made * down + self._delay) // up - taps + 1 - first
        self._kept = buffer[max(oldest, 0) :]
        return out


@functools.cache
def _filter(up: int, down: int) -> list[list[float]]:
    """Return the taps of each phase, oldest sample first."""
    factor = max(up, down)
    half = _CROSSINGS * factor
    cutoff = 0.9 / factor  # of half the common rate
    response = [_sinc(n, cutoff) * _bessel(6.0 * math.sqrt(1 - (n / half) ** 2)) for n in range(-half, half + 1)]
    response += [0.0] * (-len(response) % up)
    phases = [response[phase::up][::-1] for phase in range(up)]
    return [[tap / sum(phase) for tap in phase] for phase in phases]  # each phase keeps a constant as it is


def _sinc(n: int, cutoff: float) -> float:
    """Return the ideal low-pass response at sample ``n`` from its middle."""
    return math.sin(math.pi * cutoff * n) / (math.pi * n) if n else cutoff


def _bessel(x: float) -> float:
    """Return the modified Bessel function of order 0, by its series."""
    total = term = 1.0
    for k in range(1, 40):
        term *= (x / (2 * k)) ** 2
        total += term
    return total


class _SoxrResampler:
    """soxr behind the same two calls; its first output comes after about 80 ms of sound."""

    def __init__(self, soxr: Any, source: int, target: int) -> None:
        import numpy

        self._numpy = numpy
        self._stream = soxr.ResampleStream(source, target, 1, dtype="int16", quality="HQ")

    def convert(self, samples: array[int], last: bool = False) -> array[int]:
        made = self._stream.resample_chunk(self._numpy.frombuffer(samples, dtype=self._numpy.int16), last=last)
        return array("h", made.tobytes())

    def flush(self) -> array[int]:
        made = self.convert(array("h"), last=True)
        self._stream.clear()
        return made


def _resampler(source: int, target: int) -> _RatioResampler | _SoxrResampler:
    try:
        import soxr
    except ImportError:
        common = math.gcd(source, target)
        up, down = target // common, source // common
        if max(up, down) > _LARGEST_RATIO:
            raise ConfigError(
                f"converting sound from {source} Hz to {target} Hz needs soxr, which is not installed; "
                "pip install 'qai-realtime-sync[resample]', or use a rate like 8000, 16000, 24000 or 48000 Hz",
                code="missing_dependency",
            ) from None
        return _RatioResampler(up, down)
    return _SoxrResampler(soxr, source, target)


class Converter:
    """Turns sound of one format into another as it comes: decode, change the rate, encode. Not for two threads at once.

    Rates are changed by soxr where it is installed, else by a filter for ratios of numbers up to 6 (8, 16, 24, 48 kHz and so on).

    Raises: `ConfigError` for a compressed encoding, and for other ratios without soxr.
    """

    def __init__(self, source: AudioFormat, target: AudioFormat) -> None:
        self.source, self.target = source, target
        self._aligner = SampleAligner(source.sample_width)
        self._resampler: _RatioResampler | _SoxrResampler | None = None
        target.sample_width  # noqa: B018 - raises for a compressed encoding
        if source.sample_rate != target.sample_rate:
            self._resampler = _resampler(source.sample_rate, target.sample_rate)

    def convert(self, data: Buffer) -> bytes:
        """Return the sound that is ready by now, in whole samples; half a sample and the filter's last milliseconds are kept."""
        return self._change(self._aligner.feed(data), self._resampler.convert if self._resampler else None)

    def flush(self) -> bytes:
        """Return what the filter still holds, and start anew; half a sample is dropped."""
        self._aligner.reset()
        return self._encoded(_pcm(self._resampler.flush())) if self._resampler else b""

    def _change(self, data: bytes, resample: Callable[[array[int]], array[int]] | None) -> bytes:
        if self.source == self.target:
            return data
        pcm = data if self.source.encoding == "pcm16" else _decode(data, self.source.encoding)
        return self._encoded(_pcm(resample(_samples(pcm))) if resample else pcm)

    def _encoded(self, pcm: bytes) -> bytes:
        return pcm if self.target.encoding == "pcm16" else _encode(pcm, self.target.encoding)
