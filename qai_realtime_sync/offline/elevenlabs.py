"""The wire of ElevenLabs Agents: one message type per key, an utterance counter, and an agent that decides when it answers.

Spelled from the vendor's message schema. The agent of this server has one tool, ``get_weather``, and calls whatever its script says; an
agent id that ends in the name of a format (``…ulaw_8000``, ``…pcm_24000``) has that format both ways, any other one ``pcm_16000``; one with
``locked`` in its id allows no override.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from qai_realtime_sync.audio import AudioFormat, b64decode, b64encode
from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.items import Detection, Item, RefusedError, Request, Response, Settings, new_id
from qai_realtime_sync.offline.journal import Journal
from qai_realtime_sync.offline.overrides import Wanted, wanted
from qai_realtime_sync.offline.playing import Playing
from qai_realtime_sync.offline.spelling import Outlet, Spelling, Terms

__all__ = ["AGENT_TOOLS", "ElevenLabsSpelling"]

AGENT_TOOLS: Final[list[dict[str, Any]]] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Current weather and the forecast for a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
_PROMPT = "You are a friendly agent on the telephone. Answer briefly."
_FORMATS: Final = {f"pcm_{rate}": AudioFormat("pcm16", rate) for rate in (8000, 16000, 22050, 24000, 44100, 48000)} | {
    "ulaw_8000": AudioFormat("g711_ulaw", 8000)
}
_USUAL_FORMAT: Final = "pcm_16000"
_FASTEST = 2.0  # of the local voice; a client may ask for more
# How an error is followed by a close (source: the vendor's SDK): by its type, 1008 for what the client did wrong.
_CODES: Final = {
    "max_duration_exceeded": 1000,
    "transport_receive_timeout": 1002,
    "websocket_disconnect": 1002,
    "llm_error": 1002,
    "unknown": 1011,
}
_log = logging.getLogger(__name__)


class ElevenLabsSpelling(Spelling):
    """One conversation with the local agent."""

    ping_seconds: ClassVar[float] = 2.0
    pong_seconds: ClassVar[float] = 20.0
    """A client that has not answered a ping for so long is dropped."""
    input_seconds: ClassVar[float] = 60.0
    """A client that has sent nothing but pongs for so long is dropped."""

    def __init__(self, outlet: Outlet, journal: Journal, terms: Terms) -> None:
        super().__init__(outlet, journal, terms)
        agent = terms.query.get("agent_id", "")
        self._locked = "locked" in agent
        self._format_name = next((name for name in _FORMATS if agent.endswith(name)), _USUAL_FORMAT)
        self._wanted: Wanted | None = None  # until the client has said what it wants
        self._number = 0  # of the agent's utterances; the wire's event_id
        self._told = False  # something of this utterance was sent
        self._playing: Playing
        self._waiting: dict[str, int] = {}  # calls the client has not answered -> the utterance that asked
        self._contexts: dict[str, str] = {}  # context id -> item
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._watch_client, name=f"qai-offline-ping-{terms.number}", daemon=True)
        self._times = threading.Lock()  # guards the three below
        self._pings = 0
        self._unanswered: dict[int, float] = {}
        self._heard_from = 0.0

    # -- life ----------------------------------------------------------------------------------------------------------------

    def begin(self, conversation: Conversation) -> None:
        """Take the conversation; the agent waits for the client's first message."""
        self.conversation = conversation
        self._playing = Playing(conversation.clock)
        self._heard_from = conversation.clock()
        self._watch.start()

    def end(self) -> list[threading.Thread]:
        """Stop the pings."""
        self._over.set()
        return [self._watch]

    def expire(self, seconds: float) -> None:
        """The agent's maximum duration is a normal end, announced by an error with code 1000."""
        self._fail("max_duration_exceeded", f"The conversation has reached its maximum duration of {seconds:g} seconds.")
        self.flush()

    def turn_away(self, admitted: bool) -> None:
        """Close 1008, as for every wrong credential."""
        self.hang_up(1008, "Could not authenticate: the API key or the signed URL is not valid.")
        self.flush()

    def _watch_client(self) -> None:
        clock = self.conversation.clock
        while not self._over.wait(min(self.ping_seconds, self.input_seconds, self.pong_seconds)):
            now = clock()
            with self._times:
                silent = now - self._heard_from
                oldest = min(self._unanswered.values(), default=now)
                self._pings += 1
                number = self._pings
                self._unanswered[number] = now
            if now - oldest >= self.pong_seconds:
                self._fail("websocket_disconnect", "The client does not answer pings.")
                self.flush()
                return
            if silent >= self.input_seconds:
                self._fail("transport_receive_timeout", f"No user input was received for {self.input_seconds:g} seconds.")
                self.flush()
                return
            if self._wanted is not None:
                self._send("ping", ping_event={"event_id": number, "ping_ms": None if number == 1 else 50})
                self.flush()

    # -- outgoing ------------------------------------------------------------------------------------------------------------

    def _send(self, kind: str, noted: Mapping[str, Any] | None = None, **fields: Any) -> None:
        frame = {"type": kind, **fields}
        self._journal.note(self.terms.number, "sent", kind, noted if noted is not None else frame)
        self._outlet.put(json.dumps(frame, separators=(",", ":")))

    def _maybe(self, kind: str, **fields: Any) -> None:
        """Send what only some clients want to hear."""
        if self._wanted is not None and kind in self._wanted.events:
            self._send(kind, **fields)

    def _fail(self, kind: str, message: str) -> None:
        """Queue an error and the close that follows every one; the caller flushes, when it holds no lock."""
        code = _CODES.get(kind, 1008)
        self._send("error", error_event={"code": code, "message": message, "error_type": kind})
        self.hang_up(code, message[:120])

    # -- incoming ------------------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> None:
        """Take one message of the client."""
        try:
            self._take(_parsed(message))
        except RefusedError as refusal:
            self._fail(refusal.code, refusal.message)
        except Exception:
            _log.exception("a message of the client could not be worked through")
            self._fail("unknown", "The server had an internal error.")
        self.flush()

    def _take(self, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        if kind != "pong":
            with self._times:
                self._heard_from = self.conversation.clock()
        if self._wanted is None and kind != "conversation_initiation_client_data":
            raise RefusedError("invalid_message", "The first message must be conversation_initiation_client_data.")
        if kind is None and "user_audio_chunk" in frame:
            self._sound(frame["user_audio_chunk"])
            return
        self._journal.note(self.terms.number, "received", kind if isinstance(kind, str) else "", frame)
        handler = self.client_messages.get(kind) if isinstance(kind, str) else None
        if handler is None:
            raise RefusedError("invalid_message", f"Invalid message received: there is no type {kind!r}.")
        handler(self, frame)

    def _initiate(self, frame: dict[str, Any]) -> None:
        if self._wanted is not None:
            raise RefusedError("invalid_message", "The conversation was initiated before.")
        self._wanted = given = wanted(frame, _PROMPT, self._locked)
        used = _FORMATS[self._format_name]
        self.conversation.configure(
            Settings(
                instructions=given.prompt,
                detection=Detection(),
                input_format=used,
                output_format=used,
                spoken=not given.text_only,
                tools=AGENT_TOOLS,
                speed=min(given.speed, _FASTEST),
            )
        )
        self._send(
            "conversation_initiation_metadata",
            conversation_initiation_metadata_event={
                "conversation_id": self.conversation.id,
                "agent_output_audio_format": self._format_name,
                "user_input_audio_format": self._format_name,
            },
        )
        if given.first_message:
            self.conversation.respond(Request(verbatim=given.first_message))

    def _sound(self, encoded: object) -> None:
        if not isinstance(encoded, str):
            raise RefusedError("invalid_message", "Invalid message received: user_audio_chunk must be base64 text.")
        try:
            audio = b64decode(encoded)
        except ValueError:
            raise RefusedError("invalid_message", "Invalid message received: user_audio_chunk is not base64.") from None
        self._journal.received_sound(self.terms.number, len(audio))
        if self._wanted is not None and not self._wanted.text_only:
            self.conversation.hear(audio)

    def _user_message(self, frame: dict[str, Any]) -> None:
        text = frame.get("text")
        if text is not None and not isinstance(text, str):
            raise RefusedError("invalid_message", "Invalid message received: user_message.text must be text.")
        with self.conversation.lock:
            self._interrupt()
            if text:
                self.conversation.add(Item(new_id("item"), role="user", text=text))
            self.conversation.answer_soon()

    def _multimodal(self, frame: dict[str, Any]) -> None:
        inner = frame.get("text")
        self._user_message(inner if isinstance(inner, dict) else {"text": None})

    def _context(self, frame: dict[str, Any]) -> None:
        text, context_id = frame.get("text"), frame.get("context_id")
        if not isinstance(text, str):
            raise RefusedError("missing_fields", "contextual_update needs a text.")
        item = Item(new_id("item"), role="system", text=text)
        if isinstance(context_id, str) and context_id:  # the newest per id counts
            old = self._contexts.get(context_id)
            if old is not None:
                self.conversation.delete(old)
            self._contexts[context_id] = item.id
        self.conversation.add(item)

    def _tool_result(self, frame: dict[str, Any]) -> None:
        call_id, result = frame.get("tool_call_id"), frame.get("result")
        if not isinstance(call_id, str) or not isinstance(result, str) or not isinstance(frame.get("is_error", False), bool):
            raise RefusedError("missing_fields", "client_tool_result needs tool_call_id, result (text) and is_error.")
        with self.conversation.lock:
            if call_id not in self._waiting:
                return  # nobody waits for it (any more)
            number = self._waiting.pop(call_id)
            self.conversation.add(Item(new_id("item"), "function_call_output", call_id=call_id, output=result))
            active = self.conversation.active
            # An utterance that was overtaken is known from now on, and neither answered nor waited for any more.
            if number != self._number or number in self._waiting.values() or (active is not None and _calls(active)):
                return  # more calls of it may come
            self.conversation.answer_soon()

    def _pong(self, frame: dict[str, Any]) -> None:
        number = frame.get("event_id")
        with self._times:
            if type(number) is int:
                # An answer to a later ping shows that the client lives, whatever became of the earlier ones.
                self._unanswered = {one: at for one, at in self._unanswered.items() if one > number}

    def _noted(self, frame: dict[str, Any]) -> None:
        """Nothing follows: ``user_activity`` has counted as input, opinions and approvals change nothing here."""

    client_messages: ClassVar[Mapping[str, Callable[[Any, dict[str, Any]], None]]] = {
        "conversation_initiation_client_data": _initiate,
        "user_message": _user_message,
        "multimodal_message": _multimodal,
        "contextual_update": _context,
        "client_tool_result": _tool_result,
        "pong": _pong,
        "user_activity": _noted,
        "feedback": _noted,
        "mcp_tool_approval_result": _noted,
    }

    # -- facts ---------------------------------------------------------------------------------------------------------------

    def tell(self, fact: facts.Fact) -> None:
        """Queue the messages that a fact becomes."""
        writer = self.fact_writers.get(type(fact))
        if writer is not None:
            writer(self, fact)

    def _interrupt(self) -> None:
        """Stop what is being said or still plays."""
        if self.conversation.active is not None:
            self.conversation.cancel()
        elif self._told and self._playing.seconds_left:
            self._cut_off()

    def _cut_off(self) -> None:
        """Say that the utterance is void from now on, and what was heard of it."""
        self._told = False
        cut = self._playing.cut()
        self._maybe("interruption", interruption_event={"event_id": self._number})
        if cut.original:
            event = {"original_agent_response": cut.original, "corrected_agent_response": cut.heard, "event_id": self._number}
            self._maybe("agent_response_correction", agent_response_correction_event=event)

    def _speech_began(self, fact: facts.SpeechBegan) -> None:
        self._maybe("vad_score", vad_score_event={"vad_score": 1.0})
        if self.conversation.active is None:  # else the engine ends it by itself
            self._interrupt()

    def _speech_ended(self, fact: facts.SpeechEnded) -> None:
        self._maybe("vad_score", vad_score_event={"vad_score": 0.0})

    def _heard(self, fact: facts.Heard) -> None:
        event = {"user_transcript": fact.text, "event_id": self._number + 1}
        if fact.final:
            self._maybe("user_transcript", user_transcription_event=event)
        else:
            self._maybe("tentative_user_transcript", tentative_user_transcription_event=event)

    def _response_began(self, fact: facts.ResponseBegan) -> None:
        self._number += 1
        self._told = False
        self._playing.begin()

    def _said(self, fact: facts.AudioPiece | facts.TextPiece) -> None:
        """The whole text goes ahead of the first sound of a message."""
        self._told = True
        first = not any(item is fact.item for item in self._playing.items)
        self._playing.sent(fact.item, fact.duration_ms if isinstance(fact, facts.AudioPiece) else 0)
        if first:
            text = " ".join(item.planned for item in self._playing.items)
            self._maybe("agent_response", agent_response_event={"agent_response": text, "event_id": self._number})
            if fact.item.content == "text":
                self._part("start", "")

    def _audio_piece(self, fact: facts.AudioPiece) -> None:
        self._said(fact)
        if self._wanted is not None and "audio" in self._wanted.events:
            sound = {"audio_base_64": b64encode(fact.audio).decode("ascii"), "event_id": self._number}
            self._send("audio", {"audio": len(fact.audio), "event_id": self._number}, audio_event=sound)

    def _text_piece(self, fact: facts.TextPiece) -> None:
        if fact.item.content == "text":
            self._said(fact)
            self._part("delta", fact.text)

    def _part(self, kind: str, text: str) -> None:
        self._maybe("agent_chat_response_part", text_response_part={"type": kind, "text": text, "event_id": self._number})

    def _output_ended(self, fact: facts.OutputEnded) -> None:
        if fact.item.kind == "message" and fact.item.content == "text" and fact.item.words:
            self._part("stop", "")

    def _call_written(self, fact: facts.CallWritten) -> None:
        self._told = True
        item = fact.item
        self._waiting[item.call_id] = self._number
        self._maybe(
            "client_tool_call",
            client_tool_call={
                "tool_name": item.name,
                "tool_call_id": item.call_id,
                "parameters": json.loads(item.arguments),
                "event_id": self._number,
                "expects_response": True,
            },
        )

    def _response_ended(self, fact: facts.ResponseEnded) -> None:
        response = fact.response
        if response.status == "failed":
            self._fail("llm_error", response.error_message)
        elif response.status == "cancelled":
            if self._told:  # else nobody has heard of it
                self._cut_off()
        elif calls := _calls(response):  # the utterance is not complete: the agent waits for its tools
            if not any(call in self._waiting for call in calls):
                self.conversation.answer_soon()  # the client was faster
        else:
            self._maybe("agent_response_complete", agent_response_complete_event={"event_id": self._number})

    fact_writers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        facts.SpeechBegan: _speech_began,
        facts.SpeechEnded: _speech_ended,
        facts.Heard: _heard,
        facts.ResponseBegan: _response_began,
        facts.AudioPiece: _audio_piece,
        facts.TextPiece: _text_piece,
        facts.CallWritten: _call_written,
        facts.OutputEnded: _output_ended,
        facts.ResponseEnded: _response_ended,
    }


def _calls(response: Response) -> list[str]:
    """Return the ids of the calls of an answer."""
    return [item.call_id for item in response.output if item.kind == "function_call"]


def _parsed(message: str | bytes) -> dict[str, Any]:
    try:
        frame = json.loads(message)
    except (ValueError, RecursionError):
        raise RefusedError("invalid_message", "Invalid message received: it is not JSON.") from None
    if not isinstance(frame, dict):
        raise RefusedError("invalid_message", "Invalid message received: it is no JSON object.")
    return frame
