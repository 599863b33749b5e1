"""The family as xAI spells it, which also stands behind the gateway; quirks of its recorded sessions included."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from qai_realtime_sync.audio import b64encode
from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.family import FamilySpelling, place, without_sound
from qai_realtime_sync.offline.items import Item, RefusedError, Request, Response, Usage, new_id
from qai_realtime_sync.offline.journal import Journal
from qai_realtime_sync.offline.session import WireSession
from qai_realtime_sync.offline.spelling import Outlet, Terms

__all__ = ["XAISpelling"]

_TRANSCRIPTION = "conversation.item.input_audio_transcription"
_UPDATING = "grok-transcribe"  # the model that tells what it hears so far (source: xAI documents)


class XAISpelling(FamilySpelling):
    """One connection of an xAI or gateway client. ``default_threshold`` is xAI's."""

    default_threshold: ClassVar[float] = 0.85

    def __init__(self, outlet: Outlet, journal: Journal, terms: Terms) -> None:
        super().__init__(outlet, journal, terms)
        self.session = WireSession(strict=False, model=terms.model or "grok-voice-latest", turn_detection={"type": None})
        self._replay = terms.earlier

    def send(self, kind: str, **fields: Any) -> None:
        """Queue one server event; nearly all of them have a ``previous_item_id`` here."""
        if kind not in ("session.created", "error"):
            fields.setdefault("previous_item_id", None)
        super().send(kind, **fields)

    def begin(self, conversation: Conversation) -> None:
        """Send the three opening events."""
        self.conversation = conversation
        conversation.configure(self.session.settings(self.default_threshold))
        session = self.session
        self.send(
            "session.created",
            session={
                "id": self.session_id,
                "object": "realtime.session",
                "instructions": "",
                "voice": session.voice,
                "modalities": ["audio"],
                "turn_detection": {"type": None},
                "tools": [],
                "model": session.model,
            },
        )
        self.send("conversation.created", conversation={"id": conversation.id, "object": "realtime.conversation"})
        self.send("ping", timestamp=int(time.time() * 1000))
        self.flush()

    def expire(self, seconds: float) -> None:
        """Send the error that ends a session, and close with the gateway's words."""
        message = f"Session duration limit of {seconds:g} seconds reached."
        self.send("error", error={"type": "max_duration", "code": "max_duration", "message": message, "param": None, "event_id": None})
        self.hang_up(1001, "session duration limit reached")
        self.flush()

    def session_body(self) -> dict[str, Any]:
        """Return the session as ``session.updated`` shows it: no id, tools nested."""
        session = self.session
        both = {"input": "binary" if session.binary_input else "json", "output": "binary" if session.binary_output else "json"}
        written: dict[str, Any] = {"input": {"format": session.input_format, "transport": both["input"]}}
        if session.transcription is not None:
            written["input"]["transcription"] = session.transcription
        written["output"] = {"format": session.output_format, "transport": both["output"]}
        if session.speed != 1.0:
            written["output"]["speed"] = session.speed
        return {
            "instructions": session.instructions,
            "voice": session.voice,
            "enable_noise_suppression": True,
            "turn_detection": session.turn_detection if session.turn_detection is not None else {"type": None},
            "model": session.model,
            "tools": [_nested(tool) for tool in session.tools],
            "keep_context": False,
            "enable_phonetic_spelling": False,
            "input_audio_transcription": session.transcription,
            "modalities": session.modalities,
            "input_audio_format": "not specified",
            "output_audio_format": "not specified",
            "tool_choice": session.tool_choice,
            "temperature": -1.0,
            "max_response_output_tokens": session.max_output_tokens,
            **session.extra,
            "audio": written,
        }

    def item_body(self, item: Item) -> dict[str, Any]:
        """Return an item as ``conversation.item.added`` and ``response.done`` show it."""
        body: dict[str, Any] = {"id": item.id, "object": "realtime.item", "type": item.kind, "status": item.status}
        if item.kind == "function_call":
            return {**body, "role": "tool", "name": item.name, "call_id": item.call_id, "arguments": item.arguments}
        if item.kind == "function_call_output":
            return {**body, "call_id": item.call_id, "output": item.output}
        return {**body, "role": item.role, "content": self._content(item)}

    def _content(self, item: Item) -> list[dict[str, Any]]:
        if item.parts is not None:
            return without_sound(item.parts)
        if item.role == "user":
            return [{"type": "input_audio", "transcript": item.text}]
        if item.status == "in_progress":
            return []
        return [{"type": "audio", "transcript": item.text} if item.content == "audio" else {"type": "text", "text": item.text}]

    def response_body(self, response: Response) -> dict[str, Any]:
        """Return a response; its usage stands beside it, not in it."""
        body: dict[str, Any] = {
            "id": response.id,
            "object": "realtime.response",
            "output": [] if response.active else [self.item_body(item) for item in response.output],
            "status": response.status,
            "status_details": "unimplemented",
            "usage": {},
            "metadata": dict(response.request.metadata) if response.request.metadata is not None else None,
        }
        if response.status in ("cancelled", "incomplete"):
            body["status_details"] = {"type": response.status, "reason": response.reason}
        elif response.status == "failed":
            error = {"type": response.error_code, "code": response.error_code, "message": response.error_message}
            body["status_details"] = {"type": "failed", "error": error}
        return body

    # -- incoming ------------------------------------------------------------------------------------------------------------

    def _session_update(self, frame: dict[str, Any]) -> None:
        written = frame.get("session")
        if self._replay and isinstance(written, dict):
            wanted = written.get("resumption")
            if isinstance(wanted, dict) and wanted.get("enabled") is True:
                self._replay_earlier()
        super()._session_update(frame)

    def _replay_earlier(self) -> None:
        """Give the items of an earlier connection again, under new ids, what was spoken as text."""
        earlier, self._replay = self._replay, ()
        for old in earlier:
            self.conversation.add(
                Item(
                    new_id("item"),
                    old.kind,
                    old.role,
                    text=old.text,
                    name=old.name,
                    call_id=old.call_id,
                    arguments=old.arguments,
                    output=old.output,
                ),
                replayed=True,
            )

    def _item_create(self, frame: dict[str, Any]) -> None:
        body = frame.get("item")
        if not isinstance(body, dict) or body.get("type") != "force_message":
            super()._item_create(frame)
            return
        content = body.get("content")
        texts = [str(part.get("text") or "") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
        text = " ".join(" ".join(texts).split())
        if not text:
            raise RefusedError("missing_required_parameter", "Missing required parameter: 'item.content'.", param="item.content")
        self.conversation.respond(Request(verbatim=text, interruptible=body.get("interruptible") is not False))

    client_events: ClassVar[Mapping[str, Callable[[Any, dict[str, Any]], None]]] = {
        **FamilySpelling.client_events,
        "session.update": _session_update,
        "conversation.item.create": _item_create,
    }

    # -- facts ---------------------------------------------------------------------------------------------------------------

    def _speech_began(self, fact: facts.SpeechBegan) -> None:
        self.send("input_audio_buffer.speech_started", item_id=fact.item.id, audio_start_ms=fact.start_ms)
        self.send("conversation.item.added", item=self.item_body(fact.item), previous_item_id=fact.previous or None)

    def _committed(self, fact: facts.BufferCommitted) -> None:
        self.send("input_audio_buffer.committed", item_id=fact.item.id, previous_item_id=fact.previous or None)
        if not fact.announced:
            self.send("conversation.item.added", item=self.item_body(fact.item), previous_item_id=fact.previous or None)

    def _heard(self, fact: facts.Heard) -> None:
        where = {"item_id": fact.item.id, "transcript": fact.text, "content_index": 0}
        if not fact.final and (self.session.transcription or {}).get("model") == _UPDATING:
            self.send(f"{_TRANSCRIPTION}.updated", **where)
        self.send(f"{_TRANSCRIPTION}.completed", **where, status="completed" if fact.final else "in_progress")

    def _item_added(self, fact: facts.ItemAdded) -> None:
        body = self.item_body(fact.item)
        if fact.replayed:
            body["replayed"] = True
            if fact.item.kind == "message":
                body["content"] = [{"type": "text" if fact.item.role == "assistant" else "input_text", "text": fact.item.text}]
        self.send("conversation.item.added", item=body, previous_item_id=fact.previous or None)

    def _truncated(self, fact: facts.ItemTruncated) -> None:
        self.send(
            "conversation.item.truncated",
            item_id=fact.item.id,
            content_index=fact.content_index,
            audio_end_ms=fact.audio_end_ms,
            transcript=fact.item.text,
        )

    def _output_began(self, fact: facts.OutputBegan) -> None:
        item = fact.item
        body = self.item_body(item)
        short = {key: value for key, value in body.items() if key != "content"}
        if item.kind == "function_call":
            short["role"] = "user"
        self.send("response.output_item.added", item=short, response_id=fact.response.id, output_index=fact.index)
        if not fact.response.request.out_of_band:
            self.send("conversation.item.added", item=body, previous_item_id=fact.previous or None)
        if item.kind == "message":
            part = {"type": "audio", "transcript": ""} if item.content == "audio" else {"type": "text", "text": ""}
            self.send("response.content_part.added", **place(fact), previous_item_id="0", part=part)

    def _audio_piece(self, fact: facts.AudioPiece) -> None:
        if self.session.binary_output:
            self._journal.note(self.terms.number, "sent", "binary", {"audio": len(fact.audio)})
            self._outlet.put(fact.audio)
            return
        self.send(
            "response.output_audio.delta",
            **place(fact),
            delta=b64encode(fact.audio).decode("ascii"),
            rid=fact.response.id,
            latency="0.05",
            audio_duration_ms=fact.duration_ms,
            ts=int(time.time() * 1000),
        )

    def _text_piece(self, fact: facts.TextPiece) -> None:
        if fact.item.content == "text":
            self.send("response.output_text.delta", **place(fact), delta=fact.text)
            return
        # start_time counts in the item's sound; a response speaks one item here, so it is the response's too.
        self.send(
            "response.output_audio_transcript.delta",
            **place(fact),
            delta=fact.text,
            rid=fact.response.id,
            start_time=round(fact.start_ms / 1000, 3),
        )

    def _call_written(self, fact: facts.CallWritten) -> None:
        where = {"response_id": fact.response.id, "item_id": fact.item.id, "call_id": fact.item.call_id}
        self.send("response.function_call_arguments.delta", **where, delta=fact.item.arguments)
        self.send(
            "response.function_call_arguments.done",
            **where,
            output_index=fact.index,
            name=fact.item.name,
            arguments=fact.item.arguments,
        )

    def _output_ended(self, fact: facts.OutputEnded) -> None:
        item = fact.item
        if item.kind == "message" and item.content == "audio":
            self.send("response.output_audio_transcript.done", **place(fact), transcript=item.text)
            self.send("response.content_part.done", **place(fact))
            self.send("response.output_audio.done", **place(fact))
        elif item.kind == "message":
            self.send("response.output_text.done", **place(fact), text=item.text)
            self.send("response.content_part.done", **place(fact))
        body = {key: value for key, value in self.item_body(item).items() if key != "content"}
        if item.kind == "function_call":
            body["role"] = "user"
        self.send("response.output_item.done", item=body, response_id=fact.response.id, output_index=fact.index)

    def _response_ended(self, fact: facts.ResponseEnded) -> None:
        self.send(
            "response.done",
            response=self.response_body(fact.response),
            response_id=fact.response.id,
            usage=_usage(fact.response.usage),
        )

    fact_writers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        **FamilySpelling.fact_writers,
        facts.SpeechBegan: _speech_began,
        facts.BufferCommitted: _committed,
        facts.Heard: _heard,
        facts.ItemAdded: _item_added,
        facts.ItemTruncated: _truncated,
        facts.OutputBegan: _output_began,
        facts.AudioPiece: _audio_piece,
        facts.TextPiece: _text_piece,
        facts.CallWritten: _call_written,
        facts.OutputEnded: _output_ended,
        facts.ResponseEnded: _response_ended,
    }


def _nested(tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _usage(usage: Usage) -> dict[str, Any]:
    given, made = usage.input_text + usage.input_audio, usage.output_text + usage.output_audio
    return {
        "input_tokens": given,
        "input_token_details": {"text_tokens": usage.input_text, "audio_tokens": usage.input_audio, "grok_tokens": 0},
        "output_tokens": made,
        "output_token_details": {"text_tokens": usage.output_text, "audio_tokens": usage.output_audio, "grok_tokens": 0},
        "total_tokens": given + made,
        "output_audio_seconds": round(usage.audio_seconds, 2),
        "billable_audio_seconds": math.ceil(usage.audio_seconds),
    }
