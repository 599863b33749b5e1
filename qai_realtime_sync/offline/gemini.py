"""The wire of Gemini Live: one member per message, JSON in binary frames, no ids but those of calls, errors only as close frames.

Spelled from the vendor's SDK types and from recorded sessions of the developer API: a turn is a thought, transcripts and sound in any
order, ``generationComplete``, and ``turnComplete`` when the sound must have been heard.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs

from qai_realtime_sync.audio import AudioFormat, b64decode, b64encode
from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.gemini_setup import Setup, bad, field, instructions_of, read_setup, snake, tools_of
from qai_realtime_sync.offline.items import Item, RefusedError, Response, new_id
from qai_realtime_sync.offline.journal import Journal
from qai_realtime_sync.offline.playing import Playing
from qai_realtime_sync.offline.spelling import Outlet, Spelling, Terms

__all__ = ["GeminiSpelling"]

_THOUGHT = "**Preparing the answer**\n\nThe script says what comes next.\n\n\n"
_RATE = re.compile(r"audio/(?:pcm|l16)(?:;.*?\brate=(\d{4,6}))?", re.IGNORECASE)
_INPUTS = ("audio", "audioStreamEnd", "video", "text", "activityStart", "activityEnd", "mediaChunks")
_log = logging.getLogger(__name__)


@attrs.define(eq=False)
class _Turn:
    """A turn of the model that was begun on the wire; ``timer`` ends it when its sound must have been heard."""

    response: Response | None = None
    thought: bool = False
    timer: threading.Timer | None = None


class GeminiSpelling(Spelling):
    """One connection of a Gemini client."""

    def __init__(self, outlet: Outlet, journal: Journal, terms: Terms) -> None:
        super().__init__(outlet, journal, terms)
        self._setup: Setup | None = None
        self._playing: Playing
        self._turn: _Turn | None = None
        self._speaking = False  # the user, as the detection says
        self._active = False  # the user, as the client says
        self._calls: list[Item] = []  # of the answer that is being made
        self._waiting: dict[str, Item] = {}  # calls the model waits for
        self._known: dict[str, Item] = {}  # all calls
        self._settled: set[str] = set()  # calls that were answered, or whose result is not wanted any more
        self._over = False
        self._timers: list[threading.Timer] = []

    # -- life ----------------------------------------------------------------------------------------------------------------

    def begin(self, conversation: Conversation) -> None:
        """Take the conversation; nothing is said before the client's setup. The end of the connection is announced in time."""
        self.conversation = conversation
        self._playing = Playing(conversation.clock)
        cap = self.terms.cap
        if cap is not None:
            lead = min(10.0, cap / 2)
            self._after(cap - lead, "goaway", lambda: self._go_away(lead))

    def _after(self, seconds: float, what: str, act: Callable[[], None]) -> threading.Timer:
        timer = threading.Timer(seconds, act)
        timer.name = f"qai-offline-{what}-{self.terms.number}"
        timer.daemon = True
        self._timers = [one for one in self._timers if one.is_alive()] + [timer]
        timer.start()
        return timer

    def _go_away(self, lead: float) -> None:
        with self.conversation.lock:
            if not self._over:
                self._send("goAway", {"goAway": {"timeLeft": f"{lead:g}s"}})
        self.flush()

    def end(self) -> list[threading.Thread]:
        """Stop the timers."""
        with self.conversation.lock:
            self._over = True
            for timer in self._timers:
                timer.cancel()
            return [*self._timers]

    def expire(self, seconds: float) -> None:
        """Close; ``goAway`` came before it."""
        self.hang_up(1001, f"The connection has lasted for {seconds:g} seconds, as long as it may.")
        self.flush()

    def turn_away(self, admitted: bool) -> None:
        """Close with the words of a wrong key."""
        self.hang_up(1007, "API key not valid. Please pass a valid API key.")
        self.flush()

    # -- outgoing ------------------------------------------------------------------------------------------------------------

    def _send(self, name: str, message: Mapping[str, Any], noted: Mapping[str, Any] | None = None) -> None:
        """Queue a message, in a binary frame as the service does."""
        self._journal.note(self.terms.number, "sent", name, message if noted is None else noted)
        self._outlet.put(json.dumps(message, separators=(",", ":")).encode())

    def _content(self, noted: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Queue some of the model's turn."""
        self._send("serverContent", {"serverContent": fields}, noted)

    # -- incoming ------------------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> None:
        """Take one message of the client, in a text or a binary frame."""
        try:
            self._take(_parsed(message))
        except RefusedError as refusal:
            self.hang_up(int(refusal.code) if refusal.code.isdigit() else 1007, refusal.message[:120])
        except Exception:
            _log.exception("a message of the client could not be worked through")
            self.hang_up(1011, "Internal error encountered.")
        self.flush()

    def _take(self, frame: dict[str, Any]) -> None:
        if len(frame) != 1:
            raise bad("Request contains an invalid argument: a client message has exactly one member.")
        written = next(iter(frame))
        name = next((known for known in self.client_messages if written in (known, snake(known))), None)
        if name is None:
            raise bad(f'Invalid JSON payload received. Unknown name "{written}": Cannot find field.')
        value = frame[written]
        if not isinstance(value, dict):
            raise bad(f"Invalid value at '{name}': expected an object.")
        if (name == "setup") is not (self._setup is None):
            raise bad("Request contains an invalid argument: setup comes once, and first.")
        if name != "realtimeInput":
            self._journal.note(self.terms.number, "received", name, value)
        self.client_messages[name](self, value)

    def _begin(self, given: dict[str, Any]) -> None:
        setup = read_setup(given)
        if setup.handle:
            earlier = self.terms.recall(setup.handle)
            if earlier is None:
                raise bad("BidiGenerateContent session not found.", "1008")
            self.conversation.go_on_from(earlier)
        self._setup = setup
        self.conversation.configure(setup.settings)
        self._send("setupComplete", {"setupComplete": {}})
        self._give_handle()

    def _give_handle(self) -> None:
        if self._setup is not None and self._setup.resumption:
            handle = secrets.token_urlsafe(24)
            self.terms.keep(handle, self.conversation)
            self._send("sessionResumptionUpdate", {"sessionResumptionUpdate": {"newHandle": handle, "resumable": True}})

    def _client_content(self, given: dict[str, Any]) -> None:
        turns = given.get("turns")
        if turns is not None and not isinstance(turns, list):
            raise bad("Invalid value at 'client_content.turns': expected a list.")
        items = [_item(turn) for turn in turns or []]
        complete = field(given, "turnComplete") is True
        with self.conversation.lock:
            if complete or not self._waiting:
                self._interrupt()
            for item in items:
                self.conversation.add(item)
            if complete:
                self.conversation.answer_soon()

    def _realtime_input(self, given: dict[str, Any]) -> None:
        for written, value in given.items():
            name = next((known for known in _INPUTS if written in (known, snake(known))), None)
            if name is None:
                raise bad(f"Invalid JSON payload received. Unknown name \"{written}\" at 'realtime_input': Cannot find field.")
            if name not in ("audio", "mediaChunks"):
                self._journal.note(self.terms.number, "received", f"realtimeInput.{name}", {})
            self._inputs[name](self, value)

    def _audio(self, blob: object) -> None:
        kind = field(blob, "mimeType") if isinstance(blob, dict) else None
        found = _RATE.fullmatch(kind) if isinstance(kind, str) else None
        data = blob.get("data") if isinstance(blob, dict) else None
        if found is None or not isinstance(data, str):
            raise bad("Request contains an invalid argument: audio needs data and a mime type such as audio/pcm;rate=16000.")
        rate = int(found.group(1) or 16000)
        if not 8000 <= rate <= 96_000:
            raise bad(f"Request contains an invalid argument: a sample rate of {rate} Hz.")
        try:
            audio = b64decode(data + "=" * (-len(data) % 4))
        except ValueError:
            raise bad("Invalid value at 'realtime_input.audio.data' (TYPE_BYTES), Base64 decoding failed.") from None
        assert self._setup is not None
        self._journal.received_sound(self.terms.number, len(audio))
        settings = self._setup.settings
        if rate != settings.input_format.sample_rate:
            self._setup.settings = attrs.evolve(settings, input_format=AudioFormat("pcm16", rate))
            self.conversation.configure(self._setup.settings)
        if self._active or not self._setup.manual:
            self.conversation.hear(audio)

    def _chunks(self, blobs: object) -> None:
        for blob in blobs if isinstance(blobs, list) else [blobs]:
            kind = field(blob, "mimeType") if isinstance(blob, dict) else None
            if not isinstance(kind, str) or not kind.startswith("image/"):
                self._audio(blob)

    def _stream_end(self, value: object) -> None:
        """The microphone pauses: what was being said is said."""
        if self._speaking:
            self._commit()

    def _video(self, blob: object) -> None:
        """Pictures are taken and not looked at."""
        if not isinstance(blob, dict):
            raise bad("Request contains an invalid argument: video needs data and a mime type.")

    def _text(self, text: object) -> None:
        if not isinstance(text, str):
            raise bad("Invalid value at 'realtime_input.text': expected a string.")
        with self.conversation.lock:
            self._interrupt()
            self.conversation.add(Item(new_id("item"), role="user", text=text))
            self.conversation.answer_soon()

    def _activity_start(self, value: object) -> None:
        self._only_manual()
        assert self._setup is not None
        self._active = True
        self.conversation.clear()
        with self.conversation.lock:
            if self._setup.interrupts:
                self._interrupt()

    def _activity_end(self, value: object) -> None:
        self._only_manual()
        if self._active:
            self._active = False
            self._commit()

    def _only_manual(self) -> None:
        if self._setup is None or not self._setup.manual:
            raise bad("Explicit activity control is not supported when automatic activity detection is enabled.")

    def _commit(self) -> None:
        self._speaking = False
        try:
            self.conversation.commit()
        except RefusedError:
            return  # hardly any sound: there is nothing to answer
        self.conversation.answer_soon()

    _inputs: ClassVar[Mapping[str, Callable[[Any, object], None]]] = {
        "audio": _audio,
        "mediaChunks": _chunks,
        "audioStreamEnd": _stream_end,
        "video": _video,
        "text": _text,
        "activityStart": _activity_start,
        "activityEnd": _activity_end,
    }

    def _tool_response(self, given: dict[str, Any]) -> None:
        responses = field(given, "functionResponses")
        if not isinstance(responses, list) or not all(isinstance(one, dict) for one in responses):
            raise bad("Request contains an invalid argument: toolResponse needs functionResponses.")
        with self.conversation.lock:
            before = bool(self._waiting)
            wanted = [self._result(one) for one in responses]
            if (before and not self._waiting) or any(wanted):
                self.conversation.answer_soon()

    def _result(self, given: dict[str, Any]) -> bool:
        """Take one result; return whether an answer follows by itself, for a call the model did not wait for."""
        call_id, name, value = given.get("id"), given.get("name"), given.get("response")
        if not isinstance(value, dict) or not isinstance(call_id, str | None) or not isinstance(name, str | None):
            raise bad("Request contains an invalid argument: the response of a function is an object, its id and name are text.")
        call = self._known.get(call_id) if call_id else next((one for one in self._waiting.values() if one.name == name), None)
        if call is None:
            raise bad(f"Request contains an invalid argument: no call {call_id or name} waits for a response.")
        blocking = self._waiting.pop(call.call_id, None) is not None
        if call.call_id in self._settled:
            return False
        self._settled.add(call.call_id)
        output = next((value[key] for key in ("output", "error", "result") if key in value), value)
        text = output if isinstance(output, str) else json.dumps(output)
        self.conversation.add(Item(new_id("item"), "function_call_output", call_id=call.call_id, output=text))
        return not blocking and given.get("scheduling") != "SILENT"

    def _context_update(self, given: dict[str, Any]) -> None:
        assert self._setup is not None
        settings = self._setup.settings
        if field(given, "systemInstruction") is not None:
            settings = attrs.evolve(settings, instructions=instructions_of(field(given, "systemInstruction")))
        if "tools" in given:
            tools, self._setup.free_tools = tools_of(given["tools"])
            settings = attrs.evolve(settings, tools=tools)
        self._setup.settings = settings
        self.conversation.configure(settings)

    client_messages: ClassVar[Mapping[str, Callable[[Any, dict[str, Any]], None]]] = {
        "setup": _begin,
        "clientContent": _client_content,
        "realtimeInput": _realtime_input,
        "toolResponse": _tool_response,
        "contextUpdate": _context_update,
    }

    # -- turns, while the conversation is locked -------------------------------------------------------------------------------

    def _interrupt(self) -> None:
        """Stop what is being said, still plays, or waits for a tool."""
        if self.conversation.active is not None:
            self.conversation.cancel()
        else:
            self._break_off()

    def _break_off(self) -> None:
        if self._waiting:
            ids = [*self._waiting]
            self._waiting.clear()
            self._settled.update(ids)
            self._send("toolCallCancellation", {"toolCallCancellation": {"ids": ids}})
        if self._turn is not None:
            self._playing.cut()
            self._content(interrupted=True)
            self._complete()

    def _open(self, response: Response) -> _Turn:
        if self._turn is None:
            self._turn = _Turn(thought=False)
            self._playing.begin()
        self._turn.response = response
        return self._turn

    def _complete(self) -> None:
        """End the turn, with what it cost."""
        turn, self._turn = self._turn, None
        if turn is None:
            return
        if turn.timer is not None:
            turn.timer.cancel()
        message: dict[str, Any] = {"serverContent": {"turnComplete": True}}
        if turn.response is not None:
            message["usageMetadata"] = _usage(turn.response, turn.thought)
        self._send("serverContent", message)
        self._give_handle()

    def _heard_out(self, turn: _Turn) -> None:
        with self.conversation.lock:
            if self._turn is turn and not self._over:
                self._complete()
        self.flush()

    # -- facts ---------------------------------------------------------------------------------------------------------------

    def tell(self, fact: facts.Fact) -> None:
        """Queue the messages that a fact becomes."""
        writer = self.fact_writers.get(type(fact))
        if writer is not None:
            writer(self, fact)

    def _speech_began(self, fact: facts.SpeechBegan) -> None:
        assert self._setup is not None
        self._speaking = True
        self._signal("ACTIVITY_START", fact.start_ms)
        if self._setup.interrupts and self.conversation.active is None:  # else the engine ends it by itself
            self._break_off()

    def _speech_ended(self, fact: facts.SpeechEnded) -> None:
        self._speaking = False
        self._signal("ACTIVITY_END", fact.end_ms)

    def _signal(self, kind: str, at_ms: int) -> None:
        if self._setup is not None and self._setup.signals:
            self._send("voiceActivity", {"voiceActivity": {"voiceActivityType": kind, "audioOffset": f"{at_ms / 1000:g}s"}})

    def _heard(self, fact: facts.Heard) -> None:
        """What the user said, in increments that begin with a blank (recorded); there is no word for its end."""
        if fact.final and self._setup is not None and self._setup.transcribes_input:
            for word in fact.text.split():
                self._content(inputTranscription={"text": f" {word}"})

    def _response_began(self, fact: facts.ResponseBegan) -> None:
        self._calls = []
        if self._turn is not None and self._turn.timer is not None:  # nothing interrupted it: it has been heard, as far as anybody cares
            self._complete()

    def _output_began(self, fact: facts.OutputBegan) -> None:
        fresh = self._turn is None
        turn = self._open(fact.response)
        if fresh and fact.item.kind == "message":
            turn.thought = True
            self._content(modelTurn={"parts": [{"text": _THOUGHT, "thought": True}]})

    def _audio_piece(self, fact: facts.AudioPiece) -> None:
        self._playing.sent(fact.item, fact.duration_ms)
        mime = "audio/pcm;rate=24000"
        sound = {"inlineData": {"mimeType": mime, "data": b64encode(fact.audio).decode("ascii")}}
        self._content({"modelTurn": {"mimeType": mime, "audio": len(fact.audio)}}, modelTurn={"parts": [sound]})

    def _text_piece(self, fact: facts.TextPiece) -> None:
        if fact.item.content == "text":
            self._content(modelTurn={"parts": [{"text": fact.text}]})
        elif self._setup is not None and self._setup.transcribes_output:
            self._content(outputTranscription={"text": fact.text})

    def _call_written(self, fact: facts.CallWritten) -> None:
        self._calls.append(fact.item)

    def _response_ended(self, fact: facts.ResponseEnded) -> None:
        response = fact.response
        if response.status == "failed":
            quota = response.error_code == "rate_limit_exceeded"
            self.hang_up(1011, "You exceeded your current quota, please check your plan." if quota else "Internal error encountered.")
        elif response.status == "cancelled":
            self._break_off()
        else:
            calls, self._calls = self._calls, []
            if calls:
                self._ask_client(calls)
            if not self._waiting:
                self._end_turn(response)

    def _ask_client(self, calls: list[Item]) -> None:
        """All calls of an answer in one message; the model waits for their results, all of them (recorded)."""
        assert self._setup is not None
        for item in calls:
            self._known[item.call_id] = item
            if item.name not in self._setup.free_tools:
                self._waiting[item.call_id] = item
        written = [{"name": item.name, "args": json.loads(item.arguments), "id": item.call_id} for item in calls]
        self._send("toolCall", {"toolCall": {"functionCalls": written}})

    def _end_turn(self, response: Response) -> None:
        turn = self._open(response)
        self._content(generationComplete=True)
        left = self._playing.seconds_left
        if left and not self._over:
            turn.timer = self._after(self.conversation.seconds(left), "turn", lambda: self._heard_out(turn))
        else:
            self._complete()

    fact_writers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        facts.SpeechBegan: _speech_began,
        facts.SpeechEnded: _speech_ended,
        facts.Heard: _heard,
        facts.ResponseBegan: _response_began,
        facts.OutputBegan: _output_began,
        facts.AudioPiece: _audio_piece,
        facts.TextPiece: _text_piece,
        facts.CallWritten: _call_written,
        facts.ResponseEnded: _response_ended,
    }


def _parsed(message: str | bytes) -> dict[str, Any]:
    try:
        frame = json.loads(message)
    except (ValueError, RecursionError):
        raise bad("Invalid JSON payload received. Parsing terminated before end of input.") from None
    if not isinstance(frame, dict):
        raise bad("Invalid JSON payload received. Expected an object.")
    return frame


def _item(turn: object) -> Item:
    role = turn.get("role") if isinstance(turn, dict) else None
    if role not in ("user", "model"):
        raise bad("Please use a valid role: user, model.")
    parts = turn.get("parts") if isinstance(turn, dict) else None
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise bad("Request contains an invalid argument: a turn needs parts.")
    text = " ".join(str(part.get("text") or "") for part in parts if part.get("text"))
    return Item(new_id("item"), role="user" if role == "user" else "assistant", text=text)


def _usage(response: Response, thought: bool) -> dict[str, Any]:
    used = response.usage
    given, made, thoughts = used.input_text + used.input_audio, used.output_text + used.output_audio, 12 if thought else 0
    return {
        "promptTokenCount": given,
        "responseTokenCount": made,
        "totalTokenCount": given + made + thoughts,
        "promptTokensDetails": [
            {"modality": name, "tokenCount": count} for name, count in (("TEXT", used.input_text), ("AUDIO", used.input_audio)) if count
        ],
        "responseTokensDetails": [
            {"modality": name, "tokenCount": count} for name, count in (("TEXT", used.output_text), ("AUDIO", used.output_audio)) if count
        ],
        "thoughtsTokenCount": thoughts,
    }
