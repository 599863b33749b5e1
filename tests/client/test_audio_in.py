"""The user's sound from files, streams and iterators, in many formats; pacing, muting, and how loud it is."""

from __future__ import annotations

import base64
import io
import math
import pathlib
import struct
import threading
from array import array
from collections.abc import Iterator
from typing import Any

import pytest

from qai_realtime_sync import ConfigError, NotConnectedError, RealtimeClient, RealtimeConfig, RealtimeError
from qai_realtime_sync.audio import AudioFormat, Converter, level, silence, ulaw_encode
from qai_realtime_sync.client.wav_in import WavIn
from tests.servers import Service, Talk, service

OWN = AudioFormat()
TONE_24K = array("h", (round(9000 * math.sin(2 * math.pi * 440 * at / 24000)) for at in range(12000))).tobytes()  # 0.5 s


@pytest.fixture
def peer() -> Iterator[Service]:
    with service() as running:
        yield running


def received(talk: Talk, client: RealtimeClient) -> bytes:
    """All sound that the service was sent so far."""
    talk.fence(client)
    return b"".join(base64.b64decode(value["audio"]) for value in list(talk.received) if value["type"] == "input_audio_buffer.append")


def wav(
    data: bytes, *, tag: int = 1, channels: int = 1, rate: int = 24000, bits: int = 16, before: bytes = b"", size: int | None = None
) -> bytes:
    block = bits // 8 * channels
    body = struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits)
    if tag == 0xFFFE:
        body += struct.pack("<HHIH14s", 22, bits, 0, 1, b"\x00" * 14)
    chunks = (
        before + b"fmt " + struct.pack("<I", len(body)) + body + b"data" + struct.pack("<I", len(data) if size is None else size) + data
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def stereo(pcm: bytes) -> bytes:
    samples = array("h", pcm)
    both = array("h", bytes(4 * len(samples)))
    both[0::2], both[1::2] = samples, samples
    return both.tobytes()


def wide(pcm: bytes, width: int) -> bytes:
    return b"".join(b"\x7f" * (width - 2) + pcm[at : at + 2] for at in range(0, len(pcm), 2))


SAME = {
    "16 bit": wav(TONE_24K),
    "two channels": wav(stereo(TONE_24K), channels=2),
    "24 bit": wav(wide(TONE_24K, 3), bits=24),
    "32 bit": wav(wide(TONE_24K, 4), bits=32),
    "extensible": wav(TONE_24K, tag=0xFFFE),
    "another chunk first": wav(TONE_24K, before=b"LIST" + struct.pack("<I", 3) + b"abc\x00"),
    "a streamed one, without a length": wav(TONE_24K, size=0),
    "a length beyond the end": wav(TONE_24K, size=0xFFFFFFF0),
    "bytes behind the sound": wav(TONE_24K) + b"LIST" + struct.pack("<I", 4) + b"junk",
}


@pytest.mark.parametrize("kind", SAME)
def test_every_kind_of_wav_gives_the_same_samples(kind: str) -> None:
    """However whole samples are written in a file, they come out unchanged."""
    reader = WavIn(io.BytesIO(SAME[kind]))
    assert reader.audio == OWN
    assert b"".join(reader.pieces()) == TONE_24K


def test_coarser_files_come_near() -> None:
    """8 bits, floats and G.711 give the same sound within what they can hold."""
    samples = array("h", TONE_24K)
    files = {
        "8 bit": (wav(bytes((sample >> 8) + 128 for sample in samples), bits=8), 256),
        "float": (wav(struct.pack(f"<{len(samples)}f", *(s / 32767 for s in samples)), tag=3, bits=32), 1),
        "µ-law": (wav(ulaw_encode(TONE_24K), tag=7, bits=8), 300),
        "two channels of µ-law": (wav(b"".join(bytes([code, code]) for code in ulaw_encode(TONE_24K)), tag=7, bits=8, channels=2), 300),
    }
    for kind, (data, error) in files.items():
        reader = WavIn(io.BytesIO(data))
        pcm = Converter(reader.audio, AudioFormat("pcm16", reader.audio.sample_rate)).convert(b"".join(reader.pieces()))
        assert max(abs(a - b) for a, b in zip(array("h", pcm), samples)) <= error, kind
        assert len(pcm) == len(TONE_24K)
    for bits, kind in ((32, "f"), (64, "d")):
        odd = wav(struct.pack(f"<6{kind}", math.nan, 7.0, -7.0, math.inf, -math.inf, 0.5), tag=3, bits=bits)
        assert array("h", b"".join(WavIn(io.BytesIO(odd)).pieces())).tolist() == [0, 32767, -32768, 32767, -32768, 16384]


class Dripping(io.RawIOBase):
    """A pipe that gives a few bytes at a time."""

    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._most = io.BytesIO(data), most

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._most) if size >= 0 else self._most)


@pytest.mark.parametrize("most", [1, 3, 1000])
def test_a_pipe_may_give_less_than_asked(most: int) -> None:
    """Samples and headers are put together from whatever pieces come."""
    data = wav(stereo(TONE_24K)[:4000], channels=2)
    assert b"".join(WavIn(Dripping(data, most)).pieces()) == TONE_24K[:2000]
    assert b"".join(WavIn(Dripping(data[:-1], most)).pieces()) == TONE_24K[:1998], "half a sample at the end is dropped"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends before"),
        (b"ID3 and so on, no sound", "does not begin"),
        (wav(b"", tag=85), "kind 85"),
        (wav(b"", bits=12), "12 bits"),
        (wav(b"", channels=0), "kind 1"),
        (wav(b"")[:30], "ends before"),
        (b"RIFF\x00\x00\x00\x00WAVEdata\x00\x00\x00\x00", "before its format"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt \x02\x00\x00\x00\x00\x00", "takes 2 bytes"),
    ],
)
def test_what_is_no_wav_file_is_refused_in_words(data: bytes, words: str) -> None:
    """A file of another kind is a mistake that the message explains."""
    with pytest.raises(ConfigError, match=words):
        WavIn(io.BytesIO(data))


def test_a_file_of_another_rate_is_sent_in_the_clients_own(peer: Service, tmp_path: pathlib.Path) -> None:
    """A WAV file of 16 kHz in stereo arrives whole at 24 kHz, and the call says how long it was."""
    narrow = Converter(OWN, AudioFormat("pcm16", 16000))
    path = tmp_path / "caller.wav"
    path.write_bytes(wav(stereo(narrow.convert(TONE_24K) + narrow.flush()), rate=16000, channels=2))
    with peer.client() as client:
        assert client.send_audio_from(path) == pytest.approx(0.5, abs=0.01)
        sound = received(peer.talk(), client)
    assert len(sound) == pytest.approx(len(TONE_24K), abs=500)
    assert level(sound) == pytest.approx(level(TONE_24K), rel=0.05)


@pytest.mark.parametrize("kind", ["path text", "wav file", "raw file", "bytes", "iterator", "list", "bytearray"])
def test_every_source_is_sent_whole(kind: str, peer: Service, tmp_path: pathlib.Path) -> None:
    """Paths, open files of both kinds, bytes and whatever yields bytes: each byte arrives once, in order."""
    path = tmp_path / "caller.wav"
    path.write_bytes(wav(TONE_24K))
    cuts = [TONE_24K[at : at + 1001] for at in range(0, len(TONE_24K), 1001)]  # through the middle of samples
    sources: dict[str, Any] = {
        "path text": str(path),
        "wav file": io.BytesIO(wav(TONE_24K)),
        "raw file": io.BytesIO(TONE_24K),
        "bytes": TONE_24K,
        "iterator": iter(cuts),
        "list": cuts,
        "bytearray": bytearray(TONE_24K),
    }
    with peer.client() as client:
        assert client.send_audio_from(sources[kind]) == pytest.approx(0.5)
        assert received(peer.talk(), client) == TONE_24K


def test_telephone_sound_goes_through_untouched(peer: Service) -> None:
    """With G.711 as the input format the bytes of the telephone are the bytes on the wire."""
    codes = ulaw_encode(TONE_24K)
    with peer.client(RealtimeConfig(input_format="g711_ulaw")) as client:
        client.send_audio_from(iter([codes]))
        assert received(peer.talk(), client) == codes


def test_raw_sound_of_another_format_is_converted(peer: Service) -> None:
    """Raw telephone sound is named by ``audio`` and arrives as the configuration's format."""
    with peer.client() as client:
        client.send_audio_from(ulaw_encode(TONE_24K[::3] + b""), audio=AudioFormat("g711_ulaw", 8000))
        assert len(received(peer.talk(), client)) == pytest.approx(3 * len(TONE_24K[::3]), abs=12)


def test_pacing_waits_as_long_as_it_sounds(peer: Service) -> None:
    """Pieces of 20 ms leave at their time, counted from the beginning, so that lateness of one does not delay the next."""
    now = [100.0]
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        now[0] += seconds + 0.001

    with peer.client(clock=lambda: now[0], ping_interval=None) as client:
        client.send_audio_from([TONE_24K], pace=True, wait=wait)
        assert received(peer.talk(), client) == TONE_24K
    assert len(waits) == 24
    assert sum(waits) + 0.001 * 24 == pytest.approx(0.481, abs=0.0015)
    assert all(0.018 < seconds <= 0.0201 for seconds in waits)


def endless() -> Iterator[bytes]:
    while True:
        yield bytes(960)


@pytest.mark.parametrize("pace", [True, False])
@pytest.mark.parametrize("how", ["stop", "close", "abort"])
def test_an_endless_source_ends_with_the_conversation(how: str, pace: bool, peer: Service) -> None:
    """Setting ``stop``, closing or aborting ends the call within a moment, paced or not."""
    client = peer.client().connect()
    stop, sent = threading.Event(), []
    thread = threading.Thread(target=lambda: sent.append(client.send_audio_from(endless(), pace=pace, stop=stop)))
    thread.start()
    peer.talk().expect("input_audio_buffer.append")
    {"stop": stop.set, "close": client.close, "abort": client.abort}[how]()
    thread.join(5)
    assert not thread.is_alive()
    assert sent[0] > 0
    client.close()


def test_a_source_as_fast_as_it_can_be_read_never_fills_the_outbox(peer: Service) -> None:
    """A minute of sound, twice what may wait, is sent without an error, and never more than about a second waits."""
    with peer.client(max_audio=2.0) as client:
        assert client.send_audio_from(silence(60, OWN)) == pytest.approx(60)
        assert client.metrics.most_waiting <= 60


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (3, "takes a path"),
        ([1, 2], "gave int"),
        (["text"], "gave str"),
        (io.StringIO("text"), "binary mode"),
        ("/no/such/file.wav", "cannot be read"),
    ],
)
def test_what_is_no_sound_is_refused(source: Any, words: str, peer: Service) -> None:
    """A source of another kind is a mistake of the program, told in its own thread."""
    with peer.client() as client, pytest.raises(ConfigError, match=words):
        client.send_audio_from(source)


def test_a_file_that_cannot_be_read_is_told_by_its_name(peer: Service, tmp_path: pathlib.Path) -> None:
    """What is wrong with it, and which one it is; a file in text mode is told as that, whatever is in it."""
    path = tmp_path / "odd.wav"
    path.write_bytes(wav(bytes(8), tag=2, bits=4))
    with peer.client() as client:
        with pytest.raises(ConfigError, match=r"odd\.wav.*kind 2 with 4 bits") as caught:
            client.send_audio_from(path)
        assert caught.value.code == "invalid_wav"
        path.write_bytes(wav(b"\xff\xfe" * 4))
        with path.open(encoding="utf-8") as file, pytest.raises(ConfigError, match="binary mode"):
            client.send_audio_from(file)  # type: ignore[arg-type]


def test_what_the_service_says_while_a_file_is_sent_can_be_waited_for_afterwards(peer: Service) -> None:
    """All of the sending is one step of the program: what was heard since it began is an answer to it."""
    with peer.client() as client:
        talk = peer.talk()
        heard = threading.Event()
        client.on("speech_started", lambda event: heard.set())

        def pieces() -> Iterator[bytes]:
            yield TONE_24K
            talk.say("input_audio_buffer.speech_started", audio_start_ms=0, item_id="u1")
            assert heard.wait(10.0)
            yield TONE_24K

        client.send_audio_from(pieces())
        assert client.wait_for("speech_started", 0).item_id == "u1"


def test_it_needs_a_conversation_and_a_thread_of_its_own(peer: Service) -> None:
    """Before connecting it raises, and in a handler too: there it would hold up what it waits for."""
    client = peer.client()
    with pytest.raises(NotConnectedError, match="connect"):
        client.send_audio_from(b"")
    errors: list[BaseException] = []

    def handler(event: object) -> None:
        try:
            client.send_audio_from(TONE_24K)
        except RealtimeError as error:
            errors.append(error)

    client.on("session_ready", handler)
    with client:
        pass
    assert [error.code for error in errors] == ["called_in_handler"]


@pytest.mark.parametrize("encoding", ["pcm16", "g711_ulaw", "g711_alaw"])
def test_a_muted_client_sends_silence_of_the_same_length(encoding: Any, peer: Service) -> None:
    """While muted the service hears nothing for exactly as long; afterwards it hears again."""
    config = RealtimeConfig(input_format=encoding)
    with peer.client(config) as client:
        loud = Converter(OWN, config.input_audio).convert(TONE_24K)[:1600]
        client.send_audio(loud)
        client.mute()
        assert client.muted
        client.send_audio(loud)
        assert client.input_level > 0.05, "the meter shows what the microphone hears"
        client.unmute()
        assert not client.muted
        client.send_audio(loud)
        assert received(peer.talk(), client) == loud + config.input_audio.silent_byte * len(loud) + loud


def test_the_level_is_that_of_the_last_piece(peer: Service) -> None:
    """The meter goes from 0 to 1 and follows each piece, in any format."""
    with peer.client() as client:
        assert client.input_level == 0.0
        client.send_audio(TONE_24K)
        assert client.input_level == pytest.approx(9000 / 32768 / math.sqrt(2), rel=0.01)
        client.send_audio(b"\xff\x7f\x01\x80" * 50)
        assert client.input_level == pytest.approx(1.0, abs=0.001)
        client.send_audio(bytes(100))
        assert client.input_level == 0.0
    with peer.client(RealtimeConfig(input_format="g711_ulaw")) as client:
        client.send_audio(ulaw_encode(TONE_24K))
        assert client.input_level == pytest.approx(level(TONE_24K), rel=0.05)
