"""What every measured program needs: its job, a count of events with the CPU of the whole process between two of them, its answer."""

from __future__ import annotations

import base64
import json
import sys
import threading
import time
from typing import Any

JOB: dict[str, Any] = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
URL: str = JOB.get("url", "")
WARM: int = JOB.get("warm", 0)
COUNT: int = JOB.get("count", 1)

PIECE = b"\x01\x02" * (24 * JOB.get("ms", 20))  # pcm16, 24 kHz
PIECE_BASE64 = base64.b64encode(PIECE).decode()


class Meter:
    """Counts events; CPU and wall clock run from event ``WARM`` to event ``WARM + COUNT``. Called by one thread."""

    def __init__(self) -> None:
        self.seen = 0
        self.bytes = 0
        self.done = threading.Event()
        self._last = WARM + COUNT

    def tick(self, size: int = 0) -> bool:
        """Count one event with ``size`` bytes of decoded sound; false once it was the last."""
        self.seen = seen = self.seen + 1
        self.bytes += size
        if seen == WARM:
            self.cpu, self.wall = time.process_time(), time.perf_counter()
        elif seen == self._last:
            self.cpu = time.process_time() - self.cpu
            self.wall = time.perf_counter() - self.wall
            self.done.set()
            return False
        return True

    def report(self) -> None:
        """Wait for the last event and answer with CPU microseconds per event."""
        if not self.done.wait(120):
            raise SystemExit(f"only {self.seen} of {self._last} events came")
        answer(cpu_us=self.cpu / COUNT * 1e6, wall_us=self.wall / COUNT * 1e6, bytes=self.bytes)


def answer(**values: Any) -> None:
    """Say what was measured."""
    print(json.dumps(values), flush=True)


def percentiles(nanoseconds: list[int]) -> dict[str, float]:
    """Median and 99th percentile in microseconds."""
    ordered = sorted(nanoseconds)
    return {"p50_us": ordered[len(ordered) // 2] / 1e3, "p99_us": ordered[int(len(ordered) * 0.99)] / 1e3}


def rss_kb() -> float:
    """Resident memory of this process in KiB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4


def timed(action: Any, times: int) -> float:
    """CPU microseconds of one call."""
    began = time.process_time()
    for _ in range(times):
        action()
    return (time.process_time() - began) / times * 1e6


class Sessions:
    """Many conversations in one process: each event says when it was sent; CPU and memory of them all."""

    def __init__(self) -> None:
        self.late: list[int] = []
        self._empty = rss_kb()
        self._began = 0.0

    def heard(self, event_id: str) -> None:
        """One event has reached its handler."""
        self.late.append(time.monotonic_ns() - int(event_id[4:]))

    def run(self) -> None:
        """All are open: wait for the end of the run and answer."""
        opened = rss_kb()
        number, seconds, rate = JOB["sessions"], JOB["seconds"], JOB["rate"]
        deadline = time.monotonic() + 60
        while not self.late and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        cpu, wall = time.process_time(), time.perf_counter()
        threading.Event().wait(seconds - 0.25)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        threading.Event().wait(0.75)
        late = self.late[:]
        due = int(number * seconds * rate)
        answer(
            delivered=100 * len(late) / due,
            cpu_percent=100 * cpu / wall,
            kb_open=(opened - self._empty) / number,
            kb_after=(rss_kb() - self._empty) / number,
            threads=threading.active_count(),
            **(percentiles(late) if late else {"p50_us": float("inf"), "p99_us": float("inf")}),
        )
