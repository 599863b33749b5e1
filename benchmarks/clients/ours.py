"""qai_realtime_sync, as a program uses it: a client, one handler, nothing tuned."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import gauge

from qai_realtime_sync import RealtimeClient


def client() -> RealtimeClient:
    return RealtimeClient.direct(gauge.URL, "key", dialect="openai", reconnect=False, proxy=False)


def receive() -> None:
    meter = gauge.Meter()
    speaks = client()
    speaks.on("audio_delta", lambda event: meter.tick(len(event.audio)))
    speaks.on("text_delta", lambda event: meter.tick())
    with speaks:
        speaks.send_event({"type": "benchmark.go"})
        meter.report()


def send() -> None:
    with client() as speaks:
        piece = gauge.PIECE
        speaks.send_audio(piece)

        def one() -> None:
            speaks.send_audio(piece)

        began = time.process_time()
        for at in range(gauge.COUNT):
            one()
            if not at % 100:
                speaks.drain(60)
        speaks.drain(60)
        gauge.answer(cpu_us=(time.process_time() - began) / gauge.COUNT * 1e6)


def latency() -> None:
    speaks = client()
    came = threading.Semaphore(0)
    took: list[int] = []
    began = 0
    clock = time.perf_counter_ns

    @speaks.on_text_delta
    def heard(event: Any) -> None:
        took.append(clock() - began)
        came.release()

    with speaks:
        for _ in range(gauge.WARM + gauge.COUNT):
            began = clock()
            speaks.send_audio(gauge.PIECE)
            came.acquire(timeout=10)
        gauge.answer(**gauge.percentiles(took[gauge.WARM :]))


def duplex() -> None:
    meter = gauge.Meter()
    speaks = client()
    ahead = threading.Semaphore(50)

    @speaks.on_audio_delta
    def heard(event: Any) -> None:
        meter.tick(len(event.audio))
        ahead.release()

    with speaks:
        for _ in range(gauge.WARM + gauge.COUNT):
            ahead.acquire(timeout=10)
            speaks.send_audio(gauge.PIECE)
        meter.report()


def sessions() -> None:
    if "switch" in gauge.JOB:
        sys.setswitchinterval(gauge.JOB["switch"])
    with client():
        pass  # what is loaded once counts for nobody
    many = gauge.Sessions()
    clients = []
    for _ in range(gauge.JOB["sessions"]):
        one = RealtimeClient.direct(gauge.JOB["session_url"], "key", dialect="openai", reconnect=False, proxy=False)
        one.on("audio_delta", lambda event: many.heard(event.event_id))
        clients.append(one.connect(30))
    many.run()
    for one in clients:
        one.abort()


def connect() -> None:
    def one() -> None:
        with client():
            pass

    one()
    gauge.answer(cpu_us=gauge.timed(one, gauge.COUNT))


globals()[gauge.JOB["scene"]]()
