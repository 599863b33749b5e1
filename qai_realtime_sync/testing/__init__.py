"""A realtime service for the tests of your own program: scripted, faulty on demand, recorded or replayed.

    from qai_realtime_sync.testing import ScriptedServer

    with ScriptedServer() as server:
        server.on_text("pizza").call_tool("order", {"size": "large"}).then_say("Ordered!")
        ...

With pytest the fixture `realtime_server` is such a server. Needs the extra ``testing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qai_realtime_sync.testing.expectation import Expectation
    from qai_realtime_sync.testing.faults import Faults
    from qai_realtime_sync.testing.journal import Entry, Journal
    from qai_realtime_sync.testing.recording import RecordingServer
    from qai_realtime_sync.testing.replaying import ReplayServer
    from qai_realtime_sync.testing.server import ScriptedServer
    from qai_realtime_sync.testing.telephone import FakeCaller

__all__ = ["Entry", "Expectation", "FakeCaller", "Faults", "Journal", "RecordingServer", "ReplayServer", "ScriptedServer"]

_MODULES = {
    "Entry": "journal",
    "Expectation": "expectation",
    "FakeCaller": "telephone",
    "Faults": "faults",
    "Journal": "journal",
    "RecordingServer": "recording",
    "ReplayServer": "replaying",
    "ScriptedServer": "server",
}


def __getattr__(name: str) -> Any:
    # Loaded when it is first used: every run of pytest imports this package for its plugin.
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
