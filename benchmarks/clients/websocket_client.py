"""websocket-client with the standard library's json, as its documentation shows."""

from __future__ import annotations

import base64
import json
import time

import gauge
import websocket


def receive() -> None:
    sock = websocket.create_connection(gauge.URL)
    sock.recv()
    sock.send('{"type":"benchmark.go"}')
    meter = gauge.Meter()
    while True:
        event = json.loads(sock.recv())
        size = len(base64.b64decode(event["delta"])) if event["type"] == "response.output_audio.delta" else 0
        if not meter.tick(size):
            break
    meter.report()


def append() -> str:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(gauge.PIECE).decode()})


def send() -> None:
    sock = websocket.create_connection(gauge.URL)
    gauge.answer(cpu_us=gauge.timed(lambda: sock.send(append()), gauge.COUNT))


def latency() -> None:
    sock = websocket.create_connection(gauge.URL)
    sock.recv()
    took = []
    clock = time.perf_counter_ns
    for _ in range(gauge.WARM + gauge.COUNT):
        began = clock()
        sock.send(append())
        json.loads(sock.recv())
        took.append(clock() - began)
    gauge.answer(**gauge.percentiles(took[gauge.WARM :]))


def connect() -> None:
    def one() -> None:
        sock = websocket.create_connection(gauge.URL)
        sock.recv()
        sock.close()

    one()
    gauge.answer(cpu_us=gauge.timed(one, gauge.COUNT))


globals()[gauge.JOB["scene"]]()
