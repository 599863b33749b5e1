"""What comes out has no place: nobody reads any more, the disk is full, an output is closed; and whose lines go where."""

from __future__ import annotations

import json
import os
import pathlib
import re
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.recordings import make
from tests.cli.running import COMMAND, Running

Start = Callable[..., Running]
ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("QAI_")} | {"PYTHONPATH": str(ROOT)}
FULL = pathlib.Path("/dev/full")
SMALL_FILES = ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh"]  # 10 KB each
NO_SPACE = "error: No space left on device\n"


@pytest.fixture
def server(serving: None) -> Iterator[Any]:
    """A local server in light mode that wants the key ``secret``, and speaks fast."""
    from qai_realtime_sync.offline import RealtimeServer

    with RealtimeServer(light=True, key="secret", pace=40) as running:
        yield running


def at(server: Any) -> list[str]:
    """The options that lead to the server."""
    return ["--url", server.url, "--key", "secret"]


def ran(arguments: list[str], cwd: pathlib.Path, *, shell: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command, if wanted with the redirections of a shell."""
    prefix = ["sh", "-c", f'exec "$@" {shell}', "sh"] if shell else []
    return subprocess.run(
        [*prefix, *COMMAND, *arguments], cwd=cwd, env=ENVIRONMENT, stdin=subprocess.DEVNULL, text=True, timeout=60,
        **{"capture_output": True, **more},
    )  # fmt: skip


def test_who_stops_reading_an_answer_sees_no_traceback(server: Any, tmp_path: pathlib.Path) -> None:
    """When the reader goes in the middle of a long answer, it ends with 1 and without a word, and the sound is written all the same."""
    given = ["say", "Tell me a long story.", *at(server), "--out", "story.wav"]
    with subprocess.Popen([*COMMAND, *given], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saying:
        try:
            assert saying.stdout is not None
            assert saying.stderr is not None
            assert saying.stdout.read(3) == b"Of "
            saying.stdout.close()
            told = saying.stderr.read().decode()
            assert saying.wait(30) == 1
        finally:
            saying.kill()
    # On a busy machine a handler may be slow for once, and the client says so.
    (told,) = [line for line in told.splitlines() if "held up the conversation" not in line]
    assert re.fullmatch(r"[\d.]+ s of sound in story.wav", told), told
    assert (tmp_path / "story.wav").stat().st_size > 48000


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize(
    "command",
    ["say Hello!", "say Hello! --json", "say Hello! --out -", "record Hello! --out call", "record Hello! --out call --json", "replay old"],
)
def test_a_full_output_is_told_once(server: Any, command: str, tmp_path: pathlib.Path) -> None:
    """Where standard output cannot be written, one line says why, without a traceback, and the exit code is 1."""
    make(tmp_path / "old")
    name, *rest = command.split()
    given = [name, *rest, *(["--speed", "0"] if name == "replay" else at(server))]
    with open(FULL, "w", encoding="ascii") as full:
        done = ran(given, tmp_path, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1, done.stderr
    assert done.stderr.endswith(NO_SPACE)
    assert done.stderr.count("No space") == 1
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("shell", "more"), [(">&-", []), (">&-", ["--json"]), (">&-", ["--out", "-"]), ("2>&-", []), (">&- 2>&- <&-", [])], ids=str
)
def test_a_closed_output_is_nobody_who_reads(server: Any, shell: str, more: list[str], tmp_path: pathlib.Path) -> None:
    """A stream that the shell has closed takes nothing, and harms nothing."""
    done = ran(["say", "Hello!", *more, *at(server)], tmp_path, shell=shell)
    assert done.returncode == 0, done.stderr
    assert not re.search("Traceback|Exception|Warning", done.stderr), done.stderr
    assert ("help you" in done.stdout) == (shell == "2>&-")


@pytest.mark.parametrize("command", ["record Hello! --out call", "say Hello! --out call"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_full_disk_is_no_success(start: Start, server: Any, command: str, as_json: bool) -> None:
    """A recording that is not whole is a failure, told with its reason, also to a program."""
    begun = start(*command.split(), *at(server), *(["--json"] if as_json else []), prefix=SMALL_FILES)
    assert begun.finish(60) == 1, begun.output
    assert "error: the recording in 'call' is not whole: File too large" in begun.output
    assert "Traceback" not in begun.output
    if as_json:
        (result,) = [json.loads(line) for line in begun.output.splitlines() if line.startswith('{"name": "result"')]
        assert (result["ok"], result["exit_code"], result["error"]["code"]) == (False, 1, "recording_failed")


@pytest.mark.parametrize(("more", "code"), [([], 0), (["--local"], 2)])
def test_no_line_of_json_stands_in_the_sound(server: Any, more: list[str], code: int, tmp_path: pathlib.Path) -> None:
    """With `talk --pipe --json` standard output is sound alone: the result goes to standard error, of a failure too."""
    pytest.importorskip("miniaudio", reason="sound devices need miniaudio")
    done = subprocess.run(
        [*COMMAND, "talk", "--pipe", "--json", *at(server), *more],
        input=bytes(9600), cwd=tmp_path, env=ENVIRONMENT, capture_output=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert b"{" not in done.stdout
    result = json.loads(done.stderr.decode().splitlines()[-1])
    assert (result["name"], result["command"], result["ok"], result["exit_code"]) == ("result", "talk", code == 0, code)


def test_a_prompt_begins_a_line(server: Any, tmp_path: pathlib.Path) -> None:
    """Whoever types the turns of a recording is asked for each on a line of its own, below the whole answer."""
    pty = pytest.importorskip("pty", reason="there are no terminals of this kind here")
    ours, theirs = pty.openpty()
    prompt = "you (Ctrl-D ends): "
    recording = subprocess.Popen(
        [*COMMAND, "record", "--out", "call", *at(server)],
        cwd=tmp_path, env=ENVIRONMENT | {"TERM": "dumb"}, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = ""
    try:
        for number, typed in enumerate([b"Hello!\n", b"Hello again!\n", b"\x04"], 1):
            deadline = time.monotonic() + 30
            while seen.count(prompt) < number:
                assert select.select([ours], [], [], max(0.0, deadline - time.monotonic()))[0], seen
                seen += os.read(ours, 65536).decode()
            os.write(ours, typed)
        assert recording.wait(30) == 0
    finally:
        recording.kill()
        recording.wait(10)
        os.close(ours)
    before = [part.rpartition("\n")[2].strip("\r") for part in seen.split(prompt)[:-1]]
    assert before == ["", "", ""], seen
    assert len(re.findall("assistant  Hello! How can I help you today", seen)) == 2, seen
