"""The rooms of the package and who may import whom, as a table that is checked; each rule is tested on a made-up violation."""

from __future__ import annotations

import ast
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping

import pytest

PACKAGE = "qai_realtime_sync"
ROOT = pathlib.Path(__file__).parent.parent

# -- the table ---------------------------------------------------------------------------------------------------------------

# In the order of the design: a room imports only rooms that stand above it.
VOCABULARY = ("errors", "fields", "audio", "config", "commands", "turns", "events", "seam")
MEETING = ("dialects", "transport", "rest", "conversation")  # do not know each other; they meet in client
EDGES = ("devices", "offline", "testing", "cli", "contrib")  # nothing above imports these
ROOMS = (*VOCABULARY, *MEETING, "client", *EDGES)

MAY_IMPORT: dict[str, frozenset[str]] = {
    **{room: frozenset(ROOMS[: ROOMS.index(room)]) for room in ROOMS},
    **{room: frozenset(VOCABULARY) for room in MEETING},
    "transport": frozenset({"errors", "seam"}),  # knows Frame, but no event, command or dialect
    "rest": frozenset({"errors", "config"}),
}

# Above the edges each library has one owner: a room, or one module of it. numpy comes in where soxr wants it, and where a mask is
# laid over a frame in a program that has loaded it anyway.
OWNERS: dict[str, tuple[str, ...]] = {
    "websocket": ("transport",),
    "websockets": ("transport",),
    "ssl": ("transport",),
    "socket": ("transport",),
    "certifi": ("transport",),
    "requests": ("rest",),
    "urllib3": ("rest",),
    "soxr": ("audio",),
    "numpy": ("audio", "transport"),
    "pybase64": ("audio",),
    "orjson": ("dialects.wire",),
    "opentelemetry": ("conversation.telemetry",),
}
EVERYWHERE = frozenset({"attr", "attrs", "cattrs", "typing_extensions"})
SHARED_AT_THE_EDGES = frozenset({"pytest", "numpy"})

# What is pure opens nothing, starts nothing, waits for nothing and tells nobody.
PURE = frozenset({*VOCABULARY, "dialects"})
IMPURE = frozenset({"asyncio", "logging", "multiprocessing", "select", "selectors", "signal", "subprocess", "threading", "time"})

FORBIDDEN_NAMES = re.compile(r"utils?|helpers?|common|core|misc|base_.*|.*_?managers?")


# -- the checker -------------------------------------------------------------------------------------------------------------


def imports(module: str, source: str, is_package: bool) -> Iterator[tuple[str, int]]:
    """Give every imported module with its line: at the top, in functions and under TYPE_CHECKING alike."""
    parents = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            # "from package import room" names the room only in the alias
            yield from ((f"{base}.{alias.name}" if base == PACKAGE else base, node.lineno) for alias in node.names)


def room_of(module: str) -> str:
    """Return the room that a module stands in, ``""`` for the package itself and for other libraries."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else ""


def wrong_imports(files: Mapping[str, str]) -> list[str]:
    """Return every import against the table; ``files`` is source by module name, of packages ending in ``.__init__``."""
    problems = []
    at_the_edges: dict[str, set[str]] = {}
    for name, source in files.items():
        module = name.removesuffix(".__init__")
        room = room_of(module)
        if not room or room == "__main__":
            continue
        if room not in MAY_IMPORT:
            problems.append(f"{module}: {room!r} is no room of the table")
            continue
        for imported, line in imports(module, source, name.endswith(".__init__")):
            where = f"{module}:{line} imports {imported}"
            library = imported.split(".")[0]
            if library == PACKAGE:
                target = room_of(imported)
                if target not in MAY_IMPORT:
                    if room not in EDGES:  # an edge may use the public names, as any program does
                        problems.append(f"{where}, which is no room")
                elif target != room and target not in MAY_IMPORT[room]:
                    problems.append(f"{where}, but {room} may not know {target}")
            elif room in PURE and library in IMPURE:
                problems.append(f"{where}, but {room} is pure")
            elif room in EDGES:
                if library not in sys.stdlib_module_names and library not in EVERYWHERE | SHARED_AT_THE_EDGES:
                    at_the_edges.setdefault(library, set()).add(_owner_at_the_edges(module))
            elif library in OWNERS:
                if not any(f"{module}.".startswith(f"{PACKAGE}.{owner}.") for owner in OWNERS[library]):
                    problems.append(f"{where}, which belongs to {' and '.join(OWNERS[library])}")
            elif library not in sys.stdlib_module_names and library not in EVERYWHERE:
                problems.append(f"{where}, a library without an owner")
    for library, modules in at_the_edges.items():
        if len(modules) > 1:
            problems.append(f"{library} is imported by {', '.join(sorted(modules))}; one file owns it")
    return problems


def _owner_at_the_edges(module: str) -> str:
    """Return who may own a library: the module itself; of an adapter that is a folder, because its framework looks there, the folder."""
    room, _, rest = module.removeprefix(f"{PACKAGE}.").partition(".")
    return f"{PACKAGE}.{room}.{rest.split('.')[0]}" if room == "contrib" and rest else module


def wrong_names(files: Mapping[str, str]) -> list[str]:
    """Return the modules whose names say nothing."""
    return [name for name in files if any(FORBIDDEN_NAMES.fullmatch(part) for part in name.split("."))]


def sleeps(files: Mapping[str, str]) -> list[str]:
    """Return every call of something named sleep, and every import of it."""
    found = []
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            called = isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"
            taken = isinstance(node, ast.ImportFrom) and any(alias.name == "sleep" for alias in node.names)
            if called or taken:
                found.append(f"{name}:{node.lineno}")
    return found


def swallowed(files: Mapping[str, str]) -> list[str]:
    """Return every handler that catches everything and does nothing."""
    found = []
    for name, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ExceptHandler) and all(isinstance(part, ast.Pass) for part in node.body):
                kind = ast.unparse(node.type) if node.type else "everything"
                if kind in ("everything", "Exception", "BaseException"):
                    found.append(f"{name}:{node.lineno}")
    return found


def code_in_init(source: str) -> list[str]:
    """Return the statements of the package's ``__init__`` that are more than names and their lazy loading."""
    problems = []
    for node in ast.parse(source).body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        lazy = isinstance(node, ast.FunctionDef) and node.name in ("__getattr__", "__dir__")
        types = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "_TYPE_CHECKING", "typing.TYPE_CHECKING")
        if not (docstring or lazy or types or isinstance(node, (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign))):
            problems.append(f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return problems


# -- the package -------------------------------------------------------------------------------------------------------------


def sources(folder: pathlib.Path) -> dict[str, str]:
    """Return the source of every module below a folder, by its dotted name."""
    return {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


@pytest.fixture(scope="module")
def package() -> dict[str, str]:
    """The source of the package's modules, also where only the installed one is there."""
    import qai_realtime_sync

    assert qai_realtime_sync.__file__
    found = sources(pathlib.Path(qai_realtime_sync.__file__).parent)
    assert len(found) > 5
    return found


def test_rooms_import_only_rooms_above(package: dict[str, str]) -> None:
    """No module imports a room below it, a room it must not know, or a library that another room owns."""
    assert wrong_imports(package) == []


def test_no_module_has_an_empty_name(package: dict[str, str]) -> None:
    """No module is called utils, helpers, common, core, manager or base_something."""
    assert wrong_names(package) == []


def test_the_package_is_not_code(package: dict[str, str]) -> None:
    """The package's `__init__` holds names and loads them lazily, nothing else."""
    assert code_in_init(package[f"{PACKAGE}.__init__"]) == []


def test_nothing_sleeps(package: dict[str, str]) -> None:
    """Nothing sleeps: not the package, its tests, nor its examples."""
    own = {name: text for name, text in sources(ROOT / "tests").items() if name != "tests.test_layers"}
    assert sleeps({**package, **own, **sources(ROOT / "examples")}) == []


def test_nothing_is_swallowed(package: dict[str, str]) -> None:
    """No handler catches everything to do nothing."""
    assert swallowed(package) == []


# -- the checker on made-up violations ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("errors", "import qai_realtime_sync.audio", "errors may not know audio"),
        ("config", "from qai_realtime_sync.events import Event", "config may not know events"),
        ("config", "from qai_realtime_sync import events", "config may not know events"),
        ("config", "from . import events", "config may not know events"),
        ("config", "from .events import Event", "config may not know events"),
        ("dialects.xai", "from ..transport import connection", "dialects may not know transport"),
        ("dialects.__init__", "from ..transport import dial", "dialects may not know transport"),
        ("transport.dial", "from qai_realtime_sync.events import Event", "transport may not know events"),
        ("transport.dial", "from qai_realtime_sync.commands import Command", "transport may not know commands"),
        ("rest.client", "from qai_realtime_sync.client import x", "rest may not know client"),
        ("conversation.tools", "def f():\n    import qai_realtime_sync.rest", "conversation may not know rest"),
        ("conversation.tools", "if TYPE_CHECKING:\n    from qai_realtime_sync.dialects import x", "may not know dialects"),
        ("client.reader", "from qai_realtime_sync.offline import x", "client may not know offline"),
        ("offline.server", "from qai_realtime_sync.cli import x", "offline may not know cli"),
        ("client.reader", "from qai_realtime_sync import RealtimeClient", "which is no room"),
        ("client.reader", "import qai_realtime_sync", "which is no room"),
        ("attic", "", "'attic' is no room of the table"),
        ("client.reader", "import websocket", "belongs to transport"),
        ("client.reader", "import ssl", "belongs to transport"),
        ("client.reader", "from requests.adapters import HTTPAdapter", "belongs to rest"),
        ("dialects.openai", "import orjson", "belongs to dialects.wire"),
        ("dialects.wireless", "import orjson", "belongs to dialects.wire"),
        ("dialects.wire", "import pybase64", "belongs to audio"),
        ("conversation.playback", "import soxr", "belongs to audio"),
        ("client.reader", "import rich", "a library without an owner"),
        ("dialects.openai", "import logging", "dialects is pure"),
        ("events", "import time", "events is pure"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str, problem: str) -> None:
    """The checker names a module that imports against the table, wherever the import stands."""
    found = wrong_imports({f"{PACKAGE}.{module}": source})
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("__init__", "from qai_realtime_sync.cli import main"),
        ("__main__", "from qai_realtime_sync.cli import main"),
        ("client.reader", "from ..dialects import x\nfrom ..transport import y\nfrom ..rest import z\nfrom .sender import s"),
        ("transport.dial", "import websocket, ssl, socket, threading\nfrom qai_realtime_sync.seam import Frame"),
        ("dialects.wire", "import orjson, json"),
        ("audio", "import soxr, numpy, pybase64, attrs"),
        ("cli.terminal", "from qai_realtime_sync import RealtimeClient"),
        ("cli.terminal", "import rich\nfrom qai_realtime_sync.offline import x"),
    ],
)
def test_a_right_import_is_not_found(module: str, source: str) -> None:
    """What the table allows is no violation."""
    assert wrong_imports({f"{PACKAGE}.{module}": source}) == []


def test_a_library_with_two_owners_at_the_edges_is_found() -> None:
    """At the edges each library is imported by one file."""
    files = {f"{PACKAGE}.cli.terminal": "import rich", f"{PACKAGE}.cli.talk": "from rich.live import Live"}
    assert wrong_imports(files) == [f"rich is imported by {PACKAGE}.cli.talk, {PACKAGE}.cli.terminal; one file owns it"]


def test_the_files_of_one_adapter_share_its_framework() -> None:
    """An adapter may be a folder, and its framework is still nobody else's."""
    files = {f"{PACKAGE}.contrib.django.{name}": "import django" for name in ("__init__", "apps", "management.commands.demo")}
    assert wrong_imports(files) == []
    (problem,) = wrong_imports({**files, f"{PACKAGE}.contrib.redis": "import django"})
    assert problem == f"django is imported by {PACKAGE}.contrib.django, {PACKAGE}.contrib.redis; one file owns it"


@pytest.mark.parametrize("name", ["utils", "client.helpers", "core.x", "common", "base_client", "session_manager", "manager"])
def test_a_wrong_name_is_found(name: str) -> None:
    """The checker names a module whose name says nothing."""
    assert wrong_names({f"{PACKAGE}.{name}": "", f"{PACKAGE}.dialects.base": ""}) == [f"{PACKAGE}.{name}"]


@pytest.mark.parametrize("source", ["time.sleep(1)", "from time import sleep", "sleep(0)", "await asyncio.sleep(1)"])
def test_a_sleep_is_found(source: str) -> None:
    """The checker names a sleep, however it is spelled."""
    assert sleeps({"x": f"async def f():\n    {source}"}) == ["x:2"]


@pytest.mark.parametrize("kind", ["", " Exception", " BaseException"])
def test_a_swallowed_error_is_found(kind: str) -> None:
    """The checker names a handler for everything that does nothing, and no other."""
    assert swallowed({"x": f"try:\n    f()\nexcept{kind}:\n    pass"}) == ["x:3"]
    assert swallowed({"x": "try:\n    f()\nexcept OSError:\n    pass"}) == []


@pytest.mark.parametrize("source", ["print(1)", "def connect(): ...", "class A: ...", "for x in y: ...", "if x: ..."])
def test_code_in_the_package_is_found(source: str) -> None:
    """The checker names code in `__init__`, and lets names and lazy loading be."""
    fine = '"""Doc."""\nfrom a import b\n__all__ = ["b"]\nif TYPE_CHECKING:\n    import c\ndef __getattr__(name): ...\n'
    assert code_in_init(fine) == []
    found = code_in_init(fine + source)
    assert len(found) == 1
    assert found[0].startswith("line 7: ")
