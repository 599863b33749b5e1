"""A process that owns a shared conversation, so that a test can kill it."""

from __future__ import annotations

import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time

__all__ = ["OwnerProcess"]

_CODE = """
import logging, sys
from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.contrib.redis import share
logging.basicConfig(level=logging.INFO)
redis, gateway, ttl, mint = sys.argv[1:]
client = RealtimeClient("any key", base_url=gateway, mint=mint == "mint")
owner = share(client, redis, ttl=float(ttl), labels={"user": "anna"})
client.connect()
owner.drain()
print("READY", owner.conversation_id, client.session.session_id, flush=True)
closed = client.wait()
print("CLOSED", closed.by, closed.reason, flush=True)
owner.close()
print("STATE", owner.state, flush=True)
"""


class OwnerProcess:
    """Connects and shares; `conversation_id` and `session_id` are known once it has."""

    def __init__(self, redis: str, gateway: str, *, ttl: float = 1.0, mint: bool = True) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CODE, redis, gateway, str(ttl), "mint" if mint else "no"],
            env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.output = ""
        words = self.line("READY").split() + [""]
        self.conversation_id, self.session_id = words[1], words[2]

    def line(self, word: str, within: float = 30.0) -> str:
        """Wait for the line of its output that begins with this word."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + within
        whole = re.compile(rf"^{word}.*\n", re.MULTILINE)
        while not (found := whole.findall(self.output)):
            ready = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]
            piece = os.read(self.process.stdout.fileno(), 65536).decode() if ready else ""
            if not piece:
                self.kill()
                raise AssertionError(f"no {word} came: {self.output} {self.complaints}")
            self.output += piece
        return found[0].rstrip("\n")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it without a word, as a crash or the kernel would."""
        self.process.kill()
        self.finish()

    def finish(self, within: float = 20.0) -> int:
        """Wait for its end."""
        output, complaints = self.process.communicate(timeout=within)
        self.output += output.decode()
        self.complaints = complaints.decode()
        return self.process.returncode

    complaints = ""

    def __enter__(self) -> OwnerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
