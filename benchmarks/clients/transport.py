"""Our transport alone: whole messages, as the client takes them; that text is UTF-8 is then left to the JSON parser."""

from __future__ import annotations

import gauge

from qai_realtime_sync import transport


def receive() -> None:
    connection = transport.connect(gauge.URL, proxy=False)
    recv = connection.recv_all  # as the client does
    recv()  # session.created
    connection.send('{"type":"benchmark.go"}')
    meter = gauge.Meter()
    while not meter.done.is_set():
        for frame in recv():
            meter.tick(len(frame.payload))
    meter.report()
    connection.abort()


globals()[gauge.JOB["scene"]]()
