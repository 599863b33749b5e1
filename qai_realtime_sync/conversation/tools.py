"""Functions the model may call, and the bookkeeping of their calls that ends in exactly one request for an answer."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from qai_realtime_sync.commands import Command, CreateResponse, SendFunctionResult
from qai_realtime_sync.config import Tool
from qai_realtime_sync.conversation.tool_pool import error_output
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.events import Event, FunctionCall, FunctionCallCancelled, OutputItemDone, ResponseDone

__all__ = ["ToolCalls"]

_REMEMBERED = 512
_GIVEN_UP = 64
_UNFINISHED = ("cancelled", "failed", "incomplete")


@attrs.define(eq=False, repr=False)
class _Call:
    event: FunctionCall
    started: bool = False
    answered: bool = False  # a result was given: a second one is dropped
    sent: bool = False  # and it is on its way to the service: the next answer may be asked for
    unwanted: bool = False
    lost: bool = False  # with the connection it was made over: the same id may come again


@attrs.define(eq=False, repr=False)
class _Round:
    """The calls of one answer: when all are answered and the answer is over, one request follows."""

    calls: dict[str, _Call] = attrs.field(factory=dict)
    done: bool = False
    cancelled: bool = False
    wants: bool = False  # a result was given that asks for the next answer
    asked: bool = False
    given_up: bool = False  # nobody waits for the next answer
    request: CreateResponse | None = None


class ToolCalls:
    """Which calls the model made, who answers them, and when the next answer may be asked for.

    ``run(call, tool)`` starts a tool in another thread; ``is_theirs(name)`` says that the program answers calls of that name itself;
    ``asks`` is false where the service goes on by itself after a result.
    """

    def __init__(
        self, *, run: Callable[[FunctionCall, Tool], None], is_theirs: Callable[[str], bool], items: bool, asks: bool
    ) -> None:
        self._run = run
        self._is_theirs = is_theirs
        self._items = items
        self._asks = asks
        self._tools: dict[str, Tool] = {}
        self._lock = threading.Lock()  # guards everything below
        self._rounds: collections.OrderedDict[str, _Round] = collections.OrderedDict()
        self._round_of: collections.OrderedDict[str, str] = collections.OrderedDict()
        self._given_up: collections.OrderedDict[str, None] = collections.OrderedDict()  # answers that had called nothing yet

    def serves(self, *, items: bool, asks: bool) -> None:
        """The connected service tells of items, or does not; it wants to be asked for the next answer, or does not."""
        self._items, self._asks = items, asks

    @property
    def tools(self) -> dict[str, Tool]:
        """The registered tools by name."""
        return dict(self._tools)

    def add(self, tool: Tool) -> None:
        """Register a tool. Raises: `ConfigError` for a name that is taken."""
        if tool.name in self._tools:
            raise ConfigError(f"there already is a tool named {tool.name!r}")
        self._tools[tool.name] = tool

    def functions_of(self, tools: list[dict[str, Any] | Tool]) -> dict[str, Tool]:
        """Return the functions that answer calls of ``tools``, the tools of a changed configuration; `use` puts them in force.

        A plain dict is answered by the function registered under its name, or by the program's ``on_function_call``.

        Raises: `ConfigError` for a definition that nobody answers.
        """
        functions: dict[str, Tool] = {}
        for tool in tools:
            if isinstance(tool, Tool):
                if tool.function is not None:
                    functions[tool.name] = tool
                    continue
                name = tool.name
            else:
                name = str(tool.get("name", ""))
                if tool.get("type", "function") != "function":
                    continue  # run by the service itself
            known = self._tools.get(name)
            if known is not None and known.function is not None:
                functions[name] = known
            elif not self._is_theirs(name):
                raise ConfigError(
                    f"nobody answers the tool {name!r}: give a Tool with a function, register on_function_call, "
                    "or declare it in the client's first configuration"
                )
        return functions

    def use(self, functions: Mapping[str, Tool]) -> dict[str, Tool]:
        """Run these functions from now on, and refuse calls of those that went; return what was in force before."""
        before, self._tools = self._tools, dict(functions)
        return before

    @property
    def is_busy(self) -> bool:
        """True while a call has no result yet."""
        with self._lock:
            return any(not c.answered and not c.unwanted for r in self._rounds.values() for c in r.calls.values())

    # -- the service ----------------------------------------------------------------------------------------------------------

    def told(self, event: Event) -> list[Command]:
        """Follow the service: start tools whose call is complete.

        Returns results for calls of functions that nobody has, to be handled like any other result, and requests for an answer.
        """
        if isinstance(event, FunctionCall):
            return self._called(event)
        if isinstance(event, OutputItemDone):
            if event.item.type == "function_call" and event.item.status in ("", "completed"):
                return self._start([event.item.call_id])
        elif isinstance(event, FunctionCallCancelled):
            return self._unwanted(event.call_id)
        elif isinstance(event, ResponseDone):
            return self._done(event)
        return []

    def answer(self, command: SendFunctionResult) -> bool:
        """A result is ready: True if it is to be sent, and `sent` or `not_sent` is to be called then.

        A second result for one call is dropped, and so is one that is not wanted any more.
        """
        with self._lock:
            found = self._find(command.call_id)
            if found is None:
                return True
            call = found[1]
            if call.answered or call.unwanted:
                return False
            call.answered = True
            if not command.name:
                command.name = call.event.name
            return True

    def sent(self, call_id: str, *, respond: bool = True) -> list[Command]:
        """A result is on its way: return the request for the next answer if it was the last one.

        It is asked for if one of the answer's results wants it (``respond``); for a call nobody knows at once.
        """
        with self._lock:
            found = self._find(call_id)
            if found is None:
                return [CreateResponse()] if respond and self._asks else []
            this_round, call = found
            call.sent = True
            this_round.wants = this_round.wants or respond
            return self._follow_up(this_round)

    def not_sent(self, call_id: str) -> None:
        """The result could not be sent: another may be given."""
        with self._lock:
            found = self._find(call_id)
            if found is not None:
                found[1].answered = False

    def is_wanted(self, call_id: str) -> bool:
        """False for a call whose result nobody waits for any more; one that never had a result to give is run all the same."""
        with self._lock:
            found = self._find(call_id)
            return found is None or not (found[1].unwanted or (found[1].answered and found[1].event.expects_result))

    def follow_up(self, response_id: str) -> CreateResponse | None:
        """The request for the next answer that the results of this one's calls led to."""
        with self._lock:
            this_round = self._rounds.get(response_id)
            return this_round.request if this_round is not None else None

    def goes_on(self, response_id: str) -> bool:
        """True if another answer was, or will be, asked for because of this one's calls."""
        with self._lock:
            this_round = self._rounds.get(response_id)
            if this_round is None or this_round.cancelled or this_round.given_up:
                return False
            return this_round.asked or any(not c.sent and not c.unwanted for c in this_round.calls.values())

    def abandon(self, response_id: str) -> None:
        """Nobody waits for what follows this answer: its results still go out, but no further answer is asked for."""
        with self._lock:
            this_round = self._rounds.get(response_id)
            if this_round is not None:
                this_round.given_up = True
                return
            self._given_up[response_id] = None  # it may call something before its cancel arrives
            if len(self._given_up) > _GIVEN_UP:
                self._given_up.popitem(last=False)

    def reset(self) -> None:
        """The connection is gone and the service has forgotten the calls: results that come now are dropped."""
        with self._lock:
            self._given_up.clear()
            for this_round in self._rounds.values():
                this_round.cancelled = True
                for call in this_round.calls.values():
                    call.unwanted = call.lost = True

    # -- under the lock and around it ------------------------------------------------------------------------------------------

    def _called(self, event: FunctionCall) -> list[Command]:
        with self._lock:
            known = self._find(event.call_id)
            if known is not None and not known[1].lost:
                return []
            if known is not None:  # it was resumed from before the call, and makes it again
                del known[0].calls[event.call_id]
            self._remember(event)
        return [] if self._items and event.response_id else self._start([event.call_id])

    def _remember(self, event: FunctionCall) -> None:
        this_round = self._rounds.setdefault(event.response_id, _Round(given_up=event.response_id in self._given_up))
        if not event.response_id:  # of no answer whose end could be told: asked for as soon as all such calls have their results
            this_round.done, this_round.cancelled = True, False
            if this_round.asked:
                this_round.asked = this_round.wants = False
        call = _Call(event)
        call.answered = call.sent = not event.expects_result
        this_round.calls[event.call_id] = call
        self._round_of[event.call_id] = event.response_id
        while len(self._round_of) > _REMEMBERED:
            call_id, response_id = self._round_of.popitem(last=False)
            old = self._rounds.get(response_id)
            if old is not None:
                old.calls.pop(call_id, None)
                if not old.calls:
                    del self._rounds[response_id]

    def _start(self, call_ids: list[str]) -> list[Command]:
        """Start what is ours, return the refusal of what is nobody's; the program's own calls are left to it."""
        ready: list[FunctionCall] = []
        commands: list[Command] = []
        with self._lock:
            for call_id in call_ids:
                found = self._find(call_id)
                if found is not None and not found[1].started:
                    found[1].started = True
                    ready.append(found[1].event)
        for event in ready:
            tool = self._tools.get(event.name)
            if tool is not None and tool.function is not None:
                self._run(event, tool)
            elif not self._is_theirs(event.name) and event.expects_result:
                known = ", ".join(sorted(self._tools)) or "none"
                output = error_output(f"there is no function named {event.name}; known functions: {known}")
                commands.append(SendFunctionResult(call_id=event.call_id, output=output, name=event.name, is_error=True))
        return commands

    def _done(self, event: ResponseDone) -> list[Command]:
        # An answer that failed or was cut off at its limit may still have calls whose items are complete: their results want an answer.
        complete = event.status not in _UNFINISHED
        with self._lock:
            this_round = self._rounds.get(event.response_id)
            if this_round is None:
                return []
            this_round.done = True
            this_round.cancelled = this_round.cancelled or event.status == "cancelled"
            waiting = [call_id for call_id, call in this_round.calls.items() if not call.started]
            if not complete:
                for call_id in waiting:
                    this_round.calls[call_id].unwanted = True
        # Some services leave the end of the item out: then the end of the answer says that its calls are complete.
        commands = self._start(waiting) if complete else []
        with self._lock:
            return commands + self._follow_up(this_round)

    def _unwanted(self, call_id: str) -> list[Command]:
        with self._lock:
            found = self._find(call_id)
            if found is None:
                return []
            found[1].unwanted = True
            return self._follow_up(found[0])  # perhaps it was the last one that was missing

    def _find(self, call_id: str) -> tuple[_Round, _Call] | None:
        this_round = self._rounds.get(self._round_of.get(call_id, ""))
        call = this_round.calls.get(call_id) if this_round is not None else None
        return (this_round, call) if this_round is not None and call is not None else None

    def _follow_up(self, this_round: _Round) -> list[Command]:
        if not self._asks or not this_round.done or this_round.cancelled or this_round.asked or not this_round.wants:
            return []
        if this_round.given_up:
            return []
        if any(not c.sent and not c.unwanted for c in this_round.calls.values()):
            return []
        this_round.asked = True
        this_round.request = CreateResponse()
        return [this_round.request]
