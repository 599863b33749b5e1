"""Runs the command line as a process, and knows what is left of it."""

from __future__ import annotations

import os
import pathlib
import select
import signal
import subprocess
import sys
import time

__all__ = ["COMMAND", "Running", "children_of", "ended"]

COMMAND = [sys.executable, "-W", "error", "-m", "qai_realtime_sync"]


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

    def read_until(self, words: str, within: float = 60.0, *, whole: bool = True) -> str:
        """Read until a line (a ``whole`` one, or its beginning) has these words, and return it; fails the test if the output ends first."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        end = "\n" if whole else ""
        while not (lines := [line for line in self.output.splitlines(keepends=True) if words in line and line.endswith(end)]):
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            assert piece, f"{words!r} did not come within {within:g} s; the output is:\n{self.output}"
            self.output += piece
        return lines[0].rstrip("\n")

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
