"""What the adapters of web frameworks share: a client whose handlers run in the framework's context, made from its settings."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, TypeAlias

import attrs

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.client.handlers import check_handler
from qai_realtime_sync.client.mutation import ContextMutation
from qai_realtime_sync.client.signals import handles_sigterm
from qai_realtime_sync.config import UNSET, RealtimeConfig, Tool
from qai_realtime_sync.contrib.sse import journal_of
from qai_realtime_sync.conversation.schema import tool_from
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import Closed

__all__ = ["SETTINGS", "Around", "Kept", "WebClient", "worker_problem"]

Around: TypeAlias = Callable[[], AbstractContextManager[Any]]

SETTINGS: Mapping[str, Any] = {
    "QAI_API_KEY": None,  # None: the environment variable of this name
    "QAI_BASE_URL": None,
    "REALTIME_CONFIG": None,  # a RealtimeConfig, or a dict of its fields
    "REALTIME_CLIENT": None,  # a dict of further arguments of RealtimeClient
    "REALTIME_CLOSE_ON_SIGTERM": False,
}
"""The keys of a framework's configuration that the adapters read, with their defaults."""

_log = logging.getLogger("qai_realtime_sync")
_warned_in = 0  # the process that was warned of what SIGTERM will not do
_ENDED_FOR = 60.0  # seconds that a conversation can still be found after its end, so that a watcher learns of it


class WebClient(RealtimeClient):
    """A `RealtimeClient` whose handlers and tools run inside ``around()``, a context manager made anew for each call."""

    _around: Around

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], around: Around, config: RealtimeConfig | None, given: dict[str, Any]) -> WebClient:
        """Make a client by a framework's settings; what is ``given`` goes before them. With ``url`` it is a direct one.

        Raises: `ConfigError`, naming the setting.
        """
        if settings["REALTIME_CLOSE_ON_SIGTERM"]:
            _check_sigterm()
        further = settings["REALTIME_CLIENT"] or {}
        if not isinstance(further, Mapping):
            raise ConfigError(f"REALTIME_CLIENT must be a dict of arguments for RealtimeClient, not {type(further).__name__}")
        if "config" in further:
            raise ConfigError("REALTIME_CLIENT has an entry 'config': the configuration stands in REALTIME_CONFIG")
        if config is not None and not isinstance(config, RealtimeConfig):
            raise ConfigError(f"config must be a RealtimeConfig, not {type(config).__name__}; RealtimeConfig.from_dict(…) makes one")
        arguments = {**further, **given}
        chosen = config if config is not None else _configured(settings["REALTIME_CONFIG"])
        chosen = attrs.evolve(chosen, tools=_inside_tools(around, chosen.tools))
        if "url" in arguments:
            client = cls.direct(arguments.pop("url"), arguments.pop("token", ""), chosen, **arguments)
            assert isinstance(client, cls)
        else:
            key = arguments.pop("api_key", None) or settings["QAI_API_KEY"] or None
            base_url = arguments.pop("base_url", None) or settings["QAI_BASE_URL"] or None
            client = cls(key, chosen, base_url=base_url, **arguments)
        client._around = around
        journal_of(client)  # from the first event on, for whoever watches later
        return client

    def on(self, event: Any, function: Any = None, *, background: bool = False) -> Any:
        """As `RealtimeClient.on`; ``function`` is called in the framework's context."""
        if function is None:
            super().on(event, background=background)  # looks at the event
            return lambda f: self.on(event, f, background=background)
        super().on(event, self._inside(function), background=background)
        return function

    def once(self, event: Any, function: Any = None) -> Any:
        """As `RealtimeClient.once`; ``function`` is called in the framework's context."""
        if function is None:
            super().once(event)
            return lambda f: self.once(event, f)
        super().once(event, self._inside(function))
        return function

    def tool(self, function: Any = None, *, name: str = "", description: str = "", parameters: Any = None, timeout: float = 30.0) -> Any:
        """As `RealtimeClient.tool`; ``function`` is called in the framework's context."""
        if function is None:
            return lambda f: self.tool(f, name=name, description=description, parameters=parameters, timeout=timeout)
        made = tool_from(function, name=name, description=description, parameters=parameters, timeout=timeout)
        self._call.check_process()
        self._call.add_tool(attrs.evolve(made, function=_inside_tool(self._around, function)))
        return function

    def mutate_context(self, *, tools: Any = UNSET, **changes: Any) -> ContextMutation:
        """As `RealtimeClient.mutate_context`; the functions of ``tools`` are called in the framework's context."""
        return super().mutate_context(tools=_inside_tools(self._around, tools) if isinstance(tools, list) else tools, **changes)

    def _inside(self, function: Any) -> Any:
        check_handler(function)  # what it says of an async function must not be hidden by what wraps it
        return _Inside(self._around, function)


class _Inside:
    """A handler in its context; equal to the function itself, so that ``client.off`` finds it."""

    def __init__(self, around: Around, function: Callable[[Any], object]) -> None:
        functools.update_wrapper(self, function)
        self._around, self._function = around, function

    def __call__(self, event: Any) -> object:
        with self._around():
            return self._function(event)

    def __eq__(self, other: object) -> bool:
        return self._function == (other._function if isinstance(other, _Inside) else other)

    def __hash__(self) -> int:
        return hash(self._function)


def _inside_tool(around: Around, function: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(function, "_is_inside"):
        return function  # a tool of the client's own configuration, given again
    described: Any = function
    while isinstance(described, functools.partial):
        described = described.func
    if not inspect.isroutine(described):
        described = described.__call__  # annotations stand there, not on the object

    @functools.wraps(described)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with around():
            return function(*args, **kwargs)

    inside.__dict__.update(__signature__=inspect.signature(function), _is_inside=True)
    return inside


def _inside_tools(around: Around, tools: list[Any]) -> list[Any]:
    """The same tools, with their functions in the context."""
    return [
        attrs.evolve(tool, function=_inside_tool(around, tool.function)) if isinstance(tool, Tool) and tool.function is not None else tool
        for tool in tools
    ]


def _configured(value: Any) -> RealtimeConfig:
    if value is None:
        return RealtimeConfig()
    if isinstance(value, RealtimeConfig):
        return value
    if isinstance(value, Mapping):
        return RealtimeConfig.from_dict(value)
    raise ConfigError(f"REALTIME_CONFIG must be a RealtimeConfig or a dict of its fields, not {type(value).__name__}")


class Kept:
    """Conversations of this process that outlive the request that began them, by names that nobody can guess."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards both
        self._clients: dict[str, RealtimeClient] = {}
        self._ended: dict[str, float] = {}

    def add(self, client: RealtimeClient) -> str:
        """Keep a client until a minute after its end; return its name."""
        name = secrets.token_urlsafe(16)
        with self._lock:
            self._forget()
            self._clients[name] = client
        RealtimeClient.on(client, Closed, lambda _: self._end(name))  # no context is needed for it
        if client.state in ("closed", "failed"):
            self._end(name)
        return name

    def _end(self, name: str) -> None:
        with self._lock:
            if name in self._clients:
                self._ended.setdefault(name, self._clock())

    def get(self, name: str) -> RealtimeClient | None:
        """Return the client of this name, ``None`` if there is none in this process."""
        with self._lock:
            self._forget()
            return self._clients.get(name)

    def _forget(self) -> None:
        for old in [old for old, at in self._ended.items() if self._clock() - at > _ENDED_FOR]:
            del self._ended[old], self._clients[old]


def _check_sigterm() -> None:
    """Warn, once in a process, when SIGTERM will not close conversations here though the settings want it."""
    global _warned_in
    if "uwsgi" in sys.modules:
        problem = "uWSGI handles it by itself: calls are closed when a worker ends, but only if it serves no request just then"
    elif not handles_sigterm():
        problem = (
            "another handler stands in the place of ours, as with gunicorn --preload, or this process was forked afterwards: call "
            "install_signal_handlers() in each worker, with gunicorn in post_worker_init"
        )
    else:
        return
    if _warned_in != os.getpid():
        _warned_in = os.getpid()
        _log.warning("REALTIME_CLOSE_ON_SIGTERM has no effect in this process: %s", problem)


def worker_problem() -> str:
    """Say why conversations that last cannot run in this web worker; ``""`` if nothing is known against it.

    gunicorn's sync worker is killed after its timeout, 30 seconds, while it serves a WebSocket or an event stream; before uWSGI 2.0.27
    threads run only while a request is served, unless it is told otherwise.
    """
    if "gunicorn.workers.sync" in sys.modules:
        return "gunicorn kills its sync workers while they serve a WebSocket or an event stream: use --worker-class gthread --threads 20"
    uwsgi = sys.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", None)
    if isinstance(options, Mapping):
        named = {key.decode() if isinstance(key, bytes) else str(key) for key in options}
        version = [int(number) for number in re.findall(r"\d+", str(getattr(uwsgi, "version", "")))]
        if version < [2, 0, 27] and not named & {"enable-threads", "threads", "gevent"}:
            return "this uWSGI runs threads only while it serves a request, so conversations stand still in between: use --enable-threads"
    return ""
