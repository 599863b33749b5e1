"""A model of a service in memory that a real client is connected to: one answer at a time, calls, busy errors, losses.

Everything moves when a test says so: what the client writes waits in ``up`` until `serve`, what the service says waits in ``down`` until
`hear`. After each move the client's reader is waited for, so that a story always has the same order.
"""

from __future__ import annotations

import collections
import itertools
import json
import queue
import threading
import time
from typing import Any

import attrs

from qai_realtime_sync import ConnectionClosedError, RealtimeClient, RealtimeConfig, ReconnectPolicy
from qai_realtime_sync.seam import Frame

__all__ = ["PATIENCE", "Model"]

PATIENCE = 10.0
_TOOL = {"type": "function", "name": "look", "description": "Look.", "parameters": {"type": "object", "properties": {}}}


class _Connection:
    """One connection between the client and the model; what is put to ``_frames`` is read, ``None`` ends it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._frames: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._idle = threading.Condition()  # guards _waits, _given, _taken
        self._waits, self._given, self._taken = False, 0, 0
        self.alive = True
        self.last_received = time.monotonic()

    def recv(self) -> Frame:
        with self._idle:
            self._waits = True
            self._idle.notify_all()
        text = self._frames.get()
        with self._idle:
            self._waits = False
            self._taken += 1
        self.last_received = time.monotonic()
        if text is None:
            self.alive = False
            raise ConnectionClosedError("the model broke the connection")
        return Frame(text.encode())

    def recv_all(self) -> list[Frame]:
        return [self.recv()]

    @property
    def is_listening(self) -> bool:
        return self.alive

    def check(self, frame: Frame) -> None:
        """Its text was never bytes."""

    def try_send(self, frame: Frame) -> bool:
        if not self.alive:
            raise ConnectionClosedError("the model broke the connection")
        self._model.take(self, json.loads(bytes(frame.payload)))
        return True

    def send(self, frame: Frame, timeout: float | None = None) -> None:
        self.try_send(frame)

    def ping(self) -> None:
        pass

    def flush(self, timeout: float | None = None) -> None:
        pass

    def abort(self) -> None:
        self.give(None)

    def close(self, code: int = 1000, reason: str = "", timeout: float = 3.0) -> None:
        self.give(None)

    def give(self, text: str | None) -> None:
        """Let the client read this."""
        with self._idle:
            self._given += 1
        self._frames.put(text)

    def settle(self) -> None:
        """Wait until the client has read everything and done what it does about it."""
        with self._idle:
            assert self._idle.wait_for(lambda: self._waits and self._given == self._taken, PATIENCE), "the reader is stuck"


@attrs.define(eq=False)
class _Answer:
    """One answer of the model: its calls with how often each was answered, and whether it came to its end."""

    id: str
    connection: _Connection
    asked: bool
    calls: dict[str, int] = attrs.field(factory=dict)
    status: str = ""


class Model:
    """The service; ``delayed`` lets commands and events wait until they are moved, else they arrive at once."""

    def __init__(self, *, delayed: bool = False) -> None:
        self._delayed = delayed
        self._lock = threading.RLock()  # guards everything below
        self._numbers = itertools.count(1)
        self._opened = threading.Event()
        self.connection: _Connection | None = None
        self.up: collections.deque[dict[str, Any]] = collections.deque()
        self.down: collections.deque[str] = collections.deque()
        self.answers: list[_Answer] = []
        self.active: _Answer | None = None
        self.accepted = 0
        self.refused = 0
        self.strange: list[str] = []
        self.items: list[str] = []
        self.client = RealtimeClient.direct(
            "ws://127.0.0.1:9/model",
            "key",
            RealtimeConfig(tools=[_TOOL], resumption=False),
            dialect="openai",
            dialer=self._dial,
            ping_interval=None,
            reconnect=ReconnectPolicy(attempts=100, seconds=PATIENCE, base=0.001, cap=0.001),
        )

    # -- the wire --------------------------------------------------------------------------------------------------------------

    def _dial(self, url: str, **options: Any) -> _Connection:
        connection = _Connection(self)
        with self._lock:
            self.connection = connection
        return connection

    def take(self, connection: _Connection, command: dict[str, Any]) -> None:
        """The client wrote something."""
        with self._lock:
            if command["type"] == "session.update":
                connection.give(json.dumps({"type": "session.updated", "session": {"id": "s"}}))
                self._opened.set()
            elif connection is self.connection:
                self.up.append(command)
                if not self._delayed:
                    self.serve()

    def say(self, kind: str, **fields: Any) -> None:
        """Tell the client something."""
        with self._lock:
            self.down.append(json.dumps({"type": kind, **fields}))
            if not self._delayed:
                self.hear()

    def hear(self) -> None:
        """The oldest event arrives."""
        with self._lock:
            connection, text = self.connection, self.down.popleft()
        assert connection is not None
        connection.give(text)

    def settle(self) -> None:
        """Wait until the client has come to rest."""
        assert self.connection is not None
        self.connection.settle()

    # -- what the service does -------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """The oldest command arrives."""
        with self._lock:
            command = self.up.popleft()
            if command["type"] == "response.create":
                self._asked(command)
            elif command["type"] == "response.cancel":
                if self.active is not None:
                    self.end("cancelled")
                else:
                    self._error("response_cancel_not_active", command)
            elif command["type"] == "conversation.item.create":
                self._item(command["item"])

    def _asked(self, command: dict[str, Any]) -> None:
        if self.active is not None:
            self.refused += 1
            self._error("conversation_already_has_active_response", command)
            return
        self.accepted += 1
        self.begin(asked=True)

    def _item(self, item: dict[str, Any]) -> None:
        if item["type"] != "function_call_output":
            self.items.append("".join(part.get("text", "") for part in item["content"]))
            return
        owner = next((answer for answer in self.answers if item["call_id"] in answer.calls), None)
        if owner is None or owner.connection is not self.connection:
            self.strange.append(item["call_id"])
            return
        owner.calls[item["call_id"]] += 1

    def _error(self, code: str, command: dict[str, Any]) -> None:
        self.say("error", error={"type": "invalid_request_error", "code": code, "message": "no", "event_id": command.get("event_id")})

    def begin(self, *, asked: bool = False) -> _Answer:
        """An answer begins: because it was asked for, or because the user spoke."""
        with self._lock:
            assert self.active is None, "two answers at once"
            assert self.connection is not None
            self.active = _Answer(f"r{next(self._numbers)}", self.connection, asked)
            self.answers.append(self.active)
            self.say("response.created", response={"id": self.active.id, "status": "in_progress"})
            return self.active

    def call(self) -> str:
        """The running answer calls the function."""
        with self._lock:
            answer = self.active
            assert answer is not None
            call_id = f"c{next(self._numbers)}"
            answer.calls[call_id] = 0
            item = {"id": f"i{call_id}", "type": "function_call", "status": "completed", "call_id": call_id}
            item |= {"name": "look", "arguments": "{}"}
            told = {"response_id": answer.id, "item_id": item["id"], "output_index": 0}
            self.say("response.function_call_arguments.done", call_id=call_id, name="look", arguments="{}", **told)
            self.say("response.output_item.done", response_id=answer.id, output_index=0, item=item)
            return call_id

    def end(self, status: str = "completed") -> None:
        """The running answer ends."""
        with self._lock:
            answer, self.active = self.active, None
            assert answer is not None
            answer.status = status
            self.say("response.done", response={"id": answer.id, "status": status, "output": []})

    def speech(self) -> None:
        """The user speaks: what runs is cancelled, and an answer to that begins by itself."""
        with self._lock:
            item = f"u{next(self._numbers)}"
            self.say("input_audio_buffer.speech_started", item_id=item, audio_start_ms=0)
            if self.active is not None:
                self.end("cancelled")
            self.say("input_audio_buffer.speech_stopped", item_id=item, audio_end_ms=500)
            self.say("input_audio_buffer.committed", item_id=item)
            self.begin()

    def error(self, *, named: bool = True) -> None:
        """The service reports an error that concerns nothing of ours, and says so, or leaves open what it means."""
        cause = "evt_another" if named else None
        self.say("error", error={"type": "server_error", "code": "hiccup", "message": "something else", "event_id": cause})

    def lose(self) -> None:
        """The connection breaks, and with it what ran on it; the client makes another one."""
        with self._lock:
            old, self.active = self.connection, None
            self.up.clear()
            self.down.clear()
            self._opened.clear()
        assert old is not None
        old.give(None)
        assert self._opened.wait(PATIENCE), "no new connection"
        assert self.connection is not old
        self.settle()
