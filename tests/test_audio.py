"""Sound in bytes: base64, G.711, durations, chunks and conversion, with and without the C libraries."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import sys
from array import array
from typing import Any

import pytest
from hypothesis import given, strategies as st

from qai_realtime_sync import audio
from qai_realtime_sync.audio import AudioFormat, Chunker, Converter, SampleAligner
from qai_realtime_sync.errors import ConfigError

PCM24 = AudioFormat("pcm16", 24000)
PCM16 = AudioFormat("pcm16", 16000)
PCM8 = AudioFormat("pcm16", 8000)
ULAW = AudioFormat("g711_ulaw", 8000)
ALAW = AudioFormat("g711_alaw", 8000)
OPUS = AudioFormat("opus", 48000)


@pytest.fixture
def without_pybase64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make pybase64 look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "pybase64", None)
    audio._base64.cache_clear()
    monkeypatch.setattr(audio, "_base64", audio._base64.__wrapped__)


@pytest.fixture
def without_soxr(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make soxr look as if it were not installed."""
    monkeypatch.setitem(sys.modules, "soxr", None)


def tone(rate: int, frequency: float = 440, seconds: float = 0.5, loudness: int = 10_000) -> array[int]:
    """Return a sine."""
    return array("h", [round(loudness * math.sin(2 * math.pi * frequency * n / rate)) for n in range(int(rate * seconds))])


# -- formats -----------------------------------------------------------------------------------------------------------------


def test_the_default_format_is_the_wires() -> None:
    """PCM16 at 24 kHz is what services speak by default."""
    assert AudioFormat() == AudioFormat(encoding="pcm16", sample_rate=24000)
    assert (PCM24.sample_width, PCM24.bytes_per_second) == (2, 48_000)
    assert (ULAW.sample_width, ALAW.bytes_per_second) == (1, 8000)


@pytest.mark.parametrize("arguments", [("pcm16", 0), ("pcm16", -8000), ("pcm16", "24000"), ("pcm16", 24000.0), (24000,)])
def test_a_format_that_is_none_is_told_where_it_is_made(arguments: tuple[Any, ...]) -> None:
    """A rate that is no whole number above 0, or a rate in the place of the encoding, does not wait for whoever uses it."""
    with pytest.raises(ConfigError, match=r"^AudioFormat\.(encoding|sample_rate) must be") as caught:
        AudioFormat(*arguments)
    assert caught.value.code == "invalid_audio"


def test_a_compressed_encoding_has_no_width() -> None:
    """opus can be named, but its bytes say nothing about time, so whoever asks is told."""
    for ask in (lambda: OPUS.sample_width, lambda: OPUS.bytes_per_second, lambda: audio.duration(10, OPUS)):
        with pytest.raises(ConfigError, match="no fixed sample width") as caught:
            ask()
        assert caught.value.code == "invalid_audio"
    for make in (lambda: Converter(OPUS, PCM24), lambda: Converter(PCM24, OPUS), lambda: Chunker(OPUS)):
        with pytest.raises(ConfigError):
            make()


# -- base64 ------------------------------------------------------------------------------------------------------------------


@given(st.binary())
def test_base64_there_and_back(data: bytes) -> None:
    """What is encoded decodes to the same bytes, as text, bytes and memoryview, in both alphabets."""
    text = audio.b64encode(data)
    assert text == base64.b64encode(data)
    for form in (text, text.decode(), memoryview(text), bytearray(text), base64.urlsafe_b64encode(data)):
        assert audio.b64decode(form) == data
        assert audio._standard_b64decode(text) == data
    assert audio._standard_b64encode(memoryview(data)) == text


BASE64_LIKE = st.text(alphabet="AZaz09+/=-_ \n\u00e9", max_size=12)


@given(BASE64_LIKE | st.text(max_size=8))
def test_both_decoders_agree(text: str) -> None:
    """With and without pybase64 the same texts are refused, and the others give the same bytes."""
    results = []
    for decode in (audio._base64()[1], audio._standard_b64decode):
        try:
            results.append(decode(text))
        except ValueError:
            results.append(None)
    assert results[0] == results[1]


NOT_BASE64 = ["A", "AA", "AAA", "AA=", "AAA==", "=AAA", "AA==AA==", "AA A", "AAAA\n", "AAA\u00e9", "A===", "====", "AA=A"]


@pytest.mark.parametrize("text", NOT_BASE64)
def test_what_is_no_base64_is_refused(text: str) -> None:
    """White space, wrong padding and other characters are errors whose text does not repeat the input."""
    with pytest.raises(ValueError, match=r"^not valid base64 \(\d+ characters\)$"):
        audio.b64decode(text)


@pytest.mark.usefixtures("without_pybase64")
@pytest.mark.parametrize("text", NOT_BASE64)
def test_what_is_no_base64_is_refused_without_pybase64(text: str) -> None:
    """The standard library's way refuses the same texts with the same message."""
    with pytest.raises(ValueError, match=r"^not valid base64 \(\d+ characters\)$"):
        audio.b64decode(text)


@pytest.mark.usefixtures("without_pybase64")
def test_base64_without_pybase64() -> None:
    """Without pybase64 both directions and both alphabets still work."""
    assert audio._base64()[0] is audio._standard_b64encode
    assert audio.b64decode("-_-_") == audio.b64decode("+/+/") == b"\xfb\xff\xbf"
    assert audio.b64encode(b"\x01\x02\x03") == b"AQID"


# -- G.711 -------------------------------------------------------------------------------------------------------------------

ALL_SAMPLES = array("h", range(-32768, 32768))
ALL_CODES = bytes(range(256))


@pytest.mark.parametrize(
    ("encode", "digest"),
    [
        (audio.ulaw_encode, "81d633c9e6972a18c74a58720b96cb8ca0bdd096d4060b646dd708c3b846019a"),
        (audio.alaw_encode, "38488f6fd710f4686360edc4d38639f96c491595ef93f8eb8d62d5e07ca6ce7b"),
    ],
)
def test_every_sample_is_encoded_as_g711_says(encode: object, digest: str) -> None:
    """The codes of all 65,536 samples are those of ITU-T G.711 (digest of an independent implementation's output)."""
    assert hashlib.sha256(encode(little_endian(ALL_SAMPLES))).hexdigest() == digest  # type: ignore[operator]


@pytest.mark.parametrize(
    ("decode", "digest"),
    [
        (audio.ulaw_decode, "3dab54339e520bb2c924826e3b72a917a2b612e9fd12fc867500f1d983a75827"),
        (audio.alaw_decode, "e04788d110e58ff8c70c93b8480190d973e3b67876b6119abbaec766cc75c174"),
    ],
)
def test_every_code_is_decoded_as_g711_says(decode: object, digest: str) -> None:
    """The samples of all 256 codes are those of ITU-T G.711 (digest of an independent implementation's output)."""
    assert hashlib.sha256(decode(ALL_CODES)).hexdigest() == digest  # type: ignore[operator]


def little_endian(samples: array[int]) -> bytes:
    """Return samples as PCM16."""
    return struct.pack(f"<{len(samples)}h", *samples)


@pytest.mark.parametrize(
    ("code", "ulaw", "alaw"),
    [(0x00, -32124, -5504), (0x80, 32124, 5504), (0xFF, 0, 848), (0x7F, 0, -848), (0xD5, 716, 8), (0x55, -716, -8)],
)
def test_known_codes(code: int, ulaw: int, alaw: int) -> None:
    """Some rows of the G.711 tables, scaled to 16 bit."""
    assert struct.unpack("<h", audio.ulaw_decode(bytes([code]))) == (ulaw,)
    assert struct.unpack("<h", audio.alaw_decode(bytes([code]))) == (alaw,)


@given(st.binary())
def test_codes_survive_there_and_back(codes: bytes) -> None:
    """Decoding and encoding again gives the same code; of µ-law's two zeros the positive one."""
    assert audio.alaw_encode(audio.alaw_decode(codes)) == codes
    assert audio.ulaw_encode(audio.ulaw_decode(codes)) == codes.replace(b"\x7f", b"\xff")


def test_half_a_sample_is_refused() -> None:
    """Where whole samples are wanted, an odd number of bytes is the program's error, and the message says what helps."""
    for call in (audio.ulaw_encode, audio.alaw_encode, audio.rms, audio.level):
        with pytest.raises(ConfigError, match="SampleAligner") as caught:
            call(b"\x00\x01\x02")
        assert caught.value.code == "invalid_audio"


def test_any_buffer_is_taken() -> None:
    """bytes, bytearray and memoryview give the same."""
    pcm = little_endian(tone(8000, seconds=0.01))
    for form in (bytearray(pcm), memoryview(pcm)):
        assert audio.ulaw_encode(form) == audio.ulaw_encode(pcm)
        assert audio.rms(form) == audio.rms(pcm)
    assert audio.ulaw_decode(memoryview(b"\x00")) == audio.ulaw_decode(b"\x00")


# -- durations and loudness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "audio_format", "ms"), [(480, PCM24, 10), (960, PCM24, 20), (959, PCM24, 19), (160, ULAW, 20), (0, ALAW, 0)]
)
def test_durations(size: int, audio_format: AudioFormat, ms: int) -> None:
    """Bytes, or their number, have a duration; whole milliseconds are rounded down."""
    assert audio.duration_ms(size, audio_format) == audio.duration_ms(bytes(size), audio_format) == ms
    assert audio.duration(bytes(size), audio_format) == audio.duration(size, audio_format) == size / audio_format.bytes_per_second


@pytest.mark.parametrize(("audio_format", "byte"), [(PCM24, 0), (ULAW, 0xFF), (ALAW, 0xD5)])
def test_silence(audio_format: AudioFormat, byte: int) -> None:
    """Silence has the length that was asked for, and nothing is quieter."""
    quiet = audio.silence(0.02, audio_format)
    assert set(quiet) == {byte}
    assert audio.duration_ms(quiet, audio_format) == 20
    pcm = Converter(audio_format, AudioFormat("pcm16", audio_format.sample_rate)).convert(quiet)
    assert audio.rms(pcm) <= 8


def test_there_is_no_silence_of_a_compressed_sound() -> None:
    """Opus has no bytes that mean silence, and that is what one is told."""
    with pytest.raises(ConfigError, match="'opus' has no fixed sample width"):
        audio.silence(1, AudioFormat("opus"))


def test_loudness() -> None:
    """Silence is 0, a full-scale square wave is 1, a sine is its amplitude over the root of two."""
    assert audio.level(b"") == audio.rms(b"") == audio.level(bytes(100)) == 0
    assert audio.level(struct.pack("<2h", -32768, -32768)) == 1.0
    assert audio.rms(little_endian(tone(8000))) == pytest.approx(10_000 / math.sqrt(2), rel=1e-3)


# -- cutting -----------------------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=50)), st.integers(1, 3))
def test_the_aligner_gives_whole_samples_and_loses_nothing(pieces: list[bytes], width: int) -> None:
    """Whatever the pieces, each output is whole samples, and all outputs with the carry are the input."""
    aligner = SampleAligner(width)
    out = [aligner.feed(piece) for piece in pieces]
    assert all(len(part) % width == 0 for part in out)
    assert len(aligner.carry) < width
    assert b"".join(out) + aligner.carry == b"".join(pieces)
    aligner.reset()
    assert aligner.carry == b""


@given(st.lists(st.binary(max_size=700)))
def test_the_chunker_gives_equal_chunks_and_loses_nothing(pieces: list[bytes]) -> None:
    """Whatever the pieces, each chunk has 20 ms, and the chunks with the rest are the input up to half a sample."""
    chunker = Chunker(PCM8)
    chunks = [chunk for piece in pieces for chunk in chunker.feed(memoryview(piece))]
    assert {len(chunk) for chunk in chunks} <= {320}
    rest = chunker.flush()
    whole = b"".join(pieces)
    assert b"".join(chunks) + rest == whole[: len(whole) // 2 * 2]
    assert len(rest) < 320
    assert chunker.flush() == b""


def test_the_last_chunk_can_be_filled_up() -> None:
    """`flush(pad=True)` adds silence of the encoding up to a whole chunk, and nothing to nothing."""
    chunker = Chunker(ULAW, ms=10)
    assert chunker.feed(b"\x01" * 81) == [b"\x01" * 80]
    assert chunker.flush(pad=True) == b"\x01" + b"\xff" * 79
    assert chunker.flush(pad=True) == b""


@pytest.mark.parametrize("ms", [0, -20])
def test_a_chunk_is_whole_samples(ms: int) -> None:
    """A chunk that is no whole number of samples, or empty, is refused."""
    with pytest.raises(ConfigError, match="use 20 ms"):
        Chunker(PCM24, ms=ms)
    with pytest.raises(ConfigError, match="use 20 ms"):
        Chunker(AudioFormat("pcm16", 11025), ms=15)


# -- converting --------------------------------------------------------------------------------------------------------------


def test_the_same_format_passes_untouched() -> None:
    """Nothing is changed between equal formats; only half samples wait for their other half."""
    converter = Converter(PCM24, PCM24)
    assert converter.convert(b"\x01\x02\x03") + converter.convert(b"\x04") == b"\x01\x02\x03\x04"
    assert converter.flush() == b""


def test_g711_to_pcm_and_back() -> None:
    """At one rate only the encoding changes."""
    assert Converter(ULAW, PCM8).convert(ALL_CODES) == audio.ulaw_decode(ALL_CODES)
    assert Converter(PCM8, ALAW).convert(little_endian(ALL_SAMPLES)) == audio.alaw_encode(little_endian(ALL_SAMPLES))
    assert Converter(ULAW, ALAW).convert(ALL_CODES) == audio.alaw_encode(audio.ulaw_decode(ALL_CODES))


RATES = [(24000, 8000), (8000, 24000), (16000, 24000), (24000, 16000), (48000, 24000), (8000, 48000), (32000, 24000)]


def check_conversion(source: int, target: int, tolerance: float) -> None:
    """Convert a tone in odd pieces; it must be the same tone at the other rate, as long and in place."""
    converter = Converter(AudioFormat("pcm16", source), AudioFormat("pcm16", target))
    pcm = little_endian(tone(source))
    for _ in range(2):  # the second round shows that flush() starts anew
        out = b"".join(converter.convert(pcm[start : start + 641]) for start in range(0, len(pcm), 641)) + converter.flush()
        made, wanted = array("h", out), tone(target)
        assert abs(len(made) - len(wanted)) <= 1
        middle = range(len(wanted) // 4, len(wanted) * 3 // 4)
        assert max(abs(made[n] - wanted[n]) for n in middle) < tolerance


@pytest.mark.parametrize(("source", "target"), RATES)
def test_rates_of_small_ratios_without_soxr(without_soxr: None, source: int, target: int) -> None:
    """The filter of our own keeps a tone to less than a thousandth, whole in length and in place."""
    check_conversion(source, target, 10)


@pytest.mark.parametrize(("source", "target"), [*RATES, (44100, 24000), (24000, 11025)])
def test_any_rates_with_soxr(source: int, target: int) -> None:
    """soxr converts between any two rates behind the same calls."""
    pytest.importorskip("soxr", reason="needs soxr")
    check_conversion(source, target, 40)


@given(st.lists(st.integers(0, 200), max_size=12), st.sampled_from([(3, 1), (1, 3), (2, 3), (3, 2), (6, 1), (1, 6), (5, 4)]))
def test_how_the_sound_is_cut_does_not_matter(cuts: list[int], ratio: tuple[int, int]) -> None:
    """Pieces of any size give the same samples as one piece, and as many as the ratio says."""
    samples = tone(8000, seconds=0.06)
    resampler = audio._RatioResampler(*ratio)
    whole = resampler.convert(samples) + resampler.flush()
    pieces, at = array("h"), 0
    for cut in [*cuts, len(samples)]:
        pieces += resampler.convert(samples[at : at + cut])
        at += cut
    pieces += resampler.flush()
    assert pieces == whole
    assert len(whole) == math.ceil(len(samples) * ratio[0] / ratio[1])


@pytest.mark.parametrize(("source", "target"), [(24000, 8000), (48000, 8000), (24000, 16000)])
def test_what_the_lower_rate_cannot_hold_is_filtered_out(without_soxr: None, source: int, target: int) -> None:
    """A tone above half the lower rate does not come back as another one: it is 40 dB down."""
    converter = Converter(AudioFormat("pcm16", source), AudioFormat("pcm16", target))
    high = little_endian(tone(source, frequency=target * 0.6))
    out = converter.convert(high) + converter.flush()
    middle = out[len(out) // 4 // 2 * 2 : len(out) * 3 // 4 // 2 * 2]
    assert audio.rms(middle) < audio.rms(high) / 100


def test_loud_sound_is_clipped_not_wrapped(without_soxr: None) -> None:
    """A filter overshoots at a full-scale edge; the result stays at full scale instead of jumping to the other end."""
    converter = Converter(PCM8, PCM24)
    square = little_endian(array("h", ([32767] * 40 + [-32768] * 40) * 10))
    made = array("h", converter.convert(square) + converter.flush())
    assert max(made) == 32767
    assert min(made) == -32768
    assert all(made[n] > 0 for n in range(30, 90))


def test_the_own_filter_is_fast_to_answer(without_soxr: None) -> None:
    """Of 20 ms of sound less than 3 ms stay in the filter."""
    out = Converter(PCM24, PCM8).convert(bytes(960))
    assert audio.duration(out, PCM8) > 0.017


def test_other_ratios_need_soxr(without_soxr: None) -> None:
    """Without soxr a ratio of large numbers is refused with the line that installs it."""
    with pytest.raises(ConfigError, match=r"pip install 'qai-realtime-sync\[resample\]'") as caught:
        Converter(AudioFormat("pcm16", 44100), PCM24)
    assert caught.value.code == "missing_dependency"


def test_a_telephone_both_ways() -> None:
    """A second of µ-law to the wire's rate and back is a second of µ-law that sounds the same."""
    up, down = Converter(ULAW, PCM24), Converter(PCM24, ULAW)
    codes = audio.ulaw_encode(little_endian(tone(8000, seconds=1)))
    wide = b"".join(up.convert(codes[start : start + 160]) for start in range(0, 8000, 160)) + up.flush()
    back = down.convert(wide) + down.flush()
    assert len(wide) == 48_000
    assert len(back) == 8000
    assert audio.rms(audio.ulaw_decode(back)) == pytest.approx(audio.rms(audio.ulaw_decode(codes)), rel=0.02)


def test_g711_is_fast_enough_for_many_calls() -> None:
    """A second of sound is encoded and decoded in a few milliseconds at most (measured: 0.25 ms)."""
    import time

    pcm = little_endian(tone(8000, seconds=1))
    audio.ulaw_decode(audio.ulaw_encode(pcm))
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        audio.ulaw_decode(audio.ulaw_encode(pcm))
        best = min(best, time.perf_counter() - start)
    assert best < 0.005
