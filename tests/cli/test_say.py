"""``qai-realtime say`` and ``transcribe``: files that are too short, services that hear the end of a turn by themselves, wrong input."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.sound_files import write_wav
from tests.cli.recordings import tone
from tests.cli.running import COMMAND
from tests.servers import PATIENCE, Service, service

Capture = pytest.CaptureFixture[str]
_NO_ADDRESS = "http://[::1"
ROOT = pathlib.Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("place")


@pytest.fixture
def server(serving: None) -> Iterator[Any]:
    """A local server in light mode that wants the key ``secret``."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret") as running:
        yield running


@pytest.fixture
def agent(serving: None) -> Iterator[list[str]]:
    """The options that lead to a local server that speaks as ElevenLabs does."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret", dialect="elevenlabs") as running:
        yield ["--url", running.ws_url, "--key", "secret", "--provider", "elevenlabs"]


@contextlib.contextmanager
def answering(answer: Callable[[Service], object]) -> Iterator[str]:
    """A service that a function drives in a thread of its own; gives its address."""
    with service() as peer:
        thread = threading.Thread(target=answer, args=(peer,))
        thread.start()
        try:
            yield peer.base_url
        finally:
            thread.join(PATIENCE)


# -- files that are too short ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["say", "record", "transcribe"])
@pytest.mark.parametrize("name", ["cut.wav", "fast.wav"])
def test_a_file_of_no_length_is_refused(server: Any, command: str, name: str, capsys: Capture) -> None:
    """20 ms, and a header whose rate leaves nothing of the sound, are told before anything is sent; no file name becomes a sentence."""
    write_wav("cut.wav", tone(0.02), AudioFormat())
    write_wav("fast.wav", tone(1.0), AudioFormat())
    whole = bytearray(pathlib.Path("fast.wav").read_bytes())
    whole[24:28] = struct.pack("<I", 2**32 - 1)  # the rate
    pathlib.Path("fast.wav").write_bytes(whole)
    assert main([command, name, "--url", server.url, "--key", "secret", "--json"]) == 2
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["error"] == {"code": "invalid_wav", "message": f"{name!r} is too short: a service wants at least 0.1 s of sound"}
    assert server.journal == []


@pytest.mark.parametrize(
    ("what", "words"),
    [("hello \udcff", "is no text"), (os.sep, "is a folder"), ("no/such", "there is no file")],
    ids=["bytes", "folder", "file"],
)
def test_what_is_neither_a_sentence_nor_a_file(server: Any, what: str, words: str, capsys: Capture) -> None:
    """An argument whose bytes are no text is not sent as halves of characters, and a folder is not said to be missing."""
    assert main(["say", what, "--url", server.url, "--key", "secret"]) == 2
    assert words in capsys.readouterr().err
    assert server.journal == []


def test_the_shortest_file_is_taken(server: Any, capsys: Capture) -> None:
    """A tenth of a second is heard, and answered."""
    write_wav("short.wav", tone(0.1), AudioFormat())
    assert main(["say", "short.wav", "--url", server.url, "--key", "secret"]) == 0
    assert "heard you speak" in capsys.readouterr().out


def test_a_service_that_heard_nothing_is_not_waited_for(capsys: Capture) -> None:
    """`transcribe` ends with the service's word for an empty recording, long before its own time is over."""
    write_wav("a.wav", tone(0.5), AudioFormat())

    def refuse(peer: Service) -> None:
        talk = peer.talk()
        talk.expect("input_audio_buffer.commit")
        talk.error("input_audio_buffer_commit_empty", message="buffer too small")

    with answering(refuse) as url:
        assert main(["transcribe", "a.wav", "--url", url, "--key", "k", "--timeout", "50", "--json"]) == 1
    error = json.loads(capsys.readouterr().out.splitlines()[-1])["error"]
    assert error["code"] == "input_audio_buffer_commit_empty"
    assert "buffer too small" in error["message"]


def test_words_that_do_not_come(capsys: Capture) -> None:
    """What was waited for is named as a user calls it, not as an event of the library."""
    write_wav("a.wav", tone(0.5), AudioFormat())
    with answering(lambda peer: peer.talk().expect("input_audio_buffer.commit")) as url:
        assert main(["transcribe", "a.wav", "--url", url, "--key", "k", "--timeout", "2"]) == 1
    assert capsys.readouterr().err == "error: no transcript came within 2 s\n"


# -- services that decide when a turn is over --------------------------------------------------------------------------------


def test_an_answer_that_comes_as_a_whole_is_printed(agent: list[str], capsys: Capture) -> None:
    """ElevenLabs tells no words one by one: the transcript is printed, once."""
    assert main(["say", "Hello!", *agent]) == 0
    assert capsys.readouterr().out == "Hello! How can I help you today?\n"


def test_a_file_is_said_to_a_service_without_a_commit(agent: list[str], capsys: Capture) -> None:
    """Where no word ends a turn, silence does: a recording is answered, kept and written down as anywhere."""
    write_wav("question.wav", tone(1.0), AudioFormat())
    assert main(["say", "question.wav", *agent, "--out", "answer.wav"]) == 0
    assert capsys.readouterr().out.startswith("I heard you speak")
    assert pathlib.Path("answer.wav").stat().st_size > 48000
    assert main(["transcribe", "question.wav", *agent]) == 0
    assert capsys.readouterr().out == "(speech)\n"
    assert main(["record", "question.wav", *agent, "--out", "call", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["turns"] == 1


def test_a_pause_in_a_file_is_not_its_end(agent: list[str], capsys: Capture) -> None:
    """An answer to the first half is cut off by the second: the answer that counts is the last, and stands on a line of its own."""
    write_wav("question.wav", tone(1.0) + bytes(48000) + tone(1.0), AudioFormat())
    assert main(["say", "question.wav", *agent, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "completed"
    assert main(["say", "question.wav", *agent]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.count("I heard you speak") == 1 for line in lines), lines


# -- wrong input -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["say hi", "transcribe a.wav", "record hi", "demo"])
@pytest.mark.parametrize("is_option", [True, False])
def test_an_address_that_is_none(command: str, is_option: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    """What cannot be taken apart, as an option or in the environment, is told as an address, with a result for programs."""
    write_wav("a.wav", tone(0.5), AudioFormat())
    given = ["--url", _NO_ADDRESS]
    if not is_option and command != "demo":  # the demo reads no address from the environment
        given = []
        monkeypatch.setenv("QAI_BASE_URL", _NO_ADDRESS)
    assert main([*command.split(), *given, "--key", "k", "--json"]) == 2
    told = capsys.readouterr()
    assert f"the address {_NO_ADDRESS!r} is not one" in told.err
    assert json.loads(told.out.splitlines()[-1])["error"]["code"] == "invalid_url"


def test_the_doctor_knows_such_an_address(serving: None, capsys: Capture) -> None:
    """It is a finding, not the end of the doctor."""
    assert main(["doctor", "--url", "http://[::1", "--key", "k"]) == 1
    assert "FAILED   the address: " in capsys.readouterr().out


def test_a_module_that_leaves_does_not_end_us_silently(place: pathlib.Path, capsys: Capture) -> None:
    """A script given as --tools that calls sys.exit() when it is imported is named."""
    (place / "leaving.py").write_text("import sys\nsys.exit(3)\n")
    assert main(["say", "hi", "--tools", "leaving", "--url", "http://127.0.0.1:1", "--key", "k"]) == 2
    assert "--tools leaving: SystemExit: 3" in capsys.readouterr().err


def test_tools_from_a_folder_that_is_gone(place: pathlib.Path) -> None:
    """Where the working folder was deleted, the module is what is missing."""
    gone = place / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *COMMAND, "say", "hi", "--tools", "x", "--url", "http://127.0.0.1:1", "--key", "k"],
        cwd=gone, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: --tools x: there is no module 'x' here"), done.stderr


@pytest.mark.parametrize("command", ["say", "record"])
def test_an_empty_out_is_no_folder(server: Any, command: str, place: pathlib.Path, capsys: Capture) -> None:
    """Nothing is written into the current folder for who gave an empty name, as an unset variable of a shell is; nothing is sent."""
    assert main([command, "hi", "--out", "", "--url", server.url, "--key", "secret"]) == 2
    assert "--out is empty" in capsys.readouterr().err
    assert list(place.iterdir()) == []
    assert server.journal == []


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1"])
def test_a_host_that_is_not_ours(serving: None, host: str, capsys: Capture) -> None:
    """Another port would not help: the host is what is wrong."""
    assert main(["serve", "--light", "--host", host]) == 1
    told = capsys.readouterr().err
    assert f"cannot listen on the host {host!r}: " in told
    assert "port" not in told
