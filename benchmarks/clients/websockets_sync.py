"""websockets' threaded client with the standard library's json."""

from __future__ import annotations

import base64
import json
import time

import gauge
from websockets.sync.client import connect as dial


def open_one():  # type: ignore[no-untyped-def]
    return dial(gauge.URL, max_size=None, compression=None)


def receive() -> None:
    meter = gauge.Meter()
    with open_one() as sock:
        sock.recv()
        sock.send('{"type":"benchmark.go"}')
        while True:
            event = json.loads(sock.recv())
            size = len(base64.b64decode(event["delta"])) if event["type"] == "response.output_audio.delta" else 0
            if not meter.tick(size):
                break
        meter.report()


def append() -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(gauge.PIECE).decode()})


def send() -> None:
    with open_one() as sock:
        gauge.answer(cpu_us=gauge.timed(lambda: sock.send(append()), gauge.COUNT))


def latency() -> None:
    took = []
    clock = time.perf_counter_ns
    with open_one() as sock:
        sock.recv()
        for _ in range(gauge.WARM + gauge.COUNT):
            began = clock()
            sock.send(append())
            json.loads(sock.recv())
            took.append(clock() - began)
    gauge.answer(**gauge.percentiles(took[gauge.WARM :]))


def connect() -> None:
    def one() -> None:
        with open_one() as sock:
            sock.recv()

    one()
    gauge.answer(cpu_us=gauge.timed(one, gauge.COUNT))


globals()[gauge.JOB["scene"]]()
