"""The local server as a process of its own, which can be killed, stopped and started again."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from types import TracebackType

__all__ = ["ROOT", "START", "ServerProcess"]

ROOT = pathlib.Path(__file__).parents[2]
START = 30.0  # seconds a process may take to start or end on a busy computer


class ServerProcess:
    """Listens once it is made; ``options`` are those of ``python -m qai_realtime_sync.offline``; a context manager."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "qai_realtime_sync.offline", "--light", "--pace", "1000", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.url = line.split()[-1]
                self.port = int(self.url.rsplit(":", 1)[1])
                return
        raise AssertionError("the server did not start")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def end(self) -> int:
        """Kill it, stopped or not, and reap it; return its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(START)

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()
