"""One live conversation as its threads see it: what they share.

Threads hold a `Call`, never the public `RealtimeClient`, so that a client that nobody refers to any more can be collected.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import attrs

from qai_realtime_sync.client.delivery import Delivery
from qai_realtime_sync.client.handlers import Handlers, Registration
from qai_realtime_sync.client.lane import Lane
from qai_realtime_sync.client.lifecycle import Lifecycle
from qai_realtime_sync.client.mutation import Mutations
from qai_realtime_sync.client.options import Options
from qai_realtime_sync.client.outbox import Outbox
from qai_realtime_sync.client.own_answers import OwnAnswers
from qai_realtime_sync.client.posting import Posting
from qai_realtime_sync.client.renewal import Renewal
from qai_realtime_sync.client.sender import Sender, Timer
from qai_realtime_sync.client.sound import SoundPath
from qai_realtime_sync.client.waiting import EventStream, Waiting
from qai_realtime_sync.client.wakeup import Latch
from qai_realtime_sync.commands import Command, CreateResponse, SendFunctionResult
from qai_realtime_sync.config import UNSET, RealtimeConfig, Tool, TurnDetection
from qai_realtime_sync.conversation.metrics import Meter, Metrics
from qai_realtime_sync.conversation.playback import Playback
from qai_realtime_sync.conversation.responses import Responses
from qai_realtime_sync.conversation.tool_pool import ToolPool
from qai_realtime_sync.conversation.tools import ToolCalls
from qai_realtime_sync.conversation.turns import Turns
from qai_realtime_sync.errors import (
    ConfigError,
    ForkedClientError,
)
from qai_realtime_sync.events import ErrorReceived, Event, FunctionCall, HandlerFailed, SessionReady, StateChanged

if TYPE_CHECKING:
    from qai_realtime_sync.client.access import Access
    from qai_realtime_sync.client.billing import Billing
    from qai_realtime_sync.dialects import Dialect
    from qai_realtime_sync.transport import Cancellation, Connection
    from qai_realtime_sync.turns import Turn

__all__ = ["Call", "log"]

log = logging.getLogger("qai_realtime_sync")

_REMEMBERED = 256
_MANY_WAITING = 1000  # calls of background handlers; told then, and at ten times as many
_LONGEST_WAIT_FOR_AN_ANSWER = 30.0  # until it begins
_ABORTED = 1006  # the code of an end without a goodbye, which is never sent (source: RFC 6455, 7.4.1)


class Call:
    """Everything that belongs to one conversation; made with the client, without thread or I/O."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.config = _patient(options)
        self.clock = options.clock
        self.pid = os.getpid()
        self.lock = threading.Lock()  # guards lifecycle, closing, connection, cancellation
        self.lifecycle = Lifecycle()
        self.connection: Connection | None = None
        self.cancellation: Cancellation | None = None
        self.dialect: Dialect | None = None
        self.closing = False
        self.close_code, self.close_reason = 1000, ""
        self.opened = Latch()  # set when the first attempt to connect has ended, well or not
        self.over = Latch()  # set when Closed was delivered
        self.wake_backoff = Latch()
        self.connect_error: BaseException | None = None
        self.handler_error: Exception | None = None  # of the handler that ended the conversation
        self._sink_error: BaseException | None = None  # that was told
        self.session_id = ""
        self.frames = 0  # messages that came, for the vigil
        self.expires_at: float | None = None  # unix seconds, as the service said
        self.connected_at = 0.0
        self.ended_at: float | None = None
        self.replaying = False
        self.delivery = Delivery(self)
        self.deliver, self.announce, self.tell = self.delivery.deliver, self.delivery.announce, self.delivery.tell
        self.posting = Posting(self)
        self.own_answers = OwnAnswers(self)
        self.submit, self.submit_quietly = self.posting.submit, self.posting.submit_quietly
        self.handlers = Handlers(self._in_background, self.handler_failed)
        self.waiting = Waiting()
        self.asking = threading.RLock()  # a turnstile, no guard: one `ask` at a time, and only who has it can give it back
        self.asked: EventStream | None = None  # what that `ask` reads
        self.outbox = Outbox(
            max_commands=options.max_commands,
            max_audio=options.max_audio,
            bytes_per_second=self.config.input_audio.bytes_per_second,
            drop_oldest_audio=options.overflow == "drop_oldest",
            sent=self._was_sent,
            blocked=self._socket_full,
            still_wanted=self.posting.may_leave,
        )
        self.sender = Sender(self.clock, self._flush)
        self.lane = Lane("qai-lane")
        self._many_waiting = _MANY_WAITING
        self.teller = Lane("qai-teller")  # tells what other threads than the reader have to tell: slow handlers must not hold it up
        self.sound = SoundPath(self.config)
        self.responses = Responses()
        self.pool = ToolPool(
            size=options.tool_threads,
            answer=self._tool_answered,
            failed=self._tool_failed,
            after=self.sender.after,
            wanted=lambda call_id: self.calls.is_wanted(call_id),
        )
        self.calls = ToolCalls(run=self.pool.run, is_theirs=self._is_theirs, items=True, asks=True)
        for tool in self.config.tools:
            if isinstance(tool, Tool):
                self.calls.add(tool)
        self.turns = Turns()
        self.meter = Meter()
        self.heard_bytes = 0  # of the assistant's sound, in the program's format
        self.mutations = Mutations(self)
        self.renewal = Renewal(self)
        self.planned = ""  # why the client itself ends this connection to make another
        self.seed: list[Turn] = []  # an earlier conversation to begin with
        self.history_due = False  # the new connection's service has forgotten the conversation
        self.user_speaks = False
        self.playback: Playback | None = None
        self.playback_timer: Timer | None = None
        self.speech_timer: Timer | None = None
        self.void: dict[str, None] = {}  # answers that were stopped: what still comes of them is not for anybody's ears
        self.last_error: ErrorReceived | None = None
        self.reader: threading.Thread | None = None
        self.access: Access | None = None
        self.observers: tuple[Callable[[Event | Command, float], None], ...] = ()
        self._untold_states: list[StateChanged] = []  # guarded by lock

    @property
    def billing(self) -> Billing | None:
        """The life of the minted session, if one is minted."""
        return self.access.billing if self.access is not None else None

    # -- checks ---------------------------------------------------------------------------------------------------------------

    @property
    def is_ours(self) -> bool:
        """False in a process that was forked after the client was made."""
        return os.getpid() == self.pid

    def check_process(self) -> None:
        """Raises: `ForkedClientError` in a process that is not the one that made the client."""
        if not self.is_ours:
            raise ForkedClientError(
                f"this client was made in process {self.pid} and cannot be used in its child {os.getpid()}: make a client in each "
                "process, after the fork (in gunicorn without --preload or in post_fork, in uWSGI with --lazy-apps, in Celery in the task)"
            )

    # -- what is going on ------------------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """True while an answer runs, was asked for, or will be when a tool has answered."""
        asked = self.responses.is_busy or self.own_answers.is_asked or self.posting.settling > 0
        return asked or self.calls.is_busy or self.renewal.awaits_handle

    @property
    def is_quiet(self) -> bool:
        """True while nobody speaks and nothing is on its way: a moment to change the connection."""
        playing = self.playback is not None and self.playback.is_playing
        return not (self.is_busy or playing or self.user_speaks)

    @property
    def has_spoken(self) -> bool:
        """True once the assistant was heard in this conversation."""
        return any(turn.first_audio_at is not None for turn in self.turns.snapshot())

    def measure(self) -> Metrics:
        """Return what the conversation took so far."""
        counts = self.outbox.counts
        now = self.clock() if self.ended_at is None else self.ended_at
        return self.meter.read(
            self.turns.snapshot(),
            seconds=now - self.connected_at if self.reader is not None else 0.0,
            cost_ticks=self.billing.cost_ticks if self.billing is not None else 0,
            audio_up=self.outbox.sent_audio,
            audio_down=self.heard_bytes / self.config.output_audio.bytes_per_second,
            sent=counts.sent,
            failed=counts.failed,
            dropped=counts.dropped,
            dropped_audio=counts.dropped_audio,
            dropped_events=self.waiting.dropped,
            waiting=counts.waiting,
            most_waiting=self.outbox.most_waiting,
            background_waiting=self.lane.waiting,
            handlers=self.handlers.slowest(),
        )

    def settled(self) -> None:
        """Something has ended: what waited for a quiet moment is looked at."""
        self.mutations.settle()
        self.renewal.look()

    def plan_reconnect(self, why: str) -> None:
        """End this connection and go on over a new one, without counting it as a loss."""
        with self.lock:
            connection = self.connection
            if self.closing or connection is None or self.planned:
                return
            self.planned = why
        self.outbox.pause(connection)
        self.sender.after(0, lambda: connection.close(1000, "", timeout=1.0))

    def adopt_formats(self, event: SessionReady) -> None:
        """Take and send sound as the service does from now on. Raises: `ConfigError` if it cannot be converted."""
        assert self.dialect is not None
        traits = self.dialect.traits
        self.sound.service_wants(event.input_format or traits.fixed_input, event.output_format or traits.fixed_output)
        self.outbox.measure(self.sound.sends.bytes_per_second)

    def add_tool(self, tool: Tool) -> None:
        """Register a tool for the next connect. Raises: `ConfigError` once connected, or for a name that is taken."""
        if self.lifecycle.state != "idle":
            raise ConfigError(f"tool {tool.name} comes too late: register tools before connect(), so that the service learns of them")
        self.calls.add(tool)
        self.config = attrs.evolve(self.config, tools=[*self.config.tools, tool])

    # -- states --------------------------------------------------------------------------------------------------------------

    def to_state(self, new: str) -> StateChanged | None:
        """Make a transition of the life cycle; the caller delivers the event."""
        with self.lock:
            return self._transition(new)

    def _transition(self, new: str) -> StateChanged | None:
        """As `to_state`; `lock` is held."""
        changed = self.lifecycle.to(new)
        if changed is not None:
            self._untold_states.append(changed)
        return changed

    def states_until(self, event: StateChanged) -> list[StateChanged]:
        """Return the transitions up to this one that were not told: two threads may tell theirs in another order than they made them."""
        with self.lock:
            due = []
            while self._untold_states and self._untold_states[0].number <= event.number:
                due.append(self._untold_states.pop(0))
            return due

    def retell_state(self, event: StateChanged) -> None:
        """Be in the state that a recording tells of."""
        with self.lock:
            if not self.closing:
                self.lifecycle.state = event.new

    # -- what other parts call back ---------------------------------------------------------------------------------------

    def _socket_full(self) -> None:
        self.sender.wake()

    def _was_sent(self, command: Command) -> None:
        if isinstance(command, CreateResponse) and not command.out_of_band:
            self.sender.after(_LONGEST_WAIT_FOR_AN_ANSWER, lambda: self.posting.post_held(self._overdue(command)))
        if self.replaying:
            return  # what handlers send goes nowhere; what was sent then is in the recording
        for observe in self.observers:
            observe(command, self.clock())

    def _overdue(self, command: CreateResponse) -> list[Command]:
        due = self.responses.overdue(command)
        if due:
            log.warning("the service did not begin to answer within %g s: the next request goes out", _LONGEST_WAIT_FOR_AN_ANSWER)
        return due

    def _flush(self, timeout: float) -> None:
        connection = self.connection
        if connection is None:
            return  # lost: what it had been given in part is not sent, and the reader says so to the outbox
        connection.flush(timeout)
        self.outbox.flushed()

    def _in_background(self, registration: Registration, event: Event) -> None:
        self.lane.post(lambda: self.handlers.run_later(registration, event))
        waiting = self.lane.waiting
        if waiting >= self._many_waiting:
            self._many_waiting = 10 * waiting
            log.warning(
                "%d events wait for background handlers, now for %s on %s: they take longer than events come, and what waits fills the "
                "memory; do less in them, or hand the work on",
                waiting,
                registration.name,
                event.event_name,
            )

    # -- failures -------------------------------------------------------------------------------------------------------------

    def handler_failed(self, registration: Registration, event: Event, error: BaseException) -> None:
        """Report a handler's exception as the client's policy says; the conversation lives on unless that says otherwise."""
        log.error("handler %s failed on %s", registration.name, event.event_name, exc_info=error)
        wants_exit = not isinstance(error, Exception)  # SystemExit, KeyboardInterrupt: the program means to end
        if self.options.on_handler_error == "raise" or wants_exit:
            self.waiting.fail(error)
        if (self.options.on_handler_error == "close" or wants_exit) and self.request_close(1000, ""):
            self.handler_error = error if isinstance(error, Exception) else None
            self.close_from_handler()
        if not isinstance(event, HandlerFailed):
            self.announce(HandlerFailed(event=event, handler=registration.name, error=error))

    def sink_failed(self, event: Event, error: BaseException) -> None:
        """Report that what `play_to` was given raised."""
        if error is not self._sink_error:  # a lost loudspeaker raises the same for every piece of an answer
            self._sink_error = error
            log.error("the sink of play_to failed", exc_info=error)
        if not isinstance(error, Exception):  # the program means to end
            self.waiting.fail(error)
            if self.request_close(1000, ""):
                self.close_from_handler()
        self.announce(HandlerFailed(event=event, handler="play_to", error=error))

    def make_void(self, response_ids: Iterable[str]) -> None:
        """Drop what still comes of these answers."""
        for response_id in response_ids:
            if response_id:
                self.void[response_id] = None
        while len(self.void) > _REMEMBERED:
            del self.void[next(iter(self.void))]

    def _tool_failed(self, call: FunctionCall, name: str, error: BaseException) -> None:
        log.error("tool %s failed", name, exc_info=error)
        if self.options.on_handler_error == "raise":
            self.waiting.fail(error)
        self.announce(HandlerFailed(event=call, handler=name, error=error))

    # -- tools ----------------------------------------------------------------------------------------------------------------

    def _tool_answered(self, call: FunctionCall, output: str, is_error: bool) -> None:
        self.posting.answer_quietly(SendFunctionResult(call_id=call.call_id, output=output, name=call.name, is_error=is_error))

    def _is_theirs(self, name: str) -> bool:
        return self.handlers.any_for(FunctionCall) or any(_tool_name(tool) == name for tool in self.config.tools)

    # -- closing --------------------------------------------------------------------------------------------------------------

    def request_close(self, code: int, reason: str) -> bool:
        """Begin to close without waiting; True if this call was the first to ask."""
        with self.lock:
            if self.closing or self.lifecycle.is_over:
                return False
            self.closing = True
            self.close_code, self.close_reason = code, reason
            cancellation = self.cancellation
            changed = self._transition("closing")
        self.outbox.close("the client was closed")
        if cancellation is not None:
            cancellation.cancel()
        if self.billing is not None:
            self.billing.give_up()
        self.wake_backoff.set()
        self.opened.set()  # who waits in connect() need not wait for the end
        if changed is not None:
            self.announce(changed)
        return True

    def close_from_handler(self) -> None:
        """Let the sender close the connection: a handler must not wait for what comes on its own thread."""
        self.sender.after(0, lambda: self.close_connection(self.options.close_timeout / 2))

    def close_connection(self, timeout: float) -> None:
        """Give what is queued a moment, say goodbye, and end the connection within ``timeout`` seconds."""
        deadline = self.clock() + timeout
        connection = self.connection
        if connection is None:
            return
        if self.close_code == _ABORTED:
            connection.abort()  # an abort() came first: after it there is no goodbye
            return
        if self.outbox.is_open and threading.current_thread() is not self.sender.thread:
            self.outbox.drain(timeout / 3)
        connection.close(self.close_code, self.close_reason, timeout=max(0.05, deadline - self.clock()))


def _patient(options: Options) -> RealtimeConfig:
    """Who asks for a shortest length of speech does not want the service to interrupt earlier, unless that was said."""
    config = options.config
    detection = config.turn_detection
    if options.min_speech > 0 and isinstance(detection, TurnDetection) and detection.interrupt_response is UNSET:
        return attrs.evolve(config, turn_detection=attrs.evolve(detection, interrupt_response=False))
    return config


def _tool_name(tool: Any) -> str:
    if isinstance(tool, Tool):
        return tool.name
    name = tool.get("name") if isinstance(tool, dict) else None
    nested = tool.get("function") if isinstance(tool, dict) else None
    return str(name or (nested.get("name") if isinstance(nested, dict) else "") or "")
