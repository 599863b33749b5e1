"""The pytest plugin: the fixtures `realtime_server` and `realtime_cassette`, and a failing test's report of what was not met.

Every run of pytest loads it where the package is installed, so it imports nothing of the package before a test asks for a fixture.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qai_realtime_sync.testing.recording import RecordingServer
    from qai_realtime_sync.testing.replaying import ReplayServer
    from qai_realtime_sync.testing.server import ScriptedServer

_SERVERS = "_qai_realtime_servers"
_RECORDED = pytest.StashKey[dict[Path, str]]()  # which test has recorded which file in this run
_CASSETTES_OWN = ("cassette", "ignore")
_MARKER = (
    "realtime(dialect=…, strict=…, must_complete=…, …): the options of the fixture realtime_server, those of ScriptedServer; "
    "cassette=FILE for realtime_cassette"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that records cassettes anew."""
    group = parser.getgroup("realtime", "realtime voice (qai-realtime-sync)")
    group.addoption(
        "--realtime-record",
        metavar="URL",
        help="record the cassettes of realtime_cassette against this service (wss://…; its key in QAI_API_KEY) instead of replaying them",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", _MARKER)


def _options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return the options of all markers, the nearest first, and of an indirect parameter (a dict, or the name of a dialect)."""
    options: dict[str, Any] = {}
    for marker in reversed(list(request.node.iter_markers("realtime"))):
        if marker.args:
            raise pytest.UsageError(f"the marker realtime takes named options only, like dialect='openai', not {marker.args!r}")
        options.update(marker.kwargs)
    given = getattr(request, "param", None)
    return {**options, **({"dialect": given} if isinstance(given, str) else given or {})}


@pytest.fixture
def realtime_server(request: pytest.FixtureRequest) -> Iterator[ScriptedServer]:
    """A realtime service on loopback for this test; at its end everything that was expected must have happened."""
    from qai_realtime_sync.testing.server import ScriptedServer

    options = {name: value for name, value in _options(request).items() if name not in _CASSETTES_OWN}
    server = ScriptedServer(**options).start()
    _watch(request, server)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def realtime_cassette(request: pytest.FixtureRequest) -> Iterator[ReplayServer | RecordingServer]:
    """A service that answers as it did when the cassette was recorded; with ``--realtime-record URL`` the real one, recorded anew."""
    options = _options(request)
    path = _cassette_path(request, options.pop("cassette", None))
    upstream = request.config.getoption("--realtime-record")
    server: ReplayServer | RecordingServer
    if upstream:
        from qai_realtime_sync.testing.recording import RecordingServer

        options = _options_of(RecordingServer, options)
        first = request.config.stash.setdefault(_RECORDED, {}).setdefault(path, request.node.nodeid)
        if first != request.node.nodeid:
            raise pytest.UsageError(f"{path.name} was just recorded by {first}: name another file, @pytest.mark.realtime(cassette=…)")
        server = RecordingServer(path, upstream=upstream, upstream_key=os.environ.get("QAI_API_KEY", ""), **options)
    else:
        from qai_realtime_sync.testing.replaying import ReplayServer

        server = ReplayServer(path, **_options_of(ReplayServer, options))
    server.start()
    _watch(request, server)
    try:
        yield server
    finally:
        server.stop()


def _options_of(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    """Return those options that a server of cassettes has: a marker of a whole module may give the other fixture's too."""
    from qai_realtime_sync.testing.server import option_names

    own = inspect.signature(kind).parameters.keys() - {"path", "upstream", "upstream_key"}
    unknown = options.keys() - own - {*option_names(), *_CASSETTES_OWN}
    if unknown:
        told, there_are = ", ".join(map(repr, sorted(unknown))), ", ".join(["cassette", *sorted(own)])
        raise pytest.UsageError(f"realtime_cassette has no option {told}; there are: {there_are}")
    return {name: value for name, value in options.items() if name in own}


def _cassette_path(request: pytest.FixtureRequest, named: str | None) -> Path:
    """Return the file of a test's cassette: as the marker names it, or ``cassettes/MODULE.TEST.jsonl``, beside the test's file.

    Before the name of a method come those of its classes, which may have methods of the same name.
    """
    here = Path(str(request.node.path))
    if named:
        return here.parent / named
    names = [node.name for node in request.node.listchain() if isinstance(node, pytest.Class)] + [request.node.name]
    safe = re.sub(r"[^\w.-]+", "_", ".".join(names)).strip("_")
    return here.parent / "cassettes" / f"{here.stem}.{safe}.jsonl"


def _watch(request: pytest.FixtureRequest, server: Any) -> None:
    request.node.__dict__.setdefault(_SERVERS, []).append(server)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, None]:
    """Fail a test whose service did not get to see what was expected; add that to the report of one that failed anyway."""
    outcome = yield
    servers = item.__dict__.pop(_SERVERS, [])
    failed = outcome.excinfo[0] if outcome.excinfo is not None else _failed_in_unittest(item)
    if failed is None:
        try:
            for server in servers:
                if server.must_complete:
                    server.assert_complete()
        except AssertionError as error:
            outcome.force_exception(pytest.fail.Exception(str(error), pytrace=False))  # where it was raised says nothing to anybody
    elif not issubclass(failed, pytest.skip.Exception):
        for server in servers:
            if report := server.report():
                item.add_report_section("call", "realtime service", report)


def _failed_in_unittest(item: pytest.Item) -> type[BaseException] | None:
    """Return what a method of a `unittest.TestCase` failed with: pytest keeps that for its report, and raises nothing."""
    kept = getattr(item, "_excinfo", None)
    return kept[-1].type if kept else None
