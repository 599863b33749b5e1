"""The public names: complete, sorted, documented, and cheap to import."""

from __future__ import annotations

import ast
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import qai_realtime_sync
from qai_realtime_sync import commands, errors, events


def test_all_is_sorted_and_has_no_name_twice() -> None:
    """`__all__` is in order, so that a new name has one place."""
    assert list(qai_realtime_sync.__all__) == sorted(set(qai_realtime_sync.__all__))


@pytest.mark.parametrize("name", qai_realtime_sync.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    """Each name of `__all__` can be imported, and says what it is."""
    value = getattr(qai_realtime_sync, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        text = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        assert text
        assert text.strip().splitlines()[0].endswith((".", ":"))


@pytest.mark.parametrize(
    ("module", "base"), [(events, events.Event), (commands, commands.Command), (errors, errors.RealtimeError)]
)
def test_every_event_command_and_error_is_public(module: object, base: type) -> None:
    """A user needs every event, command and error by name; none is left out."""
    wanted = {name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)}
    assert wanted - set(qai_realtime_sync.__all__) == set()


def test_type_checkers_see_the_same_names() -> None:
    """What a type checker reads in `__init__` is what `__all__` promises."""
    assert qai_realtime_sync.__file__
    tree = ast.parse(pathlib.Path(qai_realtime_sync.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname or alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(qai_realtime_sync.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A name that does not exist is refused as Python refuses it."""
    with pytest.raises(AttributeError, match="no_such_name"):
        qai_realtime_sync.no_such_name  # noqa: B018
    assert set(qai_realtime_sync.__all__) <= set(dir(qai_realtime_sync))


def test_the_version_is_the_installed_one() -> None:
    """`__version__` and the installed metadata agree."""
    from importlib.metadata import version

    assert qai_realtime_sync.__version__ == version("qai-realtime-sync")


VOCABULARY = [
    module.name
    for module in pkgutil.iter_modules(qai_realtime_sync.__path__)
    if module.name in ("errors", "audio", "config", "commands", "turns", "events", "seam", "rest")
]


@pytest.mark.parametrize("name", VOCABULARY)
def test_a_module_of_the_vocabulary_lists_and_documents_its_names(name: str) -> None:
    """`__all__` of a module holds exactly its public classes and functions, each with a docstring."""
    module = importlib.import_module(f"qai_realtime_sync.{name}")
    own = {
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (inspect.isclass(value) or inspect.isroutine(value))
        and value.__module__ == module.__name__
    }
    assert own <= set(module.__all__)
    for key in module.__all__:
        value = getattr(module, key)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, key


@pytest.mark.parametrize(
    "statement",
    ["import qai_realtime_sync", "from qai_realtime_sync import AudioDelta, RealtimeConfig, RealtimeSession, ConfigError"],
)
def test_importing_costs_next_to_nothing(statement: str) -> None:
    """Neither the package nor its vocabulary loads a library that takes time: those come with the first connection."""
    heavy = ("requests", "urllib3", "cattrs", "websocket", "numpy", "soxr", "orjson", "pybase64", "asyncio", "http.client")
    code = f"{statement}\nimport sys\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_the_rest_client_does_not_load_requests() -> None:
    """Making a RestClient loads nothing heavy; its first call does."""
    code = "from qai_realtime_sync import RestClient\nRestClient('qai_k')\nimport sys\nprint('requests' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
