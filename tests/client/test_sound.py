"""Sound on its way: whole samples, and rates converted both ways where the service fixes another."""

from __future__ import annotations

import base64
import math
import threading
from array import array
from typing import Any

import pytest

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.audio import rms, ulaw_decode, ulaw_encode
from qai_realtime_sync.client.sound import SoundPath
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.errors import ConfigError, OutboxFullError
from qai_realtime_sync.events import AudioDelta
from tests.servers import Talk, service

FIXED = AudioFormat("pcm16", 24000)


def tone(seconds: float, rate: int, hz: float = 440.0) -> bytes:
    return array("h", (round(12000 * math.sin(2 * math.pi * hz * n / rate)) for n in range(round(seconds * rate)))).tobytes()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def crossings(pcm: bytes) -> int:
    samples = array("h", pcm)
    return sum(1 for one, two in zip(samples, samples[1:]) if one < 0 <= two)


def path(taken: AudioFormat | None = None, sent: AudioFormat | None = None, **config: Any) -> SoundPath:
    sound = SoundPath(RealtimeConfig(**config))
    sound.service_wants(taken, sent)
    return sound


def test_without_a_difference_sound_passes_as_it_is() -> None:
    """Whole samples go out at once, half ones with the next piece; what comes in is not touched."""
    sound = path(FIXED, FIXED)
    assert sound.outgoing(b"\1\2\3") == b"\1\2"
    assert sound.outgoing(bytearray(b"\4")) == b"\3\4"
    assert sound.outgoing_end() == b""
    assert not sound.converts_incoming
    assert sound.incoming(b"\1\2\3") == b"\1\2\3"
    assert sound.incoming_end() == b""
    assert sound.sends == FIXED


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_another_rate_is_converted_both_ways(rate: int) -> None:
    """A tone keeps its length, its pitch and its loudness, in whatever pieces it comes."""
    sound = path(FIXED, FIXED, sample_rate=rate)
    up = b"".join(sound.outgoing(piece) for piece in pieces(tone(1.0, rate), 333)) + sound.outgoing_end()
    down = b"".join(sound.incoming(piece) for piece in pieces(tone(1.0, 24000), 777)) + sound.incoming_end()
    for pcm, wanted in ((up, 24000), (down, rate)):
        assert len(pcm) / 2 == pytest.approx(wanted, abs=wanted * 0.01)
        assert crossings(pcm) == pytest.approx(440, abs=3)
        assert rms(pcm) == pytest.approx(12000 / math.sqrt(2), rel=0.03)
    assert sound.sends == FIXED
    assert sound.converts_incoming


def test_telephone_sound_is_converted_both_ways() -> None:
    """µ-law at 8000 Hz against a service that takes and sends 24000 Hz PCM."""
    sound = path(FIXED, FIXED, input_format="g711_ulaw", output_format="g711_ulaw")
    up = sound.outgoing(ulaw_encode(tone(0.5, 8000))) + sound.outgoing_end()
    down = sound.incoming(tone(0.5, 24000)) + sound.incoming_end()
    assert len(up) / 2 == pytest.approx(12000, abs=120)
    assert len(down) == pytest.approx(4000, abs=40)
    assert crossings(up) == crossings(ulaw_decode(down)) == pytest.approx(220, abs=3)


def test_half_a_sample_at_the_end_is_told_and_forgotten() -> None:
    """The next sound starts clean."""
    sound = path(FIXED, FIXED)
    sound.outgoing(b"\1")
    with pytest.raises(ConfigError, match="in the middle of a sample"):
        sound.outgoing_end()
    assert sound.outgoing(b"\2\3") == b"\2\3"


def test_clearing_forgets_what_is_kept() -> None:
    """Neither half a sample nor the filter's rest comes out later."""
    sound = path(FIXED, FIXED, sample_rate=16000)
    sound.outgoing(tone(0.1, 16000) + b"\1")
    sound.outgoing_clear()
    assert sound.outgoing_end() == b""
    plain = path(FIXED, FIXED)
    plain.outgoing(b"\1")
    plain.outgoing_clear()
    assert plain.outgoing_end() == b""


def test_the_same_formats_keep_the_running_filter_and_others_replace_it() -> None:
    """A session that is updated does not click."""
    sound = path(FIXED, FIXED, sample_rate=16000)
    first = sound._outgoing
    sound.service_wants(FIXED, FIXED)
    assert sound._outgoing is first
    sound.service_wants(AudioFormat("pcm16", 48000), None)
    assert sound._outgoing is not first
    assert sound.sends.sample_rate == 48000
    assert not sound.converts_incoming


def test_threads_do_not_tear_each_others_samples() -> None:
    """Four threads send the same two-byte pieces: every sample that goes out is whole."""
    sound = path(FIXED, FIXED)
    out: list[bytes] = []

    def work() -> None:
        for _ in range(500):
            out.append(sound.outgoing(b"\1\2"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert b"".join(out) == b"\1\2" * 2000


# -- in a conversation -------------------------------------------------------------------------------------------------------------


def direct(peer: Any, config: RealtimeConfig, **options: Any) -> RealtimeClient:
    client = RealtimeClient.direct(
        f"ws://127.0.0.1:{peer.server.port}/v1/realtime?model=gpt-realtime", "sk-test", config, dialect="openai", **options
    )
    peer.clients.append(client)
    return client


def heard(talk: Talk) -> bytes:
    return b"".join(base64.b64decode(v["audio"]) for v in talk.received if v["type"] == "input_audio_buffer.append")


def test_a_program_at_16000_hz_speaks_with_a_service_at_24000_hz() -> None:
    """From the first byte on, also of sound that was given before the service was ready; the end of an answer is not lost."""
    config = RealtimeConfig(sample_rate=16000)
    with service() as peer:
        client = direct(peer, config)
        early = tone(0.1, 16000)
        client.once("session_created", lambda event: client.send_audio(early))
        got: list[AudioDelta] = []
        client.on_audio_delta(got.append)
        with client:
            talk = peer.talk()
            client.send_audio(tone(0.4, 16000))
            client.commit_audio()
            talk.expect("input_audio_buffer.commit")
            assert len(heard(talk)) / 2 == pytest.approx(12000, abs=120)
            talk.created("r1")
            for piece in pieces(tone(0.5, 24000), 4001):
                talk.audio("r1", "i1", piece)
            talk.say("response.output_audio.done", response_id="r1", item_id="i1", output_index=0, content_index=0)
            talk.done("r1")
            client.wait_for("response_done", 20.0)
            sound = b"".join(event.audio for event in got)
            assert len(sound) / 2 == pytest.approx(8000, abs=80)
            assert crossings(sound) == pytest.approx(220, abs=3)
            assert {(event.response_id, event.item_id) for event in got} == {("r1", "i1")}


def test_the_rest_of_a_cut_answer_does_not_begin_the_next_one() -> None:
    """What the filter still held of an answer that was cancelled is forgotten with it."""
    with service() as peer, direct(peer, RealtimeConfig(sample_rate=16000)) as client:
        talk = peer.talk()
        talk.created("r1")
        talk.audio("r1", "i1", tone(0.3, 24000))
        talk.done("r1", status="cancelled")
        client.wait_for("response_done", 20.0)
        got: list[AudioDelta] = []
        client.on_audio_delta(got.append)
        talk.created("r2")
        talk.audio("r2", "i2", bytes(24000))
        talk.say("response.output_audio.done", response_id="r2", item_id="i2", output_index=0, content_index=0)
        talk.done("r2")
        client.wait_for("response_done", 20.0)
        assert max(map(abs, array("h", b"".join(event.audio for event in got))), default=0) <= 2  # the dither of the converter


def test_sound_that_names_no_answer_ends_with_the_answer_that_runs() -> None:
    """What the filter held of it does not begin the next answer, although only the end says whose it was."""
    with service() as peer, direct(peer, RealtimeConfig(sample_rate=16000)) as client:
        talk = peer.talk()
        talk.created("r1")
        talk.audio("", "i1", tone(0.3, 24000))
        talk.done("r1", status="cancelled")
        client.wait_for("response_done", 10.0)
        got: list[AudioDelta] = []
        client.on_audio_delta(got.append)
        talk.created("r2")
        talk.audio("", "i2", bytes(24000))
        talk.done("r2")
        client.wait_for("response_done", 10.0)
        assert got
        assert max(map(abs, array("h", b"".join(event.audio for event in got)))) <= 2  # the dither of the converter


def test_an_answer_between_the_pieces_of_another_leaves_its_sound_whole() -> None:
    """At another rate the sound of an answer is the same, sample by sample, whether or not a second one is told between its pieces."""

    def sound_of_one(beside: bool) -> bytes:
        got: list[AudioDelta] = []
        with service() as peer, direct(peer, RealtimeConfig(sample_rate=16000)) as client:
            client.on_audio_delta(got.append)
            talk = peer.talk()
            talk.created("r1")
            for number, piece in enumerate(pieces(tone(0.5, 24000), 4000)):
                talk.audio("r1", "i1", piece)
                if beside and number == 1:
                    talk.created("r2", metadata={"for": "form"})
                    talk.done("r2")
                elif beside:
                    talk.audio("r3", "i3", bytes(480))
            talk.say("response.output_audio.done", response_id="r1", item_id="i1", output_index=0, content_index=0)
            talk.done("r1")
            client.wait_for("response_done", 10.0, where=lambda event: event.response_id == "r1")
        return b"".join(event.audio for event in got if event.response_id == "r1")

    assert sound_of_one(beside=True) == sound_of_one(beside=False)


def test_filters_of_answers_whose_end_is_never_told_are_bounded() -> None:
    """A service that forgets to end its answers costs a few filters, not one for each."""
    sound = path(FIXED, FIXED, sample_rate=16000)
    for number in range(40):
        sound.incoming(bytes(480), f"r{number}")
    assert len(sound._incoming) == 16


def test_the_bound_of_sound_counts_seconds_of_what_is_sent() -> None:
    """16000 Hz that become 24000 Hz do not fill the outbox before their time."""
    with service() as peer, direct(peer, RealtimeConfig(sample_rate=16000), max_audio=2.0) as client:
        peer.talk()
        client._call.outbox.pause(client._call.connection)
        for _ in range(9):
            client.send_audio(tone(0.2, 16000))
        with pytest.raises(OutboxFullError, match="more than 2 s of sound"):
            client.send_audio(tone(0.6, 16000))


def test_a_format_that_cannot_be_converted_is_told_by_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without soxr 22050 Hz has no way to 24000 Hz: the error says what to install, and no thread is left."""
    import sys

    monkeypatch.setitem(sys.modules, "soxr", None)
    with service() as peer:
        client = direct(peer, RealtimeConfig(sample_rate=22050))
        with pytest.raises(ConfigError, match="needs soxr"):
            client.connect()
        assert client.wait(1.0).meaning
