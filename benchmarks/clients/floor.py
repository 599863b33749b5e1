"""The floor: what the sockets alone cost in Python."""

from __future__ import annotations

import time

import gauge
import raw


def receive() -> None:
    sock = raw.upgrade(gauge.URL)
    sizes = raw.frame_sizes(sock)
    next(sizes)  # session.created
    sock.sendall(raw.masked(b'{"type":"benchmark.go"}'))
    meter = gauge.Meter()
    for size in sizes:
        if not meter.tick(size):
            break
    meter.report()


def send() -> None:
    sock = raw.upgrade(gauge.URL)
    frame = raw.masked(b'{"type":"input_audio_buffer.append","audio":"%b"}' % gauge.PIECE_BASE64.encode())
    gauge.answer(cpu_us=gauge.timed(lambda: sock.sendall(frame), gauge.COUNT))


def latency() -> None:
    sock = raw.upgrade(gauge.URL)
    sizes = raw.frame_sizes(sock)
    next(sizes)
    frame = raw.masked(b'{"type":"input_audio_buffer.append","audio":"%b"}' % gauge.PIECE_BASE64.encode())
    took = []
    clock = time.perf_counter_ns
    for _ in range(gauge.WARM + gauge.COUNT):
        began = clock()
        sock.sendall(frame)
        next(sizes)
        took.append(clock() - began)
    gauge.answer(**gauge.percentiles(took[gauge.WARM :]))


globals()[gauge.JOB["scene"]]()
