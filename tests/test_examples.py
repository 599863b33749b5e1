"""The examples: each runs against a local server of its own, ends by itself, and shows what it is about."""

from __future__ import annotations

import math
import os
import pathlib
import shutil
import subprocess
import sys
import wave
from array import array

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# Programs that serve until they are told to end; tests/contrib runs them.
SERVERS = {"django_app.py", "flask_app.py"}
EXAMPLES = sorted({path.name for path in (ROOT / "examples").glob("*.py")} - SERVERS)

# What each prints, in light mode.
PRINTS = {
    "hello.py": ["Anna", "completed: ", "s of sound"],
    "tools.py": ["get_weather('London') runs", "light rain", "find_order(42) was asked for", "on its way"],
    "interruption.py": ["the story begins", "the user speaks", "(barge_in)", "the service keeps"],
    "push_to_talk.py": ["heard: (speech)", "answer: I heard you", "s of sound in answer.wav"],
    "transcription.py": ["item_", ": (speech)"],
    "two_assistants.py": ["Anna output: It is", "Bruno output: I heard you", "2 answers were given"],
    "flask_phone.py": ["call from +15550100", "caller: (speech)", "answer: I heard you", "gaps", "hung_up"],
    "many_machines.py": ["the other worker watches it", "output: I can", "closed: the process that owned", "ended at the gateway: 1"],
    "celery_tasks.py": ["answer: I am fine", "user: Hello!\nassistant: Hello!", "ended at the gateway: 3"],
    "replay.py": ["output: It is", "answer completed", "the handlers were told the same"],
}
PROGRAMS = {"many_machines.py": "redis-server"}  # what must be installed beside
ARGUMENTS = {"interruption.py": [], "flask_phone.py": ["--light", "--call"], "push_to_talk.py": ["question.wav", "answer.wav", "--light"]}


def run(name: str, folder: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example as a program of its own."""
    return subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("QAI_")} | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, tmp_path: pathlib.Path) -> None:
    """It ends with exit code 0, without a warning, and prints what it is about."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    if name in PROGRAMS and shutil.which(PROGRAMS[name]) is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed")
    with wave.open(str(tmp_path / "question.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(array("h", (round(9000 * math.sin(n * 0.1)) for n in range(16000))).tobytes())
    done = run(name, tmp_path, *ARGUMENTS.get(name, ["--light"]))
    assert done.returncode == 0, done.stderr
    # On a busy machine a handler may be slow for once, and the client says so.
    assert [line for line in done.stderr.splitlines() if "held up the conversation" not in line] == []
    for words in PRINTS[name]:
        assert words in done.stdout, done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_takes_another_address(name: str, tmp_path: pathlib.Path) -> None:
    """With `--url` it goes where it is told, and there it needs a key."""
    (tmp_path / "question.wav").write_bytes(b"")
    done = run(name, tmp_path, "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "no API key was given" in done.stderr
