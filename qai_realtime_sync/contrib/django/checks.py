"""System checks: settings that make no client, a missing key, and web workers in which conversations cannot last."""

from __future__ import annotations

import ast
import os
import pathlib
import shlex
from typing import Any

from django.core.checks import Error, Warning

from qai_realtime_sync.contrib.django import own_connections, realtime_settings
from qai_realtime_sync.contrib.web_client import WebClient, worker_problem
from qai_realtime_sync.errors import ConfigError

__all__ = ["check_key", "check_settings", "check_worker"]

_COMPUTED = object()  # a value that stands in no file: from the environment, say


def check_settings(**_: object) -> list[Any]:
    """Error ``qai_realtime.E001``: no client can be made by the settings. Opens nothing."""
    try:
        WebClient.from_settings(realtime_settings(), own_connections, None, {})
    except ConfigError as error:
        return [Error(str(error), hint="See QAI_API_KEY, QAI_BASE_URL, REALTIME_CONFIG and REALTIME_CLIENT.", id="qai_realtime.E001")]
    return []


def check_key(**_: object) -> list[Any]:
    """Warning ``qai_realtime.W001``: there is no key, neither in the settings nor in the environment."""
    settings = realtime_settings()
    further = settings["REALTIME_CLIENT"] if isinstance(settings["REALTIME_CLIENT"], dict) else {}
    if "url" in further or further.get("api_key") or settings["QAI_API_KEY"] or os.environ.get("QAI_API_KEY"):
        return []
    return [
        Warning(
            "There is no API key, so no conversation can begin.",
            hint="Set QAI_API_KEY, in the settings or in the environment (for a local server any text will do).",
            id="qai_realtime.W001",
        )
    ]


def check_worker(**_: object) -> list[Any]:
    """Warning ``qai_realtime.W002``: this is, or gunicorn's configuration says, a worker in which conversations cannot last."""
    problem = worker_problem() or _configured_problem(pathlib.Path("gunicorn.conf.py"), os.environ.get("GUNICORN_CMD_ARGS", ""))
    if not problem:
        return []
    return [Warning(f"Conversations cannot last in this web worker: {problem}.", id="qai_realtime.W002")]


def _configured_problem(file: pathlib.Path, arguments: str) -> str:
    """Read what gunicorn would read, without running it; ``""`` where nothing is configured, or it is only known when it runs."""
    found: dict[str, Any] = {}
    try:
        found.update(_constants(ast.parse(file.read_text(encoding="utf-8"))))
    except (OSError, SyntaxError, ValueError):
        if not arguments:
            return ""
    names = {"-k": "worker_class", "--worker-class": "worker_class", "--threads": "threads"}
    words = [part for word in _words(arguments) for part in (word.split("=", 1) if word.startswith("--") else [word])]
    found.update({names[word]: value for word, value in zip(words, words[1:]) if word in names})
    if _COMPUTED in (found.get("worker_class"), found.get("threads")):
        return ""
    is_sync = str(found.get("worker_class", "sync")).rpartition(".")[2] in ("sync", "SyncWorker")
    if not is_sync or str(found.get("threads", 1)) != "1":  # with threads gunicorn takes gthread by itself
        return ""
    return "gunicorn is configured for sync workers, which it kills while they serve an event stream: use worker_class gthread, threads 20"


def _constants(program: ast.Module) -> dict[str, Any]:
    """Return the names that a program gives a value, with those that are written there, and `_COMPUTED` for all others."""
    given: list[str] = []
    for node in ast.walk(program):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            given.append(node.id)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.asname or alias.name for alias in node.names]
            given += ["worker_class", "threads"] if names == ["*"] else names
    found: dict[str, Any] = dict.fromkeys(given, _COMPUTED)
    for node in program.body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            once = [target.id for target in targets if isinstance(target, ast.Name) and given.count(target.id) == 1]
            found.update(dict.fromkeys(once, node.value.value))
    return found


def _words(arguments: str) -> list[str]:
    try:
        return shlex.split(arguments)
    except ValueError:
        return arguments.split()
