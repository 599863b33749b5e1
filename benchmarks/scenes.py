"""What is measured: each scene runs its programs and returns one table."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from benchmarks import environments
from benchmarks.rounds import SLOWNESS, Bench, Results, medians

OPENAI = "openai-python sync"
ALL = ("floor", "ours", "ours, no extra", OPENAI, "websockets.sync + json", "websocket-client + json")
_runs = itertools.count(1)


@attrs.define
class Table:
    """Rows of numbers under a title; ``key`` is the number compared, ``target`` what is promised of it."""

    name: str
    title: str
    rows: Results
    key: str
    unit: str
    targets: list[tuple[str, str, str, float]] = attrs.field(factory=list)
    """(words, row above, row below, limit): above / below must be at least the limit; a negative limit: at most."""
    promises: list[tuple[str, str, float]] = attrs.field(factory=list)
    """(words, another number of ours, limit): as above."""


# kind of event -> (how many, promised against openai-python, promised without extras, wire bytes)
_KINDS: dict[str, tuple[int, float, float]] = {
    "text": (60_000, 20, 10), "audio6": (25_000, 10, 2.5), "audio27": (12_000, 8, 0), "mix": (40_000, 12, 0),
}  # fmt: skip
TITLES = {"text": "235 B text delta", "audio6": "6.5 KB audio", "audio27": "27 KB audio", "mix": "1:1 mix"}


def receive(bench: Bench, tls: bool = False) -> Iterator[Table]:
    """Socket to typed event with decoded sound in one handler, as fast as each takes it."""
    for kind, (many, promised, bare) in _KINDS.items():
        who = [*ALL]
        if kind != "text" and kind != "mix":
            who.append("ElevenLabs loop")
        if kind == "audio27" or kind == "audio6":
            who.insert(1, "transport")
        if tls:
            who = [name for name in who if name not in ("websocket-client + json", "ElevenLabs loop")]

        def job(name: str, kind: str = kind, many: int = many) -> dict[str, Any]:
            share = SLOWNESS[name] / (4 if bench.quick else 1)
            if name == "websocket-client + json" and kind != "text":
                share /= 20
            count = max(200, int(many * share))
            warm = count // 10
            flow = kind.replace("audio", "eleven") if name == "ElevenLabs loop" else kind
            path = "/v1/convai/conversation" if name == "ElevenLabs loop" else "/v1/realtime"
            url = bench.url({"flow": flow, "count": count + warm + 5}, tls=tls, path=path)
            return {"scene": "receive", "url": url, "count": count, "warm": warm}

        rows = bench.interleaved(who, job)
        targets = [(f"openai-python / ours ≥ {promised:g}", OPENAI, "ours", promised)]
        if bare:
            targets.append((f"openai-python / ours without extras ≥ {bare:g}", OPENAI, "ours, no extra", bare))
        if "transport" in rows:
            targets.append(("transport / floor ≤ 1.15", "transport", "floor", -1.15))
        title = f"Receive {TITLES[kind]}{', TLS' if tls else ''}"
        yield Table(f"receive{'-tls' if tls else ''}-{kind}", title, rows, "cpu_us", "µs CPU/event", targets)


def receive_tls(bench: Bench) -> Iterator[Table]:
    """The same inside TLS."""
    yield from receive(bench, tls=True)


def pace(bench: Bench) -> Iterator[Table]:
    """One event per wake-up, 200 a second: the wake-up dominates."""
    count = 400 if bench.quick else 1000

    def job(name: str) -> dict[str, Any]:
        url = bench.url({"flow": "audio6", "count": count + 55, "rate": 200})
        return {"scene": "receive", "url": url, "count": count, "warm": 50}

    rows = bench.interleaved(["floor", "ours", "ours, no extra", OPENAI], job)
    yield Table("pace", "Receive 6.5 KB audio at 200 a second", rows, "cpu_us", "µs CPU/event")


def send(bench: Bench) -> Iterator[Table]:
    """One piece of the user's sound: pcm in, a masked frame out."""
    for ms in (20, 100):

        def job(name: str, ms: int = ms) -> dict[str, Any]:
            share = SLOWNESS[name] * (2 if name == OPENAI else 1) / (4 if bench.quick else 1)
            return {"scene": "send", "url": bench.url({"sink": 1}), "count": int(20_000 * share), "ms": ms}

        rows = bench.interleaved(ALL, job)
        targets = [("openai-python / ours ≥ 12", OPENAI, "ours", 12.0)]
        yield Table(f"send-{ms}", f"Send {ms} ms of sound", rows, "cpu_us", "µs CPU/message", targets)


def latency(bench: Bench) -> Iterator[Table]:
    """From send to the handler of the answer, one conversation."""
    count = 1000 if bench.quick else 4000
    job = {"scene": "latency", "url": bench.url({"echo": "text"}), "count": count, "warm": 200}
    rows = bench.interleaved(ALL, lambda name: job)
    floor = rows["floor"]["p50_us"]
    for row in rows.values():
        if row:
            row["over_floor_us"] = row["p50_us"] - floor
    targets = [("openai-python's overhead / ours ≥ 8", OPENAI, "ours", 8.0), ("ours ≤ 12 µs over the floor", "ours", "", -12.0)]
    yield Table("latency", "Round trip: 20 ms of sound out, 235 B event in", rows, "over_floor_us", "µs over the floor, p50", targets)


def duplex(bench: Bench) -> Iterator[Table]:
    """Both ways at once: 20 ms out and 6.5 KB in, up to 50 on the way."""

    def job(name: str) -> dict[str, Any]:
        count = int(10_000 * SLOWNESS[name] * (2 if name == OPENAI else 1) / (4 if bench.quick else 1))
        return {"scene": "duplex", "url": bench.url({"echo": "audio6"}), "count": count, "warm": 100}

    rows = bench.interleaved(["ours", "ours, no extra", OPENAI], job)
    yield Table("duplex", "Both ways: 20 ms out and 6.5 KB in", rows, "cpu_us", "µs CPU/pair")


def sessions(bench: Bench, tls: bool = False) -> Iterator[Table]:
    """Many conversations in one process, 20 events of 3.4 KB a second each, a thread for each."""
    seconds = 4 if bench.quick else 8
    measured: dict[int, dict[str, float]] = {}
    for number in (1, 10, 100, 300, 1000) if not tls else (100,):
        who = ["ours", "ours, rare switches"] if number > 300 else ["ours", OPENAI]

        def job(name: str, number: int = number) -> dict[str, Any]:
            query = {"sessions": number, "rate": 20, "seconds": seconds, "run": next(_runs)}
            return {
                "scene": "sessions",
                "url": bench.url({"sink": 1}, tls=tls),
                "session_url": bench.url(query, tls=tls),
                "sessions": number,
                "rate": 20,
                "seconds": seconds,
                **({"switch": 0.1} if name == "ours, rare switches" else {}),  # as docs/scaling.md advises for so many threads
            }

        rows = bench.interleaved(who, job, rounds=1 if number > 100 or bench.quick else 2, timeout=200)
        title = f"{number} session{'s' * (number > 1)}{', TLS' if tls else ''}, 20 events of 3.4 KB a second each"
        table = Table(f"sessions-{number}{'-tls' * tls}", title, rows, "cpu_percent", "% of a core")
        if number == 1000:
            table.targets = [("cpu ≤ 60 % of a core", "ours", "", -60.0)]
            table.promises = [("delivered ≥ 99.5 %", "delivered", 99.5), ("delay p50 ≤ 1000 µs", "p50_us", -1000.0)]
        if number == 100:
            limit = 100.0 if tls else 60.0
            table.promises = [(f"memory of an open session ≤ {limit:g} KB", "kb_open", -limit)]
        yield table
        if rows["ours"]:
            measured[number] = rows["ours"]
    if len(measured) > 1:
        yield Table("sessions-fit", "What one more session takes, fitted", {"ours": _fitted(measured)}, "cpu_percent", "% of a core")


def _fitted(measured: dict[int, dict[str, float]]) -> dict[str, float]:
    """The slope of the straight line through what was measured while everything was delivered, by least squares."""
    points = {number: row for number, row in measured.items() if row["delivered"] >= 99.5}
    centre = sum(points) / len(points)
    spread = sum((number - centre) ** 2 for number in points)

    def slope(key: str, times: Callable[[int], float]) -> float:
        return sum((number - centre) * row[key] * times(number) for number, row in points.items()) / spread

    return {
        "cpu_percent": slope("cpu_percent", lambda number: 1.0),
        "kb_open": slope("kb_open", float),
        "kb_after": slope("kb_after", float),
        "up_to_sessions": float(max(points)),
    }


def sessions_tls(bench: Bench) -> Iterator[Table]:
    """The same inside TLS, for the memory."""
    yield from sessions(bench, tls=True)


def connect(bench: Bench) -> Iterator[Table]:
    """From nothing to the first event inside TLS and back, with each library's own TLS settings."""
    count = 30 if bench.quick else 60
    job = {"scene": "connect", "url": bench.url({"echo": "text"}, tls=True), "count": count}
    rows = bench.interleaved([name for name in ALL if name != "floor"], lambda name: job)
    targets = [("openai-python / ours ≥ 10", OPENAI, "ours", 10.0)]
    yield Table("connect", "Connect and close inside TLS", rows, "cpu_us", "µs CPU", targets)


_MADE = "from qai_realtime_sync import RealtimeClient; RealtimeClient('k')"
_IMPORTS = {
    "ours": ("ours", _MADE),
    "ours, and all it connects with": ("ours", f"{_MADE}; import qai_realtime_sync.client.reader, qai_realtime_sync.transport, websocket"),
    "attrs alone": ("ours", "import attrs"),
    OPENAI: ("peers", "from openai import OpenAI; OpenAI(api_key='k').realtime; import websockets.sync.client"),
    "ElevenLabs": ("peers", "from elevenlabs.conversational_ai.conversation import Conversation"),
}


def imports(bench: Bench) -> Iterator[Table]:
    """CPU of a process that only gets ready, less that of an empty one: a client is made, and for openai-python what it connects with.

    Ours loads that with the first `connect`; the second row says what it takes then, so that nothing is hidden.
    """
    collected: dict[str, list[dict[str, float]]] = {name: [] for name in _IMPORTS}
    tail = "; import time, json; print(json.dumps({'cpu_us': (time.process_time() - t) * 1e6}))"
    for _ in range(max(5, bench.rounds)):
        for name, (environment, code) in _IMPORTS.items():
            command = [environments.python(environment), "-c", f"import time; t = time.process_time(); {code}{tail}"]
            collected[name].append(bench.process(command, name))
    rows = {name: medians(many) for name, many in collected.items()}
    targets = [("openai-python / ours ≥ 10", OPENAI, "ours", 10.0)]
    yield Table("imports", "Import", rows, "cpu_us", "µs CPU", targets)


SCENES: dict[str, Callable[[Bench], Iterator[Table]]] = {
    "receive": receive,
    "receive-tls": receive_tls,
    "pace": pace,
    "send": send,
    "latency": latency,
    "duplex": duplex,
    "sessions": sessions,
    "sessions-tls": sessions_tls,
    "connect": connect,
    "imports": imports,
}
