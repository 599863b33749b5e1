"""Registering and running handlers: order, once, off, failures, slowness; what cannot be a handler is refused."""

from __future__ import annotations

import functools
import logging
import re
import threading
from typing import Any

import pytest

from qai_realtime_sync.client import handlers as module
from qai_realtime_sync.client.handlers import Handlers, Registration, check_handler
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import AudioDelta, ErrorReceived, Event, SpeechStarted, SpeechStopped


class Table:
    """Handlers with a log of what became of them."""

    def __init__(self) -> None:
        self.log: list[Any] = []
        self.later: list[tuple[Registration, Event]] = []
        self.failed: list[tuple[str, BaseException]] = []
        self.handlers = Handlers(
            lambda registration, event: self.later.append((registration, event)),
            lambda registration, event, error: self.failed.append((registration.name, error)),
        )

    def on(self, event: Any, name: str, **options: Any) -> Any:
        def handler(event: Event) -> None:
            self.log.append(name)

        self.handlers.add(event, handler, **options)
        return handler


def test_handlers_run_in_the_order_of_their_registration() -> None:
    """By name, by class, or for all events: only the order counts; other events' handlers do not run."""
    table = Table()
    table.on("speech_started", "a")
    table.on(Event, "b")
    table.on(SpeechStarted, "c")
    table.on(Event, "d")
    table.on("speech_stopped", "e")
    table.handlers.dispatch(SpeechStarted())
    assert table.log == ["a", "b", "c", "d"]
    table.handlers.dispatch(AudioDelta(audio=b""))
    assert table.log[4:] == ["b", "d"]


def test_the_same_function_registered_twice_runs_twice() -> None:
    """Registering is not deduplicated, and one off takes both away."""
    table = Table()
    handler = table.on("error", "a")
    table.handlers.add(ErrorReceived, handler)
    table.handlers.dispatch(ErrorReceived(message="x"))
    assert table.log == ["a", "a"]
    table.handlers.remove("error", handler)
    table.handlers.dispatch(ErrorReceived(message="x"))
    assert table.log == ["a", "a"]


def test_once_is_for_the_next_event_only() -> None:
    """Also if its event comes again while it runs."""
    table = Table()

    def handler(event: Event) -> None:
        table.log.append("once")
        table.handlers.dispatch(SpeechStarted())

    table.handlers.add("speech_started", handler, once=True)
    table.handlers.dispatch(SpeechStarted())
    table.handlers.dispatch(SpeechStarted())
    assert table.log == ["once"]


def test_a_handler_that_is_removed_by_an_earlier_one_does_not_run() -> None:
    """Off holds from its return on, also within the running event."""
    table = Table()
    table.handlers.add("speech_started", lambda event: table.handlers.remove("speech_started", later))
    later = table.on("speech_started", "later")
    table.handlers.dispatch(SpeechStarted())
    assert table.log == []


def test_a_handler_that_is_added_while_an_event_runs_hears_the_next_one() -> None:
    """The running event goes to those that were registered when it began."""
    table = Table()
    table.handlers.add("speech_started", lambda event: table.on("speech_started", "new"), once=True)
    table.handlers.dispatch(SpeechStarted())
    assert table.log == []
    table.handlers.dispatch(SpeechStarted())
    assert table.log == ["new"]


def test_off_without_a_function_removes_all_of_that_event() -> None:
    """Handlers of other events, and of all events, stay."""
    table = Table()
    table.on("speech_started", "a")
    table.on("speech_started", "b")
    table.on(Event, "all")
    table.handlers.remove("speech_started")
    table.handlers.dispatch(SpeechStarted())
    assert table.log == ["all"]
    table.handlers.remove("speech_stopped", print)


def test_a_background_handler_is_handed_over_and_not_run() -> None:
    """Its turn on the lane runs it, unless it was removed meanwhile."""
    table = Table()
    handler = table.on("speech_started", "late", background=True)
    table.handlers.dispatch(SpeechStarted())
    assert table.log == []
    table.handlers.run_later(*table.later[0])
    assert table.log == ["late"]
    table.handlers.remove("speech_started", handler)
    table.handlers.run_later(*table.later[0])
    assert table.log == ["late"]


@pytest.mark.parametrize("error", [LookupError("x"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_handler_that_raises_is_reported_and_the_next_one_runs(error: BaseException) -> None:
    """Whatever it raises, also what would end a program."""
    table = Table()

    def broken(event: Event) -> None:
        raise error

    table.handlers.add("speech_started", broken)
    table.on("speech_started", "next")
    table.handlers.dispatch(SpeechStarted())
    assert table.log == ["next"]
    ((name, raised),) = table.failed
    assert name.endswith("broken")
    assert raised is error


def test_a_slow_handler_is_named_and_told_the_way_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """More than 100 ms on the reader is said once per event, not of handlers on the lane."""
    now = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    table = Table()

    def crawl(event: Event) -> None:
        now[0] += 0.25

    def walk(event: Event) -> None:
        now[0] += 0.099

    table.handlers.add("speech_started", crawl)
    table.handlers.add("speech_started", walk)
    table.handlers.add("speech_stopped", crawl, background=True)
    with caplog.at_level(logging.WARNING):
        table.handlers.dispatch(SpeechStarted())
        table.handlers.dispatch(SpeechStopped())
        table.handlers.run_later(*table.later[0])
    (record,) = caplog.records
    assert "crawl for speech_started held up the conversation for 250 ms" in record.message
    assert "background=True" in record.message


def test_who_listens_to_exactly_this_event() -> None:
    """A handler of all events does not count as one that answers function calls."""
    table = Table()
    table.on(Event, "all")
    assert not table.handlers.any_for(SpeechStarted)
    table.on("speech_started", "a")
    assert table.handlers.any_for(SpeechStarted)


@pytest.mark.parametrize(
    ("name", "near"),
    [("audio_dleta", "'audio_delta'"), ("transcript", "'transcript_"), ("xyzzy", "see qai_realtime_sync.events.EVENTS")],
)
def test_an_unknown_event_is_refused_with_the_nearest_names(name: str, near: str) -> None:
    """A misspelled name would otherwise be a handler that never runs."""
    for register in (Table().handlers.add, Table().handlers.remove):
        with pytest.raises(ConfigError, match=near):
            register(name, print)  # type: ignore[operator]


@pytest.mark.parametrize("event", [5, None, dict, object()], ids=lambda value: re.sub(r" at 0x\w+", "", str(value)))
def test_what_is_no_event_is_refused(event: Any) -> None:
    """Neither a number nor a class of something else."""
    with pytest.raises(ConfigError, match="there is no event"):
        Table().handlers.add(event, print)


class Async:
    async def __call__(self, event: Event) -> None:
        """Wait."""


class Method:
    def take(self, event: Event) -> None:
        """Take it."""

    def none(self) -> None:
        """Take nothing."""


async def waits(event: Event) -> None:
    """Wait."""


async def yields_later(event: Event) -> Any:
    """Wait and yield."""
    yield event


def yields(event: Event) -> Any:
    """Yield."""
    yield event


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "a handler must be callable, not NoneType"),
        ("print", "a handler must be callable, not str"),
        (waits, "waits is an async function, and nothing here would await it"),
        (functools.partial(waits), "is an async function"),
        (Async(), "is an async function"),
        (yields_later, "is an async function"),
        (yields, "yields is a generator"),
        (lambda: None, "must take one argument, the event"),
        (lambda a, b: None, "must take one argument, the event"),
        (lambda *, event: None, "must take one argument, the event"),
        (Method().none, "none must take one argument"),
        (Method.take, "take must take one argument"),
    ],
)
def test_what_cannot_be_a_handler_is_refused(function: Any, words: str) -> None:
    """The message names the function and what is wrong with it."""
    with pytest.raises(ConfigError, match=words):
        check_handler(function)


@pytest.mark.parametrize(
    "function",
    [print, Method().take, lambda *events: None, lambda event, extra=1: None, functools.partial(lambda a, b: None, 1), dict, [].append],
)
def test_what_takes_one_argument_is_a_handler(function: Any) -> None:
    """Builtins, methods, partials and defaults included."""
    assert check_handler(function)


def test_a_builtin_without_a_signature_is_taken_at_its_word() -> None:
    """Calling it is the only way to know."""

    class Odd:
        __signature__ = property(lambda self: (_ for _ in ()).throw(ValueError("none")))

        def __call__(self, event: Event) -> None:
            """Take it."""

    assert "Odd" in check_handler(Odd())


def test_registering_from_many_threads_while_events_run_loses_nothing() -> None:
    """Every handler that was registered is called from then on."""
    table = Table()
    start = threading.Barrier(5)

    def register(name: int) -> None:
        start.wait(5.0)
        for number in range(50):
            table.on("speech_started", f"{name}.{number}")

    threads = [threading.Thread(target=register, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    start.wait(5.0)
    for _ in range(20):
        table.handlers.dispatch(SpeechStarted())
    for thread in threads:
        thread.join(20.0)
    table.log.clear()
    table.handlers.dispatch(SpeechStarted())
    assert len(table.log) == len(set(table.log)) == 200


def test_a_slow_handler_is_told_once_then_only_if_it_gets_worse_or_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for every piece of sound: again when it is twice as slow as was told, or after a minute."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    table, took = Table(), [0.0]

    def dawdle(event: Event) -> None:
        now[0] += took[0]

    table.handlers.add(SpeechStarted, dawdle)
    told = []
    with caplog.at_level(logging.WARNING):
        for seconds, pause in ((0.2, 0), (0.3, 0), (0.39, 0), (0.4, 0), (0.5, 0), (0.2, 60)):
            now[0] += pause
            took[0] = seconds
            table.handlers.dispatch(SpeechStarted())
            told.append(len(caplog.records))
    assert told == [1, 1, 1, 2, 2, 3]
