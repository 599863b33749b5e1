"""The program: exit codes, what is said when something is missing, and the small commands against a local server."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qai_realtime_sync.audio import AudioFormat
from qai_realtime_sync.cli import main
from qai_realtime_sync.cli.program import COMMANDS
from qai_realtime_sync.cli.sound_files import write_wav
from tests.cli.running import COMMAND, Running
from tests.servers import PATIENCE, service

Start = Callable[..., Running]
ROOT = pathlib.Path(__file__).parents[2]

# Runs the command line as if some libraries were not installed.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from qai_realtime_sync.cli import main
sys.exit(main(sys.argv[2:]))
"""


HIDES = "return real(name) if name != 'werkzeug' else (_ for _ in ()).throw(m.PackageNotFoundError(name))"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the key or address of whoever runs it."""
    for name in ("QAI_API_KEY", "QAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server(serving: None) -> Iterator[Any]:
    """A local server in light mode that wants the key ``secret``."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret") as running:
        yield running


def without(libraries: str, *arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Run a command without these libraries."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, libraries, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )


# -- usage -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["demo", "--nonsense"],
        ["session"],
        ["session", "end", "sess_1"],
        ["session", "create", "--body", "[1]", "--key", "k"],
        ["session", "create", "--body", "{", "--key", "k"],
        ["say"],
        ["say", " ", "--local"],
        ["record", "", "--local"],
        ["say", "hello", "--local", "--url", "http://127.0.0.1:1"],
        ["say", "hello", "--url", "http://127.0.0.1:1"],
        ["say", "hello", "--out", "-", "--json"],
        ["say", "hello", "--local", "--provider", "nobody"],
        ["say", "no-such-file.wav", "--local"],
        ["say", "no/such/file", "--local"],
        *([command, __file__, "--local", f"--timeout={value}"] for command in ("say", "transcribe") for value in ("-1", "0", "nan", "x")),
        ["session", "create", "--url", "http://example.com", "--key", "k"],
        ["transcribe", "no-such-file.wav", "--local"],
        ["serve", "--port", "many"],
        ["serve", "--port", "99999"],
        ["serve", "--rate-limit", "0"],
        ["serve", "--tls-cert", "only.pem"],
        ["serve", "--script", "no-such-file.json"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_2(serving: None, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What was typed wrong ends with exit code 2 and a word on standard error."""
    assert main(arguments) == 2
    assert "error" in capsys.readouterr().err or not arguments


@pytest.mark.parametrize("arguments", [["say", "hello", "--nonsense"], ["session", "end", "s", "--seconds", "1", "--nonsense"]])
def test_an_unknown_option_shows_the_usage_of_its_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An option that a command does not have is refused with the usage of that command, not of the program."""
    assert main(arguments) == 2
    told = capsys.readouterr().err
    command = "session end" if arguments[0] == "session" else "say"
    assert told.startswith(f"usage: qai-realtime {command} ")
    assert "--nonsense" in told


@pytest.mark.parametrize("command", ["say", "transcribe"])
@pytest.mark.parametrize("out", ["nowhere/answer.wav", "file/answer.wav"])
def test_a_file_that_cannot_be_written_is_told_before_anything_is_sent(
    server: Any, command: str, out: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody pays for an answer that has no place: nothing reaches the service."""
    (tmp_path / "file").touch()
    write_wav(tmp_path / "a.wav", bytes(4800), AudioFormat())
    arguments = [command, str(tmp_path / "a.wav"), "--out", str(tmp_path / out), "--url", server.url, "--key", "secret"]
    assert main(arguments) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert server.journal == []


@pytest.mark.parametrize(("name", "why"), [("none.wav", "No such file"), ("empty.wav", "it ends before its sound begins")])
def test_a_wav_file_that_cannot_be_read_is_told_with_its_reason(
    name: str, why: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the file once, and never ends without a reason."""
    (tmp_path / "empty.wav").touch()
    assert main(["transcribe", str(tmp_path / name), "--local"]) == 2
    told = capsys.readouterr().err
    assert why in told
    assert told.count(name) == 1


@pytest.mark.parametrize("arguments", [["--help"], ["say", "Grüße, wie geht es?"], ["record", "Grüße, wie geht es?", "--out", "call"]])
def test_letters_that_the_output_does_not_have_are_no_traceback(server: Any, arguments: list[str], tmp_path: pathlib.Path) -> None:
    """Where standard output is ASCII, as in a pipe of an old system, everything ends well all the same."""
    given = arguments if arguments == ["--help"] else [*arguments, "--url", server.url, "--key", "secret"]
    done = subprocess.run(
        [*COMMAND, *given],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert done.stdout.isascii()
    assert "\\" in done.stdout


def test_a_folder_with_spaces_is_quoted_in_the_command_to_copy(server: Any, tmp_path: pathlib.Path) -> None:
    """What is proposed as the next command works when it is copied, whatever the folder is called."""
    done = subprocess.run(
        [*COMMAND, "record", "Hello", "--out", "my call", "--url", server.url, "--key", "secret"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.endswith("qai-realtime report 'my call'\n"), done.stderr


@pytest.mark.parametrize("command", ["say", "session create", "transcribe"])
def test_a_missing_key_names_the_option(command: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who gave no key is told what the command line calls it, not only what Python does."""
    write_wav(tmp_path / "a.wav", bytes(4800), AudioFormat())
    given = {"say": ["hello"], "transcribe": [str(tmp_path / "a.wav")]}.get(command, [])
    assert main([*command.split(), *given, "--url", "http://127.0.0.1:1"]) == 2
    assert "--key" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_is_0(serving: None, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command can be asked for help."""
    assert main(arguments) == 0
    assert capsys.readouterr().out


def test_only_the_chosen_command_is_loaded() -> None:
    """Asking for help loads no command, no WebSocket and no REST library."""
    code = (
        "import sys; from qai_realtime_sync.cli import main; main(['--help'])\n"
        "loaded = [n for n in sys.modules if n in ('websocket', 'requests', 'numpy', 'qai_realtime_sync.cli.demo')]\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_no_traceback(tmp_path: pathlib.Path) -> None:
    """When whoever reads the output has gone, the program ends with exit code 1 and without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*COMMAND, "doctor"],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


# -- what is missing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [("serve",), ("demo", "--light"), ("say", "hi", "--local")], ids=" ".join)
def test_without_the_server_parts(arguments: tuple[str, ...], tmp_path: pathlib.Path) -> None:
    """Without werkzeug a command that needs the local server says which pip line helps, with exit code 1 and without a traceback."""
    if arguments[0] != "serve":
        # The server is a child with imports of its own: it is missing there too if it cannot be imported from the path.
        environment_hides(tmp_path, "werkzeug")
    done = without("werkzeug", *arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install 'qai-realtime-sync[serve]'" in done.stderr


def environment_hides(folder: pathlib.Path, library: str) -> None:
    """Put a library that cannot be imported where child processes that start in this folder look first."""
    (folder / f"{library}.py").write_text(f'raise ModuleNotFoundError("No module named {library}", name="{library}")\n')


def test_without_voices_the_demo_is_light(serving: None, tmp_path: pathlib.Path) -> None:
    """Without hibari the demo holds its conversation in tones, and says which pip line brings the voices."""
    environment_hides(tmp_path, "hibari")
    done = without("hibari", "demo", "--fast", "--out", "call", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "light: " in done.stdout
    assert "pip install 'qai-realtime-sync[offline]'" in done.stdout


def test_without_a_recogniser_nothing_is_transcribed(serving: None, tmp_path: pathlib.Path) -> None:
    """Without voices `transcribe --local` fails with the pip line instead of inventing words; `say --local` answers, and says so."""
    write_wav(tmp_path / "a.wav", bytes(48000), AudioFormat())
    environment_hides(tmp_path, "hibari")
    done = without("hibari", "transcribe", "a.wav", "--local", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'qai-realtime-sync[offline]'" in done.stderr
    said = without("hibari", "say", "Hello!", "--local", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stderr.startswith("light: ")
    assert "Hello!" in said.stdout


def test_doctor_without_the_server_parts(tmp_path: pathlib.Path) -> None:
    """What cannot be tried is named as skipped, with the pip line; the rest is not a failure."""
    hidden = f"import importlib.metadata as m; real = m.version\ndef version(name):\n    {HIDES}\nm.version = version\n"
    done = subprocess.run(
        [sys.executable, "-c", hidden + "import sys; from qai_realtime_sync.cli import main; sys.exit(main(['doctor']))"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "skipped  a conversation with the local server: it needs werkzeug; pip install 'qai-realtime-sync[serve]'" in done.stdout


# -- serve -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_serves_until_a_signal(start: Start, serving: None, number: signal.Signals) -> None:
    """`serve` says where it listens, answers `say` with the right key, refuses a wrong one, and ends with 0 on a signal."""
    serve = start("serve", "--light", "--key", "secret")
    url = serve.read_until("listening on ").split()[-1]
    said = start("say", "Hello!", "--url", url, "--key", "secret", "--out", "answer.wav")
    assert said.finish(30) == 0, said.output
    assert said.output.startswith("Hello! How can I help you today?")
    refused = start("say", "Hello!", "--url", url, "--key", "wrong")
    assert refused.finish(30) == 1
    assert "error: " in refused.output
    assert "Traceback" not in refused.output
    at = time.monotonic()
    serve.process.send_signal(number)
    assert serve.finish(10) == 0
    assert time.monotonic() - at < 6


def test_a_signal_while_the_voices_load_ends_it_silently(serving: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pressed Ctrl-C before the server listened is not told that it listens."""
    from qai_realtime_sync.offline import serve, server

    def loads(light: bool) -> Any:
        signal.raise_signal(signal.SIGINT)
        return assemble(light)

    assemble = server.assemble
    monkeypatch.setattr(server, "assemble", loads)
    said: list[str] = []
    assert serve(light=True, say=said.append) == 0
    assert said == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [("failed", 1, "response_failed: it was too hard\n"), ("incomplete", 0, "warning: the answer is not whole: incomplete")],
)
@pytest.mark.parametrize("what", ["question.wav", "A question?"])
def test_an_answer_that_fails_is_no_success(
    serving: None,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: str,
    code: int,
    words: str,
    what: str,
) -> None:
    """A failed answer is an error with exit code 1 and one that broke off a warning, whether the question was written or recorded."""
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "question.wav", bytes(48000), AudioFormat())
    details = {"type": status, "reason": "max_output_tokens"} if status == "incomplete" else {"error": {"message": "it was too hard"}}
    with service() as peer:

        def answer() -> None:
            talk = peer.talk()
            talk.expect("response.create")
            talk.created("r1")
            talk.done("r1", status, status_details=details)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            assert main(["say", what, "--url", peer.base_url, "--key", "k", "--timeout", "20"]) == code
        finally:
            answering.join(PATIENCE)
    assert words in capsys.readouterr().err


def test_a_port_that_is_taken_is_1(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A port that somebody else has is a failure, not a wrong usage."""
    assert main(["serve", "--light", "--port", str(server.port)]) == 1
    assert str(server.port) in capsys.readouterr().err


# -- session -----------------------------------------------------------------------------------------------------------------


def session(server: Any, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Make a call and return its answer."""
    assert main(["session", *arguments, "--url", server.url, "--key", "secret"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    answer: dict[str, Any] = json.loads(lines[0])
    return answer


def test_a_session_from_create_to_end(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The three calls reach the server, each prints one line of JSON, and no token is shown unless asked for."""
    created = session(server, capsys, "create", "--voice", "eve", "--body", '{"prompt": "Be brief."}')
    assert created["voice"] == "eve"
    assert created["ephemeral_token"].startswith("<redacted")
    refreshed = session(server, capsys, "refresh", created["session_id"], "--show-token")
    assert refreshed["ephemeral_token"]
    assert "redacted" not in refreshed["ephemeral_token"]
    ended = session(server, capsys, "end", created["session_id"], "--seconds", "12.2")
    assert ended["status"] == "ended"


def test_a_refusal_is_1(server: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong key, here from the environment, is told in one line with exit code 1."""
    monkeypatch.setenv("QAI_API_KEY", "wrong")
    monkeypatch.setenv("QAI_BASE_URL", server.url)
    assert main(["session", "create"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "401" in told.err
    assert "wrong" not in told.err.replace("wrong key", "")


# -- say, transcribe, doctor -------------------------------------------------------------------------------------------------


def test_say_and_transcribe(voices: None, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the caller's voice says in a file is written down, and answered aloud."""
    from qai_realtime_sync.audio import AudioFormat
    from qai_realtime_sync.cli.sound_files import read_wav, write_wav
    from qai_realtime_sync.offline import caller_voice

    pcm, rate = caller_voice("Hello there, how are you?")
    write_wav(tmp_path / "said.wav", pcm, AudioFormat("pcm16", rate))
    assert main(["transcribe", str(tmp_path / "said.wav"), "--local"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["hello", "there"]
    assert main(["say", str(tmp_path / "said.wav"), "--local", "--out", str(tmp_path / "answer.wav")]) == 0
    assert "help you" in capsys.readouterr().out
    assert len(read_wav(tmp_path / "answer.wav", AudioFormat())) > 48000


def test_doctor_tells_what_is_here(serving: None, capsys: pytest.CaptureFixture[str]) -> None:
    """The doctor names every part with its version or the pip line for it, and holds a conversation."""
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    assert "ok       werkzeug" in told
    assert "a conversation with the local server: Hello!" in told
    for library, distribution, extra in (("socks", "pysocks", "proxy"), ("soxr", "soxr", "resample")):
        if importlib.util.find_spec(library) is None:
            assert f"missing  {distribution}" in told
            assert f"qai-realtime-sync[{extra}]" in told


# -- what say writes ---------------------------------------------------------------------------------------------------------


def test_say_writes_to_standard_output(start: Start, server: Any, tmp_path: pathlib.Path) -> None:
    """With `--out -` standard output is a WAV file and nothing else; the words go to standard error."""
    done = subprocess.run(
        [*COMMAND, "say", "Hello!", "--url", server.url, "--key", "secret", "--out", "-"],
        capture_output=True, timeout=60, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout[:4] == b"RIFF"
    assert len(done.stdout) == int.from_bytes(done.stdout[4:8], "little") + 8
    assert b"How can I help you" in done.stderr


def test_say_keeps_the_conversation_in_a_folder(server: Any, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a folder as `--out` everything is kept, as a report wants it; `--json` tells events and ends with the result."""
    assert main(["say", "Hello!", "--url", server.url, "--key", "secret", "--out", str(tmp_path / "call"), "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all("name" in line and "at" in line for line in lines[:-1])
    assert {"session_ready", "transcript_done", "response_done", "closed"} <= {line["name"] for line in lines}
    result = lines[-1]
    assert (result["name"], result["ok"], result["status"]) == ("result", True, "completed")
    assert result["text"] == "Hello! How can I help you today?"
    assert main(["report", str(tmp_path / "call"), "--no-pictures", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["turns"] == 1


def test_the_gateways_key_goes_to_no_other_service(
    server: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The key of the environment is the gateway's: to a socket address, which is a service's own, it is not sent; --key is."""
    monkeypatch.setenv("QAI_API_KEY", "secret")
    assert main(["say", "Hello!", "--url", server.ws_url]) == 1
    assert "401" in capsys.readouterr().err
    assert main(["say", "Hello!", "--url", server.ws_url, "--key", "secret", "--provider", "xai"]) == 0
    assert "How can I help you" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_the_server_at_once(start: Start, serving: None) -> None:
    """Whoever presses Ctrl-C twice waits for nothing; once is an orderly end with 0."""
    serve = start("serve", "--light")
    serve.read_until("listening on ")
    serve.process.send_signal(signal.SIGINT)
    serve.process.send_signal(signal.SIGINT)
    # 0 if it was over before the second one came; killed by it if Python had already put its handlers away, which a shell calls 130 too.
    assert serve.finish(20) in (0, 130, -signal.SIGINT)
