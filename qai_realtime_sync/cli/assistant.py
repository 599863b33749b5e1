"""How the assistant should be, as options: voice, model, instructions, and tools from a Python module."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from qai_realtime_sync import RealtimeConfig, Tool
from qai_realtime_sync.conversation.schema import tool_from
from qai_realtime_sync.errors import ConfigError

__all__ = ["add_assistant", "config_from", "load_object", "load_tools"]


def add_assistant(parser: argparse.ArgumentParser, *, tools: bool = True) -> None:
    """Add the options that say how the assistant should be; `config_from` reads them back."""
    parser.add_argument("--voice", help="the voice of the answer")
    parser.add_argument("--model", help="the model (default: the service's own)")
    parser.add_argument("--instructions", metavar="TEXT", default="", help="how the assistant should behave")
    if tools:
        parser.add_argument("--tools", metavar="MODULE:NAME", action="append", default=[], help="a function, or a list of them")


def config_from(arguments: argparse.Namespace, **more: Any) -> RealtimeConfig:
    """Return the configuration of these options; ``more`` are further fields. Raises: `ConfigError`."""
    given: dict[str, Any] = {"instructions": arguments.instructions, "model": arguments.model or ""}
    if arguments.voice:
        given["voice"] = arguments.voice
    if getattr(arguments, "tools", None):
        given["tools"] = load_tools(arguments.tools)
    return RealtimeConfig(**given, **more)


def load_tools(specs: Iterable[str]) -> list[dict[str, Any] | Tool]:
    """Return the tools that ``module:name`` name: a function, a `Tool`, a list of them, or a module's public functions.

    Raises: `ConfigError` for what cannot be found, imported or called, and for two tools of one name.
    """
    tools: list[dict[str, Any] | Tool] = []
    for spec in specs:
        found = load_object(spec, "--tools")
        if isinstance(found, ModuleType):
            found = _functions_of(found)
        tools += [_tool(one, spec) for one in (found if isinstance(found, (list, tuple)) else [found])]
    names = [tool.name for tool in tools if isinstance(tool, Tool)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"--tools: two tools are called {', '.join(twice)}; give each a name of its own")
    return tools


def load_object(spec: str, option: str) -> Any:
    """Import what ``module:name`` names, also from the current folder; without a name the module. Raises: `ConfigError`."""
    module_name, _, path = spec.partition(":")
    with contextlib.suppress(OSError):  # a folder that was deleted holds no module
        here = os.getcwd()
        if here not in sys.path:  # as `python -m` has it, and an installed command has not
            sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script that ends when it is imported must not end us without a word
        said = f"there is no module {module_name!r} here" if _is_missing(error, module_name) else f"{type(error).__name__}: {error}"
        raise ConfigError(f"{option} {spec}: {said}; give MODULE:NAME, like weather:get_weather for a file weather.py") from error
    for name in filter(None, path.split(".")):
        if not hasattr(found, name):
            raise ConfigError(f"{option} {spec}: {module_name} has no {path!r}; it has: {', '.join(_names(found)) or 'nothing public'}")
        found = getattr(found, name)
    return found


def _is_missing(error: BaseException, module: str) -> bool:
    return isinstance(error, ValueError) or (isinstance(error, ModuleNotFoundError) and module.startswith(error.name or "\0"))


def _names(owner: Any) -> list[str]:
    public = getattr(owner, "__dict__", {}).items()
    return sorted(name for name, value in public if not name.startswith("_") and callable(value))


def _functions_of(module: ModuleType) -> list[Any]:
    return [
        value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


def _tool(value: Any, spec: str) -> Tool:
    if isinstance(value, Tool):
        return value
    if not callable(value):
        raise ConfigError(f"--tools {spec}: a tool must be a function, a Tool or a list of them, not {type(value).__name__}")
    return tool_from(value)
