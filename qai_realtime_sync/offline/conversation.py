"""One conversation as a service keeps it: items, turns, answers, barge-in and truncation; no wire, no socket.

Everything that happens is told as a fact of `facts`, in order, while the lock is held; whoever called flushes what the spelling
made of it afterwards, so that no lock is held while a network is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.answers import default_answer
from qai_realtime_sync.offline.items import Detection, Item, RefusedError, Request, Response, Settings, new_id
from qai_realtime_sync.offline.listening import Began, Ear, Ended, Guess, Noticed
from qai_realtime_sync.offline.reply import Reply
from qai_realtime_sync.offline.script import Say, Script, Situation, Step
from qai_realtime_sync.offline.voice import Voice

__all__ = ["SPEECH_WITHOUT_WORDS", "Conversation", "Teller"]

SPEECH_WITHOUT_WORDS = "(speech)"
_SHORTEST_COMMIT_MS = 100
_SOUND_KEPT = 4 * 1024 * 1024  # bytes of a conversation's sound that can be retrieved


class Teller(Protocol):
    """Who is told what happens."""

    def tell(self, fact: facts.Fact) -> None:
        """Take one fact; called while the conversation is locked, so it must not wait for anything."""
        ...

    def flush(self) -> None:
        """Send what the facts became; called without a lock, may wait for the network."""
        ...


class Conversation:
    """The state of one conversation.

    `hear`, `commit`, `clear`, `configure` and `close` belong to one thread, the one that receives; all others may be called from any.
    ``pace`` is how much faster than it plays sound is sent. ``allow`` is asked before each answer (a rate limit). ``clock`` tells how sound
    passes; if it runs ``speed`` times as fast as the real one, waits are as much shorter.
    """

    def __init__(
        self,
        voice: Voice,
        script: Script,
        teller: Teller,
        *,
        pace: float = 4.0,
        name: str = "1",
        conversation_id: str = "",
        allow: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
        speed: float = 1.0,
    ) -> None:
        self.id = conversation_id or new_id("conv")
        self.voice, self.pace, self.clock, self.name = voice, pace, clock, name
        self.settings = Settings()
        self.items: list[Item] = []
        self.teller = teller
        self.lock = threading.RLock()  # guards everything below, and the order of the facts
        self.active: Response | None = None
        self._script, self._allow = script, allow
        self._clock_speed = speed
        self.memory: dict[str, Any] = {}  # of the script
        self._replies: list[Reply] = []
        self._turn: Item | None = None  # what the user is saying
        self._answer_later = False
        self._closed = False
        self._idle: threading.Timer | None = None
        self._ear = Ear(voice, self.settings.input_format, None)

    def seconds(self, of_sound: float) -> float:
        """Return how long to wait, really, until so many seconds of sound have passed by the clock."""
        return of_sound / self._clock_speed

    # -- settings ------------------------------------------------------------------------------------------------------------

    def configure(self, settings: Settings) -> None:
        """Put new settings in force; a change of the input format or of turn detection forgets audio that waits."""
        with self.lock:
            old, self.settings = self.settings, settings
            if (old.input_format, old.detection) != (settings.input_format, settings.detection):
                position = self._ear.position_ms
                self._ear.close()
                self._turn = None
                self._ear = Ear(self.voice, settings.input_format, settings.detection, position_ms=position)

    # -- the user's sound ----------------------------------------------------------------------------------------------------

    def hear(self, audio: bytes) -> None:
        """Take sound in the session's input format."""
        for noticed in self._ear.feed(audio):
            self._noticed(noticed)

    def _noticed(self, noticed: Noticed) -> None:
        if isinstance(noticed, Began):
            with self.lock:
                self._stop_idling()
                self.teller.tell(facts.SpeechBegan(self._spoken_item(), noticed.at_ms, self._last_id()))
                self._barge_in()
        elif isinstance(noticed, Guess):
            with self.lock:
                if self._ear.speaking:  # without turn detection nobody knows of the item yet
                    item = self._spoken_item()
                    item.text = noticed.text
                    self.teller.tell(facts.Heard(item, noticed.text, False, 0.0))
        elif isinstance(noticed, Ended):
            with self.lock:
                self.teller.tell(facts.SpeechEnded(self._spoken_item(), noticed.at_ms))
            self._take_turn(announced=True)
            detection = self.settings.detection
            if detection is not None and detection.create_response:
                self.answer_soon()
        self.teller.flush()

    def _barge_in(self) -> None:
        detection, active = self.settings.detection, self.active
        if detection is not None and detection.interrupt_response and active is not None and active.request.interruptible:
            self._end(active, "cancelled", "turn_detected")

    def _spoken_item(self) -> Item:
        if self._turn is None:
            self._turn = Item(new_id("item"), role="user", status="in_progress", content="audio")
        return self._turn

    def _take_turn(self, announced: bool) -> Item:
        """Make an item of what was said; the recogniser's last word comes after the commit, as at the services."""
        with self.lock:
            item = self._spoken_item()
            item.audio = self._ear.take()
            item.heard_seconds = len(item.audio) / self.settings.input_format.bytes_per_second
            item.status = "completed"
            self._forget_old_sound(_SOUND_KEPT - len(item.audio))
            previous = self._last_id()
            self.items.append(item)
            self._turn = None
            self.teller.tell(facts.BufferCommitted(item, previous, announced))
        self.teller.flush()
        text = self._ear.transcribe()
        with self.lock:
            item.text = SPEECH_WITHOUT_WORDS if text is None else text
            self.teller.tell(facts.Heard(item, item.text, True, item.heard_seconds))
        return item

    def _forget_old_sound(self, keep: int) -> None:
        """Keep the newest ``keep`` bytes of the user's sound, in whole items: a call may last for hours."""
        for item in reversed(self.items):
            keep -= len(item.audio)
            if keep < 0:
                item.audio = b""

    def answer_soon(self) -> None:
        """Begin an answer, or let it follow the one that is being made; flush afterwards."""
        with self.lock:
            if self.active is None:
                self.respond(Request())
            else:
                self._answer_later = True  # interrupt_response is off: answered when the running answer is over

    def commit(self) -> None:
        """Make an item of the sound that waits. Raises: RefusedError if there is less than 100 ms of it."""
        if self._ear.waiting_ms < _SHORTEST_COMMIT_MS:
            raise RefusedError(
                "input_audio_buffer_commit_empty",
                f"Error committing input audio buffer: buffer too small. Expected at least {_SHORTEST_COMMIT_MS}ms of audio, "
                f"but buffer only has {self._ear.waiting_ms}ms of audio.",
            )
        self._take_turn(announced=self._ear.speaking)

    def clear(self) -> None:
        """Forget the sound that waits."""
        self._ear.forget()
        with self.lock:
            self._turn = None
            self.teller.tell(facts.BufferCleared())

    @property
    def has_spoken(self) -> bool:
        """There is an answer with sound in this conversation."""
        with self.lock:
            return any(item.role == "assistant" and item.generated_ms for item in self.items)

    # -- items ---------------------------------------------------------------------------------------------------------------

    def add(self, item: Item, previous: str | None = None, *, replayed: bool = False) -> None:
        """Add an item the client wrote: at the end, at the beginning (``root``), or after ``previous``. Raises: RefusedError."""
        with self.lock:
            self._check_new(item)
            at = len(self.items)
            if previous == "root":
                at = 0
            elif previous:
                at = self._index(previous, "previous_item_id") + 1
            item.answered = any(later.answered for later in self.items[at:])  # history needs no answer
            before = self.items[at - 1].id if at else ""
            self.items.insert(at, item)
            self.teller.tell(facts.ItemAdded(item, before, replayed))
            self._stop_idling()

    def _check_new(self, item: Item) -> None:
        if any(known.id == item.id for known in self.items):
            raise RefusedError("item_id_exists", f"An item with the id '{item.id}' already exists.", param="item.id")
        if item.kind == "function_call_output":
            calls = [known for known in self.items if known.kind == "function_call" and known.call_id == item.call_id]
            if not calls:
                raise RefusedError(
                    "invalid_tool_call_id", f"Tool call ID '{item.call_id}' not found in conversation.", param="item.call_id"
                )
            item.name = calls[0].name

    def go_on_from(self, earlier: Conversation) -> None:
        """Begin with what was said in an earlier conversation, without telling it."""
        with earlier.lock:
            items, memory = [*earlier.items], dict(earlier.memory)
        with self.lock:
            self.items[:0] = [attrs.evolve(item, words=[*item.words], answered=True) for item in items]
            self.memory = {**memory, **self.memory}

    def delete(self, item_id: str) -> None:
        """Remove an item. Raises: RefusedError if it is not there."""
        with self.lock:
            at = self._index(item_id)
            del self.items[at]
            self.teller.tell(facts.ItemDeleted(item_id))

    def find(self, item_id: str) -> Item:
        """Return an item. Raises: RefusedError if it is not there."""
        with self.lock:
            return self.items[self._index(item_id)]

    def truncate(self, item_id: str, content_index: int, audio_end_ms: int) -> None:
        """Cut an answer at what was heard. Raises: RefusedError if it is no spoken answer, or shorter than that."""
        with self.lock:
            item = self.items[self._index(item_id)]
            if item.kind != "message" or item.role != "assistant" or item.content != "audio":
                raise RefusedError("invalid_value", "Only model output audio messages can be truncated.", param="item_id")
            if content_index != 0:
                raise RefusedError("invalid_value", f"Content part {content_index} of item '{item_id}' not found.", param="content_index")
            if not 0 <= audio_end_ms <= item.generated_ms:
                raise RefusedError(
                    "invalid_value",
                    f"Audio content of {item.generated_ms}ms is already shorter than {audio_end_ms}ms",
                    param="audio_end_ms",
                )
            item.cut(audio_end_ms)
            self.teller.tell(facts.ItemTruncated(item, content_index, audio_end_ms))

    def _index(self, item_id: str, param: str = "item_id") -> int:
        for at, item in enumerate(self.items):
            if item.id == item_id:
                return at
        raise RefusedError("item_not_found", f"Item with item_id '{item_id}' not found in conversation.", param=param)

    def _last_id(self) -> str:
        return self.items[-1].id if self.items else ""

    # -- answers -------------------------------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response:
        """Begin an answer. Raises: RefusedError while another one is being made, unless it is out of band."""
        with self.lock:
            if self.active is not None and not request.out_of_band:
                raise RefusedError(
                    "conversation_already_has_active_response",
                    f"Conversation already has an active response in progress: {self.active.id}. Wait until the response is finished "
                    "before creating a new one.",
                )
            self._stop_idling()
            spoken = self.settings.spoken if request.spoken is None else request.spoken
            response = Response(new_id("resp"), request, spoken, "" if request.out_of_band else self.id)
            most = self.settings.max_output_tokens if request.max_output_tokens is None else request.max_output_tokens
            response.most_tokens = most or None
            situation = self._situation(request)
            steps = self._steps(request, situation)
            if not request.out_of_band:
                self.active = response
                for item in self.items:
                    item.answered = True
            self.teller.tell(facts.ResponseBegan(response))
            if not self._allow():
                response.error_code, response.error_message = (
                    "rate_limit_exceeded",
                    "Rate limit reached: too many responses. Try again later.",
                )
                self._end(response, "failed", "")
                return response
            self._weigh(response, situation)
            reply = Reply(self, response, steps)
            self._replies = [one for one in self._replies if one.alive] + [reply]
        reply.start()
        return response

    def _situation(self, request: Request) -> Situation:
        fresh = self._fresh(request)
        spoken_by = [at for at, item in enumerate(fresh) if item.kind == "message" and item.role == "assistant"]
        # Earlier turns that a client writes down are history: what is answered comes after the assistant's last word.
        asked = fresh[spoken_by[-1] + 1 :] if spoken_by else fresh
        said = [item for item in asked if item.kind == "message" and item.role == "user"]
        return Situation(
            text=" ".join(item.text for item in said if item.text),
            results=[(item.name, item.output) for item in asked if item.kind == "function_call_output"],
            instructions=self.settings.instructions if request.instructions is None else request.instructions,
            own_instructions=request.instructions is not None,
            tools=self.settings.tools if request.tools is None else request.tools,
            tool_choice=self.settings.tool_choice if request.tool_choice is None else request.tool_choice,
            wordless=bool(said) and all(item.text == SPEECH_WITHOUT_WORDS for item in said),
            memory=self.memory,
            heard_seconds=sum(item.heard_seconds for item in said) if any(item.content == "audio" for item in said) else None,
        )

    def _fresh(self, request: Request) -> list[Item]:
        """Return what an answer is about: what came since the last one, or the last thing said if the answer is out of band."""
        if request.input is None and not request.out_of_band:
            return [item for item in self.items if not item.answered]
        items = self.items if request.input is None else request.input
        asked = [at for at, item in enumerate(items) if item.kind == "message" and item.role == "user"]
        return items[asked[-1] :] if asked else items

    def _steps(self, request: Request, situation: Situation) -> list[Step]:
        if request.steps is not None:
            return request.steps
        return [Say(request.verbatim)] if request.verbatim else self._script.answer(situation, default_answer)

    def _weigh(self, response: Response, situation: Situation) -> None:
        usage = response.usage
        usage.input_text = 1 + (len(situation.instructions) + sum(len(item.text + item.output) for item in self.items)) // 4
        usage.input_audio = round(sum(item.heard_seconds for item in self.items) * 10)

    def cancel(self, response_id: str = "") -> None:
        """End an answer before it is complete. Raises: RefusedError if none is being made."""
        with self.lock:
            response = self.active
            if response_id and (response is None or response.id != response_id):
                response = next((one.response for one in self._replies if one.response.id == response_id and one.response.active), None)
            if response is None:
                raise RefusedError("response_cancel_not_active", "Cancellation failed: no active response found")
            self._end(response, "cancelled", "client_cancelled")

    def finish(self, response: Response) -> None:
        """End an answer that is complete; nothing happens if it was ended before."""
        with self.lock:
            if response.active:
                self._end(response, "completed", "")

    def exhaust(self, response: Response) -> None:
        """End an answer that has used up its tokens; called while the lock is held."""
        self._end(response, "incomplete", "max_output_tokens")

    def fail(self, response: Response, message: str, code: str = "server_error") -> None:
        """End an answer that cannot be made."""
        with self.lock:
            if response.active:
                response.error_code, response.error_message = code, message
                self._end(response, "failed", "")

    def close_output(self, response: Response, status: str) -> None:
        """End the item of an answer that is open; called while the lock is held."""
        item, response.open_item = response.open_item, None
        if item is None:
            return
        item.status = status
        at = next((index for index, known in enumerate(self.items) if known is item), 0)
        previous = self.items[at - 1].id if at else ""
        self.teller.tell(facts.OutputEnded(response, len(response.output) - 1, item, previous))

    def open_output(self, response: Response, item: Item) -> None:
        """Begin an item of an answer; called while the lock is held."""
        previous = self._last_id()
        item.answered = True
        response.output.append(item)
        response.open_item = item
        if not response.request.out_of_band:
            self.items.append(item)
        self.teller.tell(facts.OutputBegan(response, len(response.output) - 1, item, previous))

    def _end(self, response: Response, status: str, reason: str) -> None:
        self.close_output(response, "completed" if status == "completed" else "incomplete")
        response.status, response.reason = status, reason
        response.stop.set()
        if self.active is response:
            self.active = None
        self.teller.tell(facts.ResponseEnded(response))
        if self._answer_later and self.active is None and not self._closed:
            self._answer_later = False
            self.respond(Request())
        else:
            self._start_idling(response)

    # -- silence -------------------------------------------------------------------------------------------------------------

    def _start_idling(self, response: Response) -> None:
        detection = self.settings.detection
        if detection is None or not detection.idle_timeout_ms or response.status != "completed" or self._closed:
            return
        self._stop_idling()
        wait = detection.idle_timeout_ms / 1000 + response.usage.audio_seconds
        self._idle = threading.Timer(wait, self._idled, (detection,))
        self._idle.name = f"qai-offline-idle-{self.name}"
        self._idle.daemon = True
        self._idle.start()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _idled(self, detection: Detection) -> None:
        with self.lock:
            if self._closed or self.active is not None or self._turn is not None or self._idle is not threading.current_thread():
                return
            self._idle = None
            item = Item(new_id("item"), role="user", content="audio")
            previous = self._last_id()
            end = round(self._ear.position_ms)
            self.teller.tell(facts.IdleTimeout(item, max(0, end - (detection.idle_timeout_ms or 0)), end))
            self.items.append(item)
            self.teller.tell(facts.BufferCommitted(item, previous, False))
            self.respond(Request(verbatim="Are you still there? I am here if you need me."))
        self.teller.flush()

    # -- the end -------------------------------------------------------------------------------------------------------------

    def halt(self) -> None:
        """End everything without another word; may be called from any thread."""
        with self.lock:
            self._closed = True
            self._stop_idling()
            self.active = None
            for reply in self._replies:
                reply.response.stop.set()

    def close(self) -> list[threading.Thread]:
        """Halt and give the ear back; return the threads that are about to end, to be joined. For the receiving thread."""
        with self.lock:
            idle = self._idle
            self.halt()
            self._ear.close()
            self._forget_old_sound(0)
        return [*(reply.thread for reply in self._replies), *([idle] if idle is not None else [])]
