"""`RealtimeClient`: one live conversation, for programs without an event loop."""

from __future__ import annotations

import difflib
import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

import attrs

from qai_realtime_sync.client import closing
from qai_realtime_sync.client.audio_in import AudioIn
from qai_realtime_sync.client.call import Call
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from qai_realtime_sync.client.listening import Listening
from qai_realtime_sync.client.mutation import ContextMutation
from qai_realtime_sync.client.options import ClientOptions, Options
from qai_realtime_sync.client.outbox import OutboxCounts
from qai_realtime_sync.client.redaction import without_frames
from qai_realtime_sync.client.waiting import LONGEST, check_timeout, in_slices
from qai_realtime_sync.commands import SendAudio
from qai_realtime_sync.config import UNSET, RealtimeConfig, RealtimeSession, Tool, TurnDetection, Unset
from qai_realtime_sync.conversation.metrics import Metrics
from qai_realtime_sync.conversation.playback import Playback, Sink
from qai_realtime_sync.conversation.record import Conversation
from qai_realtime_sync.errors import ConfigError, ConnectError, NotConnectedError, RealtimeTimeoutError
from qai_realtime_sync.events import Event, SessionReady
from qai_realtime_sync.turns import Turn

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from qai_realtime_sync.commands import Command
    from qai_realtime_sync.conversation.recorder import Recorder
    from qai_realtime_sync.conversation.telemetry import Telemetry

__all__ = ["RealtimeClient"]

F = TypeVar("F", bound=Callable[..., Any])
_EXTRA_WAIT = 0.5


class RealtimeClient(Listening, AudioIn):
    """One voice conversation with the QAI gateway, or straight with a service (`direct`).

    Register handlers, then ``connect()``, or use it as a context manager. A background thread reads and calls the handlers in order;
    every method may be called from any thread. One client is one life: after `Closed` make a new one.

    | argument | default | meaning |
    |---|---|---|
    | ``api_key`` | env ``QAI_API_KEY`` | the gateway's key |
    | ``config`` | ``RealtimeConfig()`` | voice, instructions, tools, formats |
    | ``base_url`` | env ``QAI_BASE_URL``, else the gateway | ``https://``, or ``http://127.0.0.1:PORT`` of a local server |
    | ``provider``, ``dialect`` | ``""``, ``"auto"`` | which service answers, and how it spells things |
    | ``reconnect`` | ``True`` | after a loss; False, or a `ReconnectPolicy` |
    | ``headers`` | ``{}`` | further headers of the upgrade |
    | ``connect_timeout``, ``close_timeout`` | 15 s (direct 10 s), 3 s | from DNS to readiness; until everything is gone |
    | ``ping_interval``, ``pong_timeout`` | 10 s, 8 s | how a dead peer is noticed; ``ping_interval=None`` turns it off |
    | ``on_handler_error`` | ``"log"`` | and go on; ``"raise"`` it in whoever waits; ``"close"`` the conversation |
    | ``barge_in``, ``min_speech`` | on with ``play_to``, 0 s | stop playing when the user speaks (that long; the service then does not) |
    | ``overflow`` | ``"error"`` | more than ``max_audio`` (30 s) waiting raises; ``"drop_oldest"`` drops and counts |
    | ``tool_threads`` | 4 | how many tools run at once |
    | ``ssl_context``, ``proxy``, ``allow_insecure`` | – | an `ssl.SSLContext`; a proxy URL, or False for none; a key over ``ws://`` |
    | ``clock``, ``random``, ``dialer`` | – | replaced in tests |

    Raises: `ConfigError` for a wrong argument. Making a client starts no thread, opens nothing and reads no environment.
    """

    def __init__(
        self,
        api_key: str | None = None,
        config: RealtimeConfig | None = None,
        *,
        base_url: str | None = None,
        provider: str = "",
        mint: bool = False,
        dialect: Any = "auto",
        reconnect: bool | ReconnectPolicy = True,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        try:
            made = Options(
                api_key=api_key,
                config=config if config is not None else RealtimeConfig(),
                base_url=base_url,
                provider=provider,
                mint=mint,
                dialect=dialect,
                reconnect=reconnect,
                headers=headers or {},
                **_known(options, RealtimeClient.__init__, "RealtimeClient"),
            )
        except ConfigError as error:
            del api_key, headers, options, base_url  # a crash reporter that sends the locals of frames must not find them
            raise without_frames(error)  # noqa: B904
        self._begin(made)

    @classmethod
    def direct(
        cls,
        url: str,
        token: str = "",
        config: RealtimeConfig | None = None,
        *,
        dialect: Any = "auto",
        provider: str = "",
        reconnect: bool | ReconnectPolicy = True,
        headers: Mapping[str, str] | None = None,
        **options: Unpack[ClientOptions],
    ) -> RealtimeClient:
        """A client that connects straight to a service: its address and a minted token or key, or a signed URL alone.

        ``dialect``: ``"auto"`` (from address and model), or a name. The other arguments are those of the class.

        Raises: `ConfigError`.
        """
        if not isinstance(url, str) or not url:
            raise ConfigError("direct() needs the address of the service, like wss://api.x.ai/v1/realtime", code="invalid_base_url")
        client = cls.__new__(cls)
        try:
            made = Options(
                config=config if config is not None else RealtimeConfig(),
                session=RealtimeSession(url=url, ephemeral_token=token, provider=provider),
                provider=provider,
                dialect=dialect,
                reconnect=reconnect,
                headers=headers or {},
                **_known(options, RealtimeClient.direct, "RealtimeClient.direct"),
            )
        except ConfigError as error:
            del url, token, headers, options  # as above
            raise without_frames(error)  # noqa: B904
        client._begin(made)
        return client

    def _begin(self, options: Options) -> None:
        self._call = Call(options)
        # By a weak reference: the registry of finalizers would keep alive what a handler that names its client refers to.
        self._finalizer = weakref.finalize(self, closing.abandon, weakref.ref(self._call))
        self._finalizer.atexit = False

    # -- life ------------------------------------------------------------------------------------------------------------------

    def connect(self, timeout: float | None = None, *, history: Iterable[Turn] = ()) -> RealtimeClient:
        """Connect and return when the service is ready, within ``timeout`` seconds from DNS to readiness (15, direct 10).

        ``history``: turns of an earlier conversation (``client.conversation``), told to the model as context.

        Raises: `ConfigError` for what is missing or wrong; `ApiError` when the service refuses; `ConnectError`;
        `ConnectionClosedError`; `RealtimeTimeoutError`; `NotConnectedError` for a client that was connected before.
        """
        call = self._call
        call.check_process()
        check_timeout(timeout, zero=False, none="takes the client's connect_timeout")
        seed = _turns(history)  # the program's own code may run here: before anything of ours does
        # Only now: dialects and what else a connection needs take as long to load as all the rest.
        from qai_realtime_sync.client.access import Access
        from qai_realtime_sync.client.reader import Reader

        access = Access(call.options, call.clock, call.sender.after)
        reader = Reader(call, access, None if timeout is None else min(timeout, LONGEST))
        with call.lock:
            if call.lifecycle.state != "idle" or call.reader is not None or call.closing:
                raise NotConnectedError(
                    f"this client is {call.lifecycle.state}: one client is one conversation; make a new RealtimeClient",
                    code="already_used",
                )
            call.reader = threading.Thread(target=reader.run, name="qai-reader", daemon=True)
            call.access = access
        call.connected_at = call.clock()
        call.seed = seed
        closing.end_with_process(call)
        try:
            self._start_threads(call.reader)
            self._await_opening(reader.timeout)
        except BaseException:
            closing.abort(call)
            in_slices(call.over.wait, call.options.close_timeout)
            raise
        return self

    def _start_threads(self, reader: threading.Thread) -> None:
        call = self._call
        try:
            call.sender.start()
            reader.start()
        except RuntimeError as error:
            refused = ConnectError(
                f"no thread can be started: {error}; the process has as many as the system grants it, or it is ending", code="no_thread"
            )
            closing.end_unstarted(call, refused)
            raise refused from error

    def _await_opening(self, timeout: float) -> None:
        call = self._call
        # The reader and its timers keep the deadline; the extra moment lets them say what happened.
        if not in_slices(call.opened.wait, timeout + _EXTRA_WAIT):
            raise RealtimeTimeoutError(f"the service was not ready within {timeout:g} s, or a handler holds up what it said")
        if call.closing and not call.over.is_set():
            raise NotConnectedError("the client was closed while it connected")
        if call.connect_error is not None and call.lifecycle.state != "open" and call.over.is_set():
            closing.join(call, call.clock() + call.options.close_timeout)
            raise call.connect_error
        if call.over.is_set():
            if not call.closing:
                raise call.waiting.ended(SessionReady)  # it was ready for a moment
            raise NotConnectedError("the client was closed while it connected")

    def close(self, code: int = 1000, reason: str = "", timeout: float | None = None) -> None:
        """End the conversation: what is queued gets a moment, then goodbye; returns within ``timeout`` (3) seconds.

        Legal in every state, from any thread and any number of times. In a handler it only begins to close and returns at once;
        `Closed` comes after the handler.

        Raises: `ConfigError` for a code, a reason or a timeout that is none, before anything has happened.
        """
        self._call.check_process()
        check_timeout(timeout, none="takes the client's close_timeout")
        closing.close(self._call, code, reason, self._call.options.close_timeout if timeout is None else timeout)

    def abort(self) -> None:
        """End the conversation now, without goodbye: every blocked call returns within a tenth of a second."""
        self._call.check_process()
        closing.abort(self._call)

    def __enter__(self) -> RealtimeClient:
        self._call.check_process()
        return self if self._call.lifecycle.state == "open" else self.connect()

    def __exit__(self, *_: object) -> None:
        if self._call.is_ours:
            self.close()

    def __repr__(self) -> str:
        call: Call | None = self.__dict__.get("_call")
        if call is None:  # looked at by whoever reports the error of its constructor
            return "<RealtimeClient not made>"
        return f"<RealtimeClient {call.lifecycle.state}{' ' + call.session_id if call.session_id else ''}>"

    @property
    def state(self) -> str:
        """``idle``, ``connecting``, ``handshaking``, ``open``, ``backoff``, ``closing``, ``closed`` or ``failed``."""
        self._call.check_process()
        return self._call.lifecycle.state

    @property
    def is_connected(self) -> bool:
        """True while the conversation is open."""
        return self.state == "open"

    @property
    def session_id(self) -> str:
        """The service's id of the session, or ``""``."""
        return self._call.session_id

    @property
    def session(self) -> RealtimeSession:
        """Where this conversation connects, without what is secret: no token, no signed URL."""
        access = self._call.access
        return access.public_session() if access is not None else RealtimeSession()

    @property
    def config(self) -> RealtimeConfig:
        """The configuration in force."""
        return self._call.config

    @property
    def conversation(self) -> Conversation:
        """The turns so far, in order; copies, that can be written as JSON, subtitles and Markdown."""
        self._call.check_process()
        return Conversation(self._call.turns.snapshot())

    @property
    def metrics(self) -> Metrics:
        """What the conversation took so far: latencies of each turn, tokens, money, sound, losses, slow handlers."""
        self._call.check_process()
        return self._call.measure()

    @property
    def outbox(self) -> OutboxCounts:
        """How many commands were sent, failed and dropped, and how many wait."""
        self._call.check_process()
        return self._call.outbox.counts

    # -- changing the running conversation ------------------------------------------------------------------------------------

    def mutate_context(
        self,
        *,
        instructions: str | Unset = UNSET,
        tools: list[dict[str, Any] | Tool] | Unset = UNSET,
        voice: str | Unset = UNSET,
        turn_detection: TurnDetection | None | Unset = UNSET,
        extra: Mapping[str, Any] | None = None,
        bridge: str | None = None,
        timeout: float = 10.0,
    ) -> ContextMutation:
        """Change the running conversation and learn whether it happened: ``.wait()`` on what is returned.

        Applied once the service has confirmed it within ``timeout`` seconds; where it cannot change a live session (Gemini,
        ElevenLabs, the voice at OpenAI after the first sound, the model) the conversation goes on over a new connection. While an
        answer or a tool runs it waits. ``bridge`` is told to the model as context afterwards. Each step is a `ContextMutated`.

        Raises: `ConfigError` for a wrong value, or a tool that nobody answers; `NotConnectedError`.
        """
        given = {"instructions": instructions, "tools": tools, "voice": voice, "turn_detection": turn_detection}
        fields: dict[str, Any] = {name: value for name, value in given.items() if value is not UNSET}
        if not fields and not extra:
            raise ConfigError("mutate_context was given nothing to change")
        call = self._call
        call.check_process()
        if call.lifecycle.state not in ("open", "backoff", "connecting", "handshaking") or call.reader is None:
            raise NotConnectedError(f"there is no conversation to change: the client is {call.lifecycle.state}")
        attrs.evolve(call.config, **fields)  # checked here, in the caller's thread
        functions = call.calls.functions_of(fields["tools"]) if "tools" in fields else None
        call.waiting.mark()
        return call.mutations.submit(fields, extra, bridge, timeout, functions)

    # -- sound and tools -------------------------------------------------------------------------------------------------------

    def play_to(self, sink: Sink) -> None:
        """Play the assistant's sound to ``sink``: ``write(bytes)``, ``clear()`` and, best, ``played_ms``; none may block.

        Turns automatic barge-in on: when the user speaks, the sink is cleared, the answer cancelled, and the service told what was
        heard (``barge_in=False`` of the client turns it off).

        Raises: `ConfigError` if a method is missing, or for a sink (`PacedSink`, `Speaker`) that was made for another format.
        """
        self._call.check_process()
        missing = [name for name in ("write", "clear") if not callable(getattr(sink, name, None))]
        if missing:
            raise ConfigError(f"play_to needs an object with write(bytes) and clear(); missing: {', '.join(missing)}")
        adopt = getattr(sink, "adopt", None)
        if callable(adopt):  # a `PacedSink`, a `Speaker`: they play what has no other format as the client has it
            adopt(self._call.config.output_audio)
        self._call.playback = Playback(sink, self._call.config.output_audio, self._call.clock)

    def record_to(self, recorder: Recorder) -> None:
        """Keep this conversation as it is heard: sound of both sides, every event and command, and the turns; before ``connect()``.

        The recorder's files are closed after `Closed`.

        Raises: `ConfigError` once connected: the beginning would be missing; for what is no recorder.
        """
        call = self._call
        if not callable(getattr(recorder, "follow", None)):
            raise ConfigError("record_to needs a Recorder, like Recorder('folder')")
        if call.lifecycle.state != "idle":
            raise ConfigError("record_to comes too late: call it before connect(), so that nothing is missing", code="already_used")
        recorder.follow(call.config, call.turns.snapshot, lambda: call.playback is not None, lambda: call.connected_at)

        def observe(what: Event | Command, at: float) -> None:
            if isinstance(what, Event):
                recorder.told(what, at)
            else:
                placed = recorder.sent(what, at, call.sound.sends)
                if placed is not None and isinstance(what, SendAudio):
                    call.turns.spoke(placed, len(what.audio) / call.sound.sends.bytes_per_second)

        call.observers += (observe,)
        call.outbox.tells_audio = True

    def trace_to(self, telemetry: Telemetry) -> None:
        """Report this conversation to OpenTelemetry as spans and metrics; before ``connect()``. Each `Telemetry` serves one client.

        Raises: `ConfigError` once connected.
        """
        call = self._call
        if call.lifecycle.state != "idle":
            raise ConfigError("trace_to comes too late: call it before connect(), so that nothing is missing", code="already_used")
        telemetry.follow(call.config, call.clock, lambda: call.connected_at, call.options.provider)

        def observe(what: Event | Command, at: float) -> None:
            if isinstance(what, Event):
                telemetry.told(what, at)

        call.observers += (observe,)

    def replay(
        self, folder: str | os.PathLike[str], *, speed: float | None = None, wait: Callable[[float], object] | None = None
    ) -> RealtimeClient:
        """Tell the handlers what a recording tells, in order, instead of connecting; returns when it is over.

        ``folder`` is what a `Recorder` wrote. ``speed``: 1 = as it happened, 2 = twice as fast, ``None`` = as fast as the handlers take
        it; ``wait(seconds)`` replaces the waiting. The sound of the answers is what was heard of them, also for `play_to`; the user's is
        silence. Tools do not run, and what handlers send goes nowhere. Handlers run in the caller's thread. ``close()`` ends it early.
        Like a connection it is the client's one life.

        Raises: `ConfigError` for what is no recording; `NotConnectedError` for a client that was used before.
        """
        self._call.check_process()
        from qai_realtime_sync.client.replaying import replay

        replay(self._call, folder, speed, wait)
        return self

    @overload
    def tool(self, function: F) -> F: ...
    @overload
    def tool(
        self,
        function: None = None,
        *,
        name: str = "",
        description: str = "",
        parameters: Mapping[str, Any] | None = None,
        timeout: float = 30.0,
    ) -> Callable[[F], F]: ...
    def tool(self, function: Any = None, *, name: str = "", description: str = "", parameters: Any = None, timeout: float = 30.0) -> Any:
        """Let the model call this function: ``@client.tool``. It runs off the reader, and its result goes back by itself.

        Name, description and JSON Schema come from the function, its docstring and its annotations, or from the arguments.

        Raises: `ConfigError` for an async function, an annotation without a schema, a name that is taken, or once connected.
        """
        self._call.check_process()
        if function is None:
            return lambda f: self.tool(f, name=name, description=description, parameters=parameters, timeout=timeout)
        from qai_realtime_sync.conversation.schema import tool_from

        made = tool_from(function, name=name, description=description, parameters=parameters, timeout=timeout)
        self._call.add_tool(made)
        return function


def _known(options: Any, maker: Callable[..., Any], called: str) -> dict[str, Any]:
    for name in options:
        if name in ClientOptions.__annotations__:
            continue
        if name in attrs.fields_dict(RealtimeConfig):
            raise ConfigError(f"{called} has no argument {name!r}: it belongs in RealtimeConfig({name}=...), given as config=")
        known = [n for n in (*inspect.signature(maker).parameters, *ClientOptions.__annotations__) if n not in _NOT_TOLD]
        close = difflib.get_close_matches(name, known, 1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{called} has no argument {name!r}{meant}; it has: {', '.join(known)}")
    return dict(options)


def _turns(history: Iterable[Turn]) -> list[Turn]:
    """Raises: `ConfigError` for what is no turns; what the program's own iterator raises."""
    turns = list(history) if isinstance(history, Iterable) else [history]
    for turn in turns:
        if not isinstance(turn, Turn):
            raise ConfigError(f"history must be turns of an earlier conversation (client.conversation), not {type(turn).__name__}")
    return turns


_NOT_TOLD = frozenset({"self", "options", "clock", "random", "dialer"})
