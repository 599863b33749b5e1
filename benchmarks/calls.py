"""Twenty telephone calls at once in one worker: how much sound comes late, how fast answers begin, how exactly they are cut.

    python -m benchmarks.calls                                # 20 calls of 20 s
    python -m benchmarks.calls --calls 5 --seconds 10

Three processes: the local server in light mode, gunicorn with one gthread worker that bridges all calls, and the callers here. In each
call the assistant tells a long story, and the caller interrupts it now and then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from array import array
from collections.abc import Iterator
from typing import Any

from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.testing.telephone import FakeCaller

__all__ = ["main", "measure", "shown"]

_ROOT = pathlib.Path(__file__).parents[1]
_READY = 30.0
_APART = 0.1  # seconds between two calls' beginnings
_LATE = 0.02


def speech() -> bytes:
    """Half a second that the light server takes for speech: PCM16 at 8000 Hz."""
    return array("h", (round(9000 * abs(math.sin(n * math.pi / 1600)) * math.sin(n * 0.17)) for n in range(4000))).tobytes()


def measure(calls: int, seconds: float, kind: str = "gthread") -> dict[str, Any]:
    """Make so many calls of so many seconds and return what came of them; see `shown`."""
    with ServerProcess(key="any key", light=True) as server:
        server.wait_until_ready()
        with worker(server.url, calls, kind) as address:
            callers = [FakeCaller(f"ws://{address}/media") for _ in range(calls)]
            failures: list[BaseException] = []
            began = fetch(address)["cpu"], time.monotonic()
            threads = [
                threading.Thread(target=converse, args=(caller, number, seconds, failures), name=f"caller-{number}")
                for number, caller in enumerate(callers)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            report = settled(address, calls)
            cpu = (report["cpu"] - began[0]) / (time.monotonic() - began[1])
            return summary(callers, report, server.journal()["journal"], failures) | {"cpu": cpu, "seconds": seconds}


@contextlib.contextmanager
def worker(url: str, calls: int, kind: str) -> Iterator[str]:
    """Run gunicorn with one worker of this class for so many calls at once; gives host and port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    # The timeout is shorter than the calls: it must not end them.
    options = ["--worker-class", kind, "--workers", "1", "--threads", str(calls + 4), "--timeout", "5", "--graceful-timeout", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", address, *options, "--log-level", "warning", "benchmarks.calls_app:create_app()"],
        cwd=_ROOT,
        env=os.environ | {"QAI_BASE_URL": url, "PYTHONPATH": str(_ROOT)},
    )
    try:
        until_answering(address, process)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until_answering(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the worker answers. Raises: `RealtimeError` if it does not."""
    deadline, pause = time.monotonic() + _READY, threading.Event()
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            fetch(address)
            return
        pause.wait(0.1)
    raise RealtimeError("gunicorn does not answer; is it installed? pip install gunicorn")


def fetch(address: str) -> dict[str, Any]:
    """The app's report."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/report", timeout=5) as answer:
        report: dict[str, Any] = json.load(answer)
        return report


def settled(address: str, calls: int) -> dict[str, Any]:
    """The report once all calls are over."""
    deadline, pause = time.monotonic() + _READY, threading.Event()
    while len((report := fetch(address))["calls"]) < calls and time.monotonic() < deadline:
        pause.wait(0.1)
    return report


def converse(caller: FakeCaller, number: int, seconds: float, failures: list[BaseException]) -> None:
    """Listen, and interrupt every six seconds or so, each caller at another time."""
    pause = threading.Event()
    pause.wait(number * _APART)
    try:
        with caller:
            ends = time.monotonic() + seconds
            pause.wait(2.0 + number % 7 / 2)
            while (left := ends - time.monotonic()) > 0:
                caller.say(speech(), 8000)
                pause.wait(min(left, 6.0))
    except (RealtimeError, OSError) as error:
        failures.append(error)


def summary(
    callers: list[FakeCaller], report: dict[str, Any], journal: list[dict[str, Any]], failures: list[BaseException]
) -> dict[str, Any]:
    """Join what the callers heard, what the app saw and what the server sent."""
    by_sid = {call["call_sid"]: call for call in report["calls"]}
    sent = {
        entry["response_id"]: entry["at"] for entry in reversed(journal) if entry["name"] == "response.output_audio.delta"
    }  # the first of each answer
    seen = {response: at for call in report["calls"] for response, at in call["first_delta"].items()}
    # The server's clock begins with it: the fastest of all first pieces tells by how much at most.
    offset = min((seen[response] - at for response, at in sent.items() if response in seen), default=0.0)
    first: list[float] = []
    cut: list[float] = []
    for caller in callers:
        call = by_sid.get(caller.call_sid)
        if call is None:
            continue
        begins = [one for number, one in enumerate(caller.heard) if not number or is_new(caller, number)]
        for response in call["first_delta"]:
            after = next((one for one in begins if one.arrived >= sent.get(response, math.inf) + offset), None)
            if after is not None:
                first.append(after.arrived - sent[response] - offset)
        if caller.clears and call["stopped"]:
            heard = sum(len(one.sound) for one in caller.heard if one.arrived < caller.clears[0]) / 8
            cut.append(abs(call["stopped"][0][1] - heard))
    pieces = sum(len(caller.heard) for caller in callers)
    return {
        "calls": len(callers),
        "failures": [f"{type(error).__name__}: {error}" for error in failures],
        "problems": [problem for caller in callers for problem in caller.problems],
        "reasons": sorted({call["reason"] for call in report["calls"]}),
        "heard": pieces,
        "gaps": [gap for caller in callers for gap in caller.gaps],
        "behind": sum(caller.behind for caller in callers),
        "said": sum(call["pieces"] for call in report["calls"]),
        "said_late": sum(call["late"] for call in report["calls"]),
        "said_worst": max((call["worst"] for call in report["calls"]), default=0.0),
        "own_late": sum(caller.own_late for caller in callers),
        "first": sorted(first),
        "clears": sum(len(caller.clears) for caller in callers),
        "cut": sorted(cut),
        "threads": report["threads"],
    }


def is_new(caller: FakeCaller, number: int) -> bool:
    """Whether this piece begins a sound: the caller had heard all before it, or cleared it."""
    one, before = caller.heard[number], caller.heard[number - 1]
    return one.arrived >= before.ends or any(before.arrived < clear <= one.arrived for clear in caller.clears)


def shown(result: dict[str, Any]) -> str:
    """The result in words."""

    def share(count: int, of: int) -> str:
        return f"{count} of {of} ({100 * count / max(1, of):.2f} %)"

    def spread(values: list[float], unit: str, factor: float = 1.0) -> str:
        if not values:
            return "none"
        middle, high = values[len(values) // 2], values[min(len(values) - 1, len(values) * 95 // 100)]
        return f"{factor * middle:.0f} {unit} in the middle, {factor * high:.0f} at 95 %, {factor * values[-1]:.0f} at most ({len(values)})"

    longest, worst = 1000 * max(result["gaps"], default=0.0), 1000 * result["said_worst"]
    lines = [
        f"{result['calls']} calls of {result['seconds']:g} s in one worker, which used {100 * result['cpu']:.0f} % of a core",
        f"pieces heard after a gap of more than 20 ms:  {share(len(result['gaps']), result['heard'])}, longest {longest:.0f} ms",
        f"pieces heard behind their time by as much:    {share(result['behind'], result['heard'])}",
        f"pieces said that reached the client so late:  {share(result['said_late'], result['said'])}, worst {worst:.0f} ms",
        f"pieces the callers themselves said so late:   {result['own_late']} (what they are is this machine's share)",
        f"server's first piece to the caller's ear:     {spread(result['first'], 'ms', 1000)}",
        f"cut at, beside what was heard:                {spread(result['cut'], 'ms')}; {result['clears']} interruptions",
    ]
    for name in ("failures", "problems"):
        lines += [f"{name}: {result[name][:5]}"] if result[name] else []
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calls", description="Telephone calls at once in one worker.")
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--worker-class", default="gthread", choices=("gthread", "gevent"))
    parser.add_argument("--json", action="store_true", help="print all of it as JSON")
    arguments = parser.parse_args()
    result = measure(arguments.calls, arguments.seconds, arguments.worker_class)
    print(json.dumps(result) if arguments.json else shown(result))
    return 1 if result["failures"] or result["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
