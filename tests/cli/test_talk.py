"""``talk``: a spoken conversation over a real sound server, judged by what comes out of the loudspeaker, and its other ends."""

from __future__ import annotations

import json
import os
import pathlib
import pty
import select
import shlex
import shutil
import signal
import subprocess
import time
import wave
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync.audio import AudioFormat, Converter
from qai_realtime_sync.cli.demo_script import INTERRUPTION, QUESTION, words, wrong_words
from qai_realtime_sync.cli.sound_files import write_wav
from tests.cli.running import COMMAND, Running
from tests.pulse import LOUD, RATE, Capture, PulseServer

Start = Callable[..., Running]
AUDIO = AudioFormat()
ROOT = pathlib.Path(__file__).parents[2]
# Sentences that the small recogniser gets right.
WEATHER = (
    "The weather in London is very good today, and it will be better tomorrow morning. "
    "This afternoon the rain will stop, and the sun may come out for an hour or two. "
    "In the evening it gets colder, so take a warm coat if you want to go out. "
    "There is a lot of snow on the mountains, and the road to the village is closed."
)
TOOLS = f'''
def get_weather(city: str) -> str:
    """Current weather in a city."""
    return {WEATHER!r}
'''


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the key or address of whoever runs it, nor plays to the loudspeaker."""
    for name in ("QAI_API_KEY", "QAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PULSE_SERVER", "unix:/nonexistent")


@pytest.fixture
def server(serving: None) -> Iterator[Any]:
    """A local server in light mode: it answers in tones and takes tones for speech."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret") as running:
        yield running


def spoken(text: str) -> bytes:
    """A sentence in the caller's voice, PCM16 at 24000 Hz."""
    from qai_realtime_sync.offline import caller_voice

    pcm, rate = caller_voice(text)
    assert rate == RATE
    return pcm


def tones(text: str) -> bytes:
    """A sentence as tones."""
    from qai_realtime_sync.offline.speech import ToneSpeech

    return b"".join(sentence.pcm for sentence in ToneSpeech().speak(text, RATE))


def loud_seconds(path: pathlib.Path) -> float:
    """How many seconds of a WAV file are not silent."""
    with wave.open(str(path), "rb") as file:
        samples = array("h", file.readframes(file.getnframes()))
    step = RATE // 100
    return sum(max(map(abs, samples[at : at + step])) > LOUD for at in range(0, len(samples), step)) / 100


# -- with a sound server -------------------------------------------------------------------------------------------------------


def heard_in(capture: Capture, begin: float, end: float) -> str:
    """What a recogniser hears in a piece of a capture."""
    from qai_realtime_sync.offline.hearing import Hearing

    listener = Hearing().listener(RATE)
    converter = Converter(AUDIO, AudioFormat("pcm16", 16000))
    listener.feed(converter.convert(capture.samples(begin, end).tobytes()) + converter.flush())
    return listener.finish()


def best_beginning(said: str, heard: str) -> tuple[float, int]:
    """How well what was heard fits the beginning of what was said: the word error rate, and how many words that beginning has."""
    everything = words(said)
    return min((wrong_words(" ".join(everything[:count]), heard), count) for count in range(1, len(everything) + 1))


@pytest.mark.long
def test_a_question_and_an_interruption(start: Start, voices: None, own_pulse: PulseServer, tmp_path: pathlib.Path) -> None:
    """A spoken question is answered aloud, speaking cuts the answer off within a second, and what the loudspeaker gave is understood."""
    (tmp_path / "weather.py").write_text(TOOLS)
    question, interruption = spoken(QUESTION), spoken(INTERRUPTION)
    talk = start("talk", "--local", "--input", "monitor of lips", "--output", "room", "--tools", "weather:get_weather", "--out", "call")
    talk.read_until("(connected")
    with own_pulse.capture() as capture:
        own_pulse.say(question)
        talk.read_until("tool       get_weather")
        begun = capture.wait_for_sound(4.5)
        speaks = capture.seconds
        own_pulse.say(interruption)
        told = float(talk.read_until("(the answer stops").split(": ")[1].split()[0])
        stopped = capture.loud(begun, speaks + 2.0)[-1]
        capture.wait_for_sound(0.5, speaks + 2.5)
        ended = capture.wait_for_silence(1.5)
    talk.process.send_signal(signal.SIGINT)
    at = time.monotonic()
    assert talk.finish(10) == 130, talk.output
    assert time.monotonic() - at < 5  # promised: 3 s
    assert "Traceback" not in talk.output
    assert stopped - speaks < 1.5, "the answer went on after the user spoke"
    assert told == pytest.approx(stopped - begun, abs=0.4), "what was told to be heard is not what the loudspeaker gave"
    first = heard_in(capture, begun - 0.3, stopped + 0.3)
    second = heard_in(capture, speaks + 2.5, ended + 0.5)
    wrong, count = best_beginning(WEATHER, first)
    assert wrong <= 0.25, f"the loudspeaker said {first!r}"
    assert 8 <= count <= len(words(WEATHER)) * 0.6, f"of the answer {count} words were heard: {first!r}"
    answers = [line[11:] for line in talk.output.splitlines() if line.startswith("assistant  ")]
    assert wrong_words(answers[-1], second) <= 0.25, f"{answers[-1]!r} was heard as {second!r}"
    heard = [line[11:] for line in talk.output.splitlines() if line.startswith("you  ")]
    # On a busy machine the sound server leaves holes in what it is given to play, and in what the microphone hears.
    assert [wrong_words(said, told) <= 0.35 for said, told in zip((QUESTION, INTERRUPTION), heard, strict=True)] == [True, True], heard
    assert "(turn 1: words after " in talk.output


def test_a_tone_is_answered_through_a_loudspeaker(start: Start, server: Any, own_pulse: PulseServer) -> None:
    """What a microphone hears reaches the service, its answer comes out of the loudspeaker, and Ctrl-C ends it within three seconds."""
    talk = start("talk", "--url", server.url, "--key", "secret", "--input", "monitor of lips", "--output", "room")
    talk.read_until("(you: Monitor of Lips; assistant: Room)")
    talk.read_until("(connected")
    with own_pulse.capture() as capture:
        own_pulse.say(tones("Hello there."))
        capture.wait_for_sound(0.5)
        talk.read_until("assistant  ")
    talk.process.send_signal(signal.SIGINT)
    at = time.monotonic()
    assert talk.finish(10) == 130, talk.output
    assert time.monotonic() - at < 5  # promised: 3 s
    assert "Traceback" not in talk.output
    assert [entry["code"] for entry in server.journal if entry["name"] == "closed"] == [1000], "the service was not told the end"


@pytest.mark.long
@pytest.mark.parametrize("is_half_duplex", [True, False])
def test_half_duplex_against_echo(start: Start, server: Any, own_pulse: PulseServer, is_half_duplex: bool) -> None:
    """With a microphone that hears nothing but the loudspeaker an answer interrupts itself, and with --half-duplex it does not."""
    given = ["--input", "monitor of room", "--output", "room", *(["--half-duplex"] if is_half_duplex else [])]
    talk = start("talk", "--url", server.url, "--key", "secret", *given)
    talk.read_until("(connected")
    with own_pulse.capture() as capture:
        own_pulse.say(tones("Hello there."), "room")
        talk.read_until("assistant  ")
        if is_half_duplex:
            capture.wait_for_silence(2.0)
        else:
            talk.read_until("(the answer stops")
    talk.process.send_signal(signal.SIGINT)
    assert talk.finish(10) == 130, talk.output
    if is_half_duplex:
        assert "(the answer stops" not in talk.output
        assert talk.output.count("\nyou  ") == 1


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_closed_pipe_ends_it(server: Any, tmp_path: pathlib.Path, more: list[str]) -> None:
    """When whoever reads the lines has gone, a conversation that would take a minute ends with exit code 1 and without a traceback."""
    write_wav(tmp_path / "question.wav", tones("Hello there.") + bytes(60 * AUDIO.bytes_per_second), AUDIO)
    given = ["--url", server.url, "--key", "secret", "--input", "question.wav", "--output", "answer.wav"]
    talk = subprocess.Popen(
        [*COMMAND, "talk", *given, *more],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert talk.stdout is not None
    try:
        assert talk.stdout.readline()
        talk.stdout.close()
        _, said = talk.communicate(timeout=30)
    finally:
        talk.kill()
        talk.wait(10)
    # On a busy machine a handler may be slow for once, and the client says so.
    complaints = [line for line in said.splitlines() if b"held up the conversation" not in line]
    assert (talk.returncode, complaints) == (1, [])


@pytest.mark.long
def test_a_lost_device_ends_it_with_its_name(start: Start, server: Any, own_pulse: PulseServer) -> None:
    """When the sound server goes away the command says which device is lost, and fails."""
    talk = start("talk", "--url", server.url, "--key", "secret", "--input", "monitor of lips", "--output", "room")
    talk.read_until("(connected")
    own_pulse.kill()
    assert talk.finish(30) == 1, talk.output
    assert "is lost" in talk.output
    assert "Traceback" not in talk.output


# -- with files and pipes ------------------------------------------------------------------------------------------------------


def test_a_file_is_answered_into_a_file(start: Start, server: Any, tmp_path: pathlib.Path) -> None:
    """Without a sound card: the question is a WAV file, the answer another, all is kept, and it ends by itself; with --json every line
    is an event as the library spells it, without sound, from ready to closed, and the last the result."""
    write_wav(tmp_path / "question.wav", tones("Hello there."), AUDIO)
    given = ["--input", "question.wav", "--output", "answer.wav", "--out", "call", "--json"]
    talk = start("talk", "--url", server.url, "--key", "secret", *given)
    assert talk.finish(30) == 0, talk.output
    assert loud_seconds(tmp_path / "answer.wav") > 0.5
    assert sorted(path.name for path in (tmp_path / "call").iterdir()) == ["conversation.wav", "events.jsonl", "transcript.json"]
    *events, result = [json.loads(line) for line in talk.output.splitlines()]
    names = [event["name"] for event in events]
    assert {"session_ready", "speech_started", "transcript_done", "response_done", "playback_stopped", "turn_done"} <= set(names)
    assert names[-1] == "closed"
    assert "audio_delta" not in names
    assert (result["name"], result["ok"], result["turns"], result["output"]) == ("result", True, 1, "the file answer.wav")
    assert result["exit_code"] == 0


@pytest.mark.parametrize("dialect", ["elevenlabs", "gemini", "openai"])
def test_the_assistants_words_are_a_line_whoever_answers(serving: None, start: Start, tmp_path: pathlib.Path, dialect: str) -> None:
    """Of every service the plain output has one line with the words of each answer, and none without words."""
    from qai_realtime_sync.offline import RealtimeServer

    write_wav(tmp_path / "question.wav", tones("Hello there."), AUDIO)
    with RealtimeServer(light=True, key="secret", dialect=dialect) as running:
        given = ["--provider", dialect, "--input", "question.wav", "--output", "answer.wav"]
        talk = start("talk", "--url", running.ws_url, "--key", "secret", *given)
        assert talk.finish(60) == 0, talk.output
    told = [line[11:].strip() for line in talk.output.splitlines() if line.startswith("assistant")]
    assert len(told) == 1, talk.output
    assert told[0]


@pytest.mark.long
def test_without_address_and_key_a_local_server_answers(start: Start, voices: None, tmp_path: pathlib.Path) -> None:
    """With no key and no address the command starts a local server, says so, and the words of the file are understood."""
    write_wav(tmp_path / "question.wav", spoken(QUESTION), AUDIO)
    talk = start("talk", "--input-file", "question.wav", "--output-file", "answer.wav")
    assert talk.finish(60) == 0, talk.output
    assert "no key is set: a local server answers" in talk.output
    heard = next(line[11:] for line in talk.output.splitlines() if line.startswith("you  "))
    assert wrong_words(QUESTION, heard) <= 0.2


def test_pipes(server: Any, tmp_path: pathlib.Path) -> None:
    """With --pipe raw sound comes from standard input and goes to standard output, and what is told goes to standard error."""
    done = subprocess.run(
        [*COMMAND, "talk", "--url", server.url, "--key", "secret", "--pipe"],
        input=tones("Hello there."),
        capture_output=True,
        timeout=60,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert b"(connected" in done.stderr
    assert len(done.stdout) % 960 == 0
    assert max(map(abs, array("h", done.stdout))) > LOUD


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--pipe", "--input", "a.wav"], "--pipe and --input"),
        (["--push-to-talk"], "needs a terminal"),
        (["--input", "missing.wav", "--output", "a.wav"], "cannot be read"),
        (["--local", "--url", "http://127.0.0.1:1", "--input", __file__, "--output", "a.wav"], ""),
    ],
)
def test_wrong_usage(start: Start, arguments: list[str], told: str) -> None:
    """Options that contradict each other, and files that are not there, are told in one line with exit code 2."""
    talk = start("talk", *arguments)
    assert talk.finish(30) == 2, talk.output
    assert told in talk.output
    assert "Traceback" not in talk.output


def test_the_question_is_not_overwritten_by_the_answer(start: Start, tmp_path: pathlib.Path) -> None:
    """One file for both ends is refused, and stays what it was."""
    write_wav(tmp_path / "a.wav", tones("Hello there."), AUDIO)
    before = (tmp_path / "a.wav").read_bytes()
    talk = start("talk", "--input", "a.wav", "--output", "./a.wav", "--local")
    assert talk.finish(30) == 2, talk.output
    assert "the same file" in talk.output
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize(
    ("closed", "more", "told"),
    [
        ("<&-", "--pipe", "standard input is closed"),
        (">&-", "--pipe", "standard output is closed"),
        ("<&-", "--push-to-talk", "needs a terminal"),
    ],
)
def test_pipes_that_are_closed(tmp_path: pathlib.Path, closed: str, more: str, told: str) -> None:
    """Where the shell has closed an end of the pipe, it is named, without a traceback and without the loudspeaker in its place."""
    line = shlex.join([*COMMAND, "talk", more, "--local"])
    done = subprocess.run(
        f"{line} {closed}", shell=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, timeout=60, cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_sound_card_it_says_what_to_do(start: Start) -> None:
    """Where no device is, the command fails and names files, pipes and `devices`; ALSA's own complaints are not seen."""
    pytest.importorskip("miniaudio", reason="sound devices need miniaudio")
    if os.path.exists("/dev/snd"):
        pytest.skip("this machine has a sound card")
    talk = start("talk")
    assert talk.finish(30) == 1, talk.output
    assert talk.output.startswith("error: there is no loudspeaker here")
    assert "--input question.wav --output answer.wav, or --pipe" in talk.output
    assert "ALSA" not in talk.output


# -- in a terminal -------------------------------------------------------------------------------------------------------------


class Terminal:
    """The command in a terminal of its own, whose keys we press and whose screen we read."""

    def __init__(self, arguments: list[str], cwd: pathlib.Path) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *COMMAND, *arguments],
            cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"},
        )  # fmt: skip
        os.close(theirs)
        self.screen = ""

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def read_until(self, text: str, within: float = 30.0) -> None:
        """Read until the screen has shown a text since the last call."""
        seen, deadline = "", time.monotonic() + within
        while text not in seen:
            ready = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0]
            assert ready, f"{text!r} was not shown; the screen: {self.screen[-2000:]}"
            piece = os.read(self._ours, 65536).decode(errors="replace")
            seen += piece
            self.screen += piece

    def finish(self, within: float = 20.0) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + within
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it did not end; the screen: {self.screen[-2000:]}"
            if select.select([self._ours], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # the terminal's other side is closed
                    break
        return self.process.wait(within)

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._ours)


@pytest.fixture
def terminal(tmp_path: pathlib.Path) -> Iterator[Callable[..., Terminal]]:
    """Give a function that runs a command in a terminal."""
    pytest.importorskip("rich", reason="what is seen in a terminal needs rich")
    if shutil.which("setsid") is None:
        pytest.skip("a terminal of its own needs setsid")
    opened: list[Terminal] = []

    def begin(*arguments: str) -> Terminal:
        opened.append(Terminal(list(arguments), tmp_path))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()


def test_keys_mute_and_quit(terminal: Callable[..., Terminal], server: Any, tmp_path: pathlib.Path) -> None:
    """In a terminal there are level meters and keys: m mutes and unmutes, q quits with exit code 0, and the cursor comes back."""
    write_wav(tmp_path / "silence.wav", bytes(60 * 48000), AUDIO)
    talk = terminal("talk", "--url", server.url, "--key", "secret", "--input", "silence.wav", "--output", "answer.wav")
    talk.read_until("m mutes, i interrupts, q quits")
    talk.read_until("listening")
    talk.press("m")
    talk.read_until("(muted)")
    talk.press("m")
    talk.read_until("(not muted any more)")
    talk.press("\x1b[A")  # an arrow means nothing
    talk.press("q")
    assert talk.finish() == 0, talk.screen
    assert "░" in talk.screen
    assert talk.screen.rindex("\x1b[?25h") > talk.screen.rindex("\x1b[?25l")
    assert "Traceback" not in talk.screen


def test_push_to_talk(terminal: Callable[..., Terminal], server: Any, tmp_path: pathlib.Path) -> None:
    """With --push-to-talk nothing is sent until space is pressed, and the second space asks for the answer."""
    write_wav(tmp_path / "said.wav", tones("Hello there. ") * 20, AUDIO)
    talk = terminal("talk", "--url", server.url, "--key", "secret", "--input", "said.wav", "--output", "answer.wav", "--push-to-talk")
    talk.read_until("press space to talk")
    talk.read_until("press space to talk")
    assert "input_audio_buffer.append" not in received(server)
    talk.press(" ")
    for _ in range(4):
        talk.read_until("recording: space sends")
    talk.press(" ")
    talk.read_until("assistant  I")
    talk.press("q")
    assert talk.finish() == 0, talk.screen
    assert received(server)[-3:] == ["input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]


def received(server: Any) -> list[str]:
    """The names of what the service received, in order; sound that came piece by piece is one."""
    names = [entry["name"] for entry in server.journal if entry["direction"] == "received"]
    return [name for name in names if name.startswith(("input_audio_buffer.", "response.", "conversation."))]
