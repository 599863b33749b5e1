"""Who listens to what, and how a handler is run: in order, one at a time, its failure told and never fatal."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any, TypeAlias

import attrs

from qai_realtime_sync.conversation.metrics import HandlerTime
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import Event, event_class

__all__ = ["Handler", "Handlers", "Registration"]

Handler: TypeAlias = Callable[[Any], object]

_log = logging.getLogger("qai_realtime_sync")
_SLOW = 0.1
_WARN_AGAIN = 60.0


@attrs.define(eq=False, repr=False)
class Registration:
    """One handler and how it wants to be called."""

    event: type[Event]
    function: Handler
    name: str
    background: bool = False
    once: bool = False
    spent: bool = False
    slowest: float = 0.0  # seconds
    calls: int = 0
    warned: float = 0.0  # how slow it was when that was told last, and when that was
    warned_at: float = 0.0


class Handlers:
    """The table of handlers. Registering is legal from any thread at any time; a handler that is removed is not called again."""

    def __init__(
        self, in_background: Callable[[Registration, Event], None], failed: Callable[[Registration, Event, BaseException], None]
    ) -> None:
        self._in_background = in_background
        self._failed = failed
        self._lock = threading.Lock()  # guards _registered and _resolved
        self._registered: list[Registration] = []
        self._resolved: dict[type[Event], tuple[Registration, ...]] = {}

    def add(self, event: str | type[Event], function: Handler, *, background: bool = False, once: bool = False) -> None:
        """Register ``function`` for an event. Raises: `ConfigError` for an unknown event or a function that cannot take one argument."""
        cls = event_class(event)
        name = check_handler(function)
        with self._lock:
            self._registered.append(Registration(cls, function, name, background, once))
            self._resolved = {}

    def remove(self, event: str | type[Event], function: Handler | None = None) -> None:
        """Forget one handler of an event, or all of them."""
        cls = event_class(event)
        with self._lock:
            for registration in self._registered:
                if registration.event is cls and (function is None or registration.function == function):
                    registration.spent = True
            self._registered = [r for r in self._registered if not r.spent]
            self._resolved = {}

    def any_for(self, event: type[Event]) -> bool:
        """Tell whether somebody listens to exactly this event."""
        with self._lock:
            return any(r.event is event for r in self._registered)

    def dispatch(self, event: Event) -> None:
        """Call the handlers of ``event`` in the order of their registration; never raises."""
        cls = event.__class__
        registrations = self._resolved.get(cls)
        for registration in self._resolve(cls) if registrations is None else registrations:
            if registration.spent:
                continue
            if registration.once:
                self._spend(registration)
            if registration.background:
                self._in_background(registration, event)
                continue
            started = monotonic()  # from here on as `run`, without the detour: this is done for every event
            try:
                registration.function(event)
            except BaseException as error:
                self._failed(registration, event, error)
            took = monotonic() - started
            registration.calls += 1
            if took > registration.slowest or took > _SLOW:
                self._was_slow(registration, event, took, started + took)

    def run_later(self, registration: Registration, event: Event) -> None:
        """Call a handler whose turn on the lane has come, unless it was removed meanwhile."""
        if not registration.spent:
            self.run(registration, event)

    def run(self, registration: Registration, event: Event) -> None:
        """Call one handler; a failure goes to ``failed``, slowness into the log: once, then if it got twice as bad, or a minute later."""
        started = monotonic()
        try:
            registration.function(event)
        except BaseException as error:  # also SystemExit: the reader must not die of it without a word
            self._failed(registration, event, error)
        took = monotonic() - started
        registration.calls += 1
        if took > registration.slowest or took > _SLOW:
            self._was_slow(registration, event, took, started + took)

    def _was_slow(self, registration: Registration, event: Event, took: float, ended: float) -> None:
        """A handler took longer than ever, or too long."""
        registration.slowest = max(registration.slowest, took)
        if took <= _SLOW or registration.background:
            return
        if not registration.warned or took >= 2 * registration.warned or ended - registration.warned_at >= _WARN_AGAIN:
            registration.warned, registration.warned_at = took, ended
            _log.warning(
                "handler %s for %s held up the conversation for %.0f ms; register it with background=True",
                registration.name,
                event.event_name,
                took * 1000,
            )

    def slowest(self) -> tuple[HandlerTime, ...]:
        """Return the longest that each handler took, the slowest first."""
        with self._lock:
            called = [r for r in self._registered if r.calls]
        times = [
            HandlerTime(handler=r.name, event=r.event.event_name, slowest=r.slowest, calls=r.calls, background=r.background) for r in called
        ]
        return tuple(sorted(times, key=lambda time: -time.slowest))

    def _resolve(self, cls: type[Event]) -> tuple[Registration, ...]:
        with self._lock:
            found = tuple(r for r in self._registered if issubclass(cls, r.event))
            self._resolved[cls] = found
            return found

    def _spend(self, registration: Registration) -> None:
        with self._lock:
            registration.spent = True
            self._registered = [r for r in self._registered if r is not registration]
            self._resolved = {}


def check_handler(function: object) -> str:
    """Return a handler's name for messages. Raises: `ConfigError` if it cannot be called with one argument, or is asynchronous."""
    if not callable(function):
        raise ConfigError(f"a handler must be callable, not {type(function).__name__}")
    name = getattr(function, "__qualname__", None) or repr(function)
    called = (function, type(function).__call__)
    if any(map(inspect.iscoroutinefunction, called)) or any(map(inspect.isasyncgenfunction, called)):
        raise ConfigError(f"handler {name} is an async function, and nothing here would await it; use a plain function")
    if any(map(inspect.isgeneratorfunction, called)):
        raise ConfigError(f"handler {name} is a generator, and calling it would run nothing of it; use a plain function")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise ConfigError(f"handler {name} must take one argument, the event: {error}") from None
    except ValueError:
        pass  # a builtin without a signature: calling it is the only way to know
    return str(name)
