"""Run measured programs in turn, A B A B, each in a process of its own, and keep the median of the rounds."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments

CLIENTS = Path(__file__).resolve().parent / "clients"

# name in the tables -> (program, environment)
WHO: dict[str, tuple[str, str]] = {
    "floor": ("floor", "plain"),
    "transport": ("transport", "ours"),
    "ours": ("ours", "ours"),
    "ours before": ("ours", "ours"),
    "ours, no extra": ("ours", "plain"),
    "ours, rare switches": ("ours", "ours"),
    "openai-python sync": ("openai_sync", "peers"),
    "websockets.sync + json": ("websockets_sync", "peers"),
    "websocket-client + json": ("websocket_client", "peers"),
    "ElevenLabs loop": ("elevenlabs_loop", "peers"),
}
SLOWNESS = {
    "floor": 1.0, "transport": 1.0, "ours": 1.0, "ours before": 1.0, "ours, no extra": 0.5, "openai-python sync": 0.12,
    "websockets.sync + json": 0.15, "websocket-client + json": 0.1, "ElevenLabs loop": 0.2,
}  # fmt: skip
"""How many of the events each gets, so that all take about as long."""

Results = dict[str, dict[str, float]]


class Bench:
    """One server and the programs that are run against it.

    Ours is measured in a copy made at the start, so that what is edited meanwhile does not mix in. ``against`` is another tree, whose
    package is measured beside it as ``ours before``.
    """

    def __init__(self, rounds: int, quick: bool, against: Path | None = None) -> None:
        self.rounds = rounds
        self.quick = quick
        self.against = against
        self._tree = Path(tempfile.mkdtemp(prefix="qai-benchmarks-"))
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(environments.TREE / "qai_realtime_sync", self._tree / "qai_realtime_sync", ignore=skipped)
        self._certificate, self._bundle = environments.certificates()
        command = [environments.python("plain"), "-m", "benchmarks.server", self._certificate]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=environments.TREE)
        assert self._server.stdout is not None
        self._plain, self._tls = map(int, self._server.stdout.readline().split())

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(10)
        shutil.rmtree(self._tree)

    def url(self, query: Mapping[str, Any], *, tls: bool = False, path: str = "/v1/realtime") -> str:
        """An address of the server."""
        where = f"wss://localhost:{self._tls}" if tls else f"ws://127.0.0.1:{self._plain}"
        return where + path + "?" + "&".join(f"{key}={value}" for key, value in query.items())

    def run(self, who: str, job: Mapping[str, Any], timeout: float = 90) -> dict[str, float]:
        """One round of one program."""
        program, environment = WHO[who]
        command = [environments.python(environment), str(CLIENTS / f"{program}.py"), json.dumps(job)]
        return self.process(command, who, timeout)

    def process(self, command: Sequence[str], who: str, timeout: float = 90) -> dict[str, float]:
        """Run a program whose last line is its answer in JSON; nothing if it failed, which is told."""
        foreign = ("_proxy", "_ca_bundle", "pythondontwritebytecode")  # without bytecode ours alone would be compiled at each start
        scrubbed = {key: value for key, value in os.environ.items() if not key.lower().endswith(foreign)}
        tree = self.against if who == "ours before" else self._tree
        env = {**scrubbed, "PYTHONPATH": str(tree), "SSL_CERT_FILE": self._bundle}
        try:
            # Elsewhere: with "-c" the working folder comes before PYTHONPATH, and would be measured in place of the copy.
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env, cwd=tempfile.gettempdir())
            return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]
        except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
            said = done.stderr.strip()[-400:] if isinstance(error, (IndexError, ValueError)) else f"not done within {timeout} s"
            print(f"  {who} failed: {said}", flush=True)
            return {}

    def interleaved(self, who: Sequence[str], job: Any, rounds: int = 0, timeout: float = 90) -> Results:
        """``rounds`` times each in turn; medians. ``job(name)`` makes the job of one."""
        if self.against is not None and "ours" in who:
            who = ["ours before", *who]
        collected: dict[str, list[dict[str, float]]] = {name: [] for name in who}
        for _ in range(rounds or self.rounds):
            for name in who:
                collected[name].append(self.run(name, job(name), timeout))
        return {name: medians(many) for name, many in collected.items()}


def medians(many: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each number over the rounds."""
    keys = [key for key in many[0] if all(key in one for one in many)] if many else []
    return {key: statistics.median(one[key] for one in many) for key in keys}
