"""Light servers that many tests share, one per dialect; a test that needs another one makes its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")
pytest.importorskip("werkzeug", reason="the local server needs werkzeug")

from caller import Caller

from qai_realtime_sync.offline import RealtimeServer


@pytest.fixture
def xai() -> Iterator[RealtimeServer]:
    """A light server that speaks as xAI and the gateway do; fast, so that no test waits for sound."""
    with RealtimeServer(light=True, pace=1000) as server:
        yield server


@pytest.fixture
def openai() -> Iterator[RealtimeServer]:
    """A light server that speaks as OpenAI does."""
    with RealtimeServer(light=True, pace=1000, dialect="openai") as server:
        yield server


@pytest.fixture
def dial() -> Iterator[Callable[..., Caller]]:
    """Connect to a server; what is left open is closed."""
    callers: list[Caller] = []

    def dial(server: RealtimeServer, path: str = "", **options: Any) -> Caller:
        callers.append(Caller(server.ws_url + path, **options))
        return callers[-1]

    yield dial
    for caller in callers:
        caller.close()
