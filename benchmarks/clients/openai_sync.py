"""openai-python's synchronous realtime client."""

from __future__ import annotations

import base64
import threading
import time
from typing import Any

import gauge
from openai import OpenAI


def client() -> OpenAI:
    return OpenAI(api_key="key", websocket_base_url=gauge.URL.split("/realtime")[0])


def connect_to(url: str, openai: OpenAI) -> Any:
    query = dict(pair.split("=", 1) for pair in url.split("?", 1)[1].split("&"))
    return openai.realtime.connect(model="gpt-realtime", extra_query=query)


def receive() -> None:
    meter = gauge.Meter()
    decode = base64.b64decode
    with connect_to(gauge.URL, client()) as connection:
        connection.recv()
        connection.send({"type": "benchmark.go"})
        for event in connection:
            if event.type == "response.output_audio.delta":
                more = meter.tick(len(decode(event.delta)))
            else:
                more = meter.tick()
            if not more:
                break
        meter.report()


def send() -> None:
    encode = base64.b64encode
    with connect_to(gauge.URL, client()) as connection:
        append = connection.input_audio_buffer.append
        gauge.answer(cpu_us=gauge.timed(lambda: append(audio=encode(gauge.PIECE).decode()), gauge.COUNT))


def latency() -> None:
    encode = base64.b64encode
    took = []
    clock = time.perf_counter_ns
    with connect_to(gauge.URL, client()) as connection:
        connection.recv()
        for _ in range(gauge.WARM + gauge.COUNT):
            began = clock()
            connection.input_audio_buffer.append(audio=encode(gauge.PIECE).decode())
            connection.recv()
            took.append(clock() - began)
        gauge.answer(**gauge.percentiles(took[gauge.WARM :]))


def duplex() -> None:
    meter = gauge.Meter()
    encode, decode = base64.b64encode, base64.b64decode
    ahead = threading.Semaphore(50)
    with connect_to(gauge.URL, client()) as connection:
        connection.recv()

        def read() -> None:
            for event in connection:
                ahead.release()
                if not meter.tick(len(decode(event.delta))):
                    break

        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(gauge.WARM + gauge.COUNT):
            ahead.acquire(timeout=10)
            connection.input_audio_buffer.append(audio=encode(gauge.PIECE).decode())
        meter.report()
        thread.join()


def sessions() -> None:
    openai = client()
    with connect_to(gauge.URL, openai) as connection:
        connection.recv()
    many = gauge.Sessions()
    opened = []
    decode = base64.b64decode

    def read(connection: Any) -> None:
        for event in connection:
            if event.type == "response.output_audio.delta":
                decode(event.delta)
                many.heard(event.event_id)

    for _ in range(gauge.JOB["sessions"]):
        connection = connect_to(gauge.JOB["session_url"], openai).enter()
        connection.send({"type": "session.update", "session": {"type": "realtime"}})
        threading.Thread(target=read, args=(connection,), daemon=True).start()
        opened.append(connection)
    many.run()
    import os

    os._exit(0)


def connect() -> None:
    openai = client()

    def one() -> None:
        with connect_to(gauge.URL, openai) as connection:
            connection.recv()

    one()
    gauge.answer(cpu_us=gauge.timed(one, gauge.COUNT))


globals()[gauge.JOB["scene"]]()
