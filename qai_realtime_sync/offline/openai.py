"""The family as OpenAI spells it today (GA)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.conversation import Conversation
from qai_realtime_sync.offline.family import FamilySpelling, now, place, without_sound
from qai_realtime_sync.offline.items import Item, RefusedError, Request, Response, Usage
from qai_realtime_sync.offline.journal import Journal
from qai_realtime_sync.offline.parameters import RESPONSE, RESPONSE_WITH_BETA, refuse_unknown
from qai_realtime_sync.offline.session import WireSession, audio_format, one_modality, written_format
from qai_realtime_sync.offline.spelling import Outlet, Terms

__all__ = ["OpenAISpelling"]

_INSTRUCTIONS = "You are a helpful, witty and friendly assistant. Answer briefly, with a warm voice."
_FORMATS: dict[str, dict[str, Any]] = {
    "pcm16": {"type": "audio/pcm", "rate": 24000},
    "g711_ulaw": {"type": "audio/pcmu"},
    "g711_alaw": {"type": "audio/pcma"},
}
_VAD = {
    "type": "server_vad",
    "threshold": 0.5,
    "prefix_padding_ms": 300,
    "silence_duration_ms": 500,
    "idle_timeout_ms": None,
    "create_response": True,
    "interrupt_response": True,
}


class OpenAISpelling(FamilySpelling):
    """One connection of an OpenAI client. ``default_threshold`` is OpenAI's."""

    def __init__(self, outlet: Outlet, journal: Journal, terms: Terms) -> None:
        super().__init__(outlet, journal, terms)
        self.expires_at = terms.expires_at or now() + 3600
        self.session = WireSession(
            strict=True,
            ga=not terms.gateway,  # what the gateway does with the beta's names is not known; its own clients send them
            rates=(24000,),
            model=terms.model or "gpt-realtime",
            instructions=_INSTRUCTIONS,
            voice="marin",
            turn_detection=dict(_VAD),
        )

    def begin(self, conversation: Conversation) -> None:
        """Send ``session.created``; no conversation event follows it here."""
        self.conversation = conversation
        self.session.answers = self.terms.query.get("intent") != "transcription"
        conversation.configure(self.session.settings(self.default_threshold))
        self.send("session.created", session=self.session_body())
        self.flush()

    def expire(self, seconds: float) -> None:
        """Send the error that ends a session, and close with 1001."""
        minutes = f"{seconds / 60:g} minutes" if seconds >= 60 else f"{seconds:g} seconds"
        message = f"Your session hit the maximum duration of {minutes}."
        self.send(
            "error",
            error={
                "type": "invalid_request_error",
                "code": "session_expired",
                "message": message,
                "param": None,
                "event_id": None,
            },
        )
        self.hang_up(1001, message)
        self.flush()

    def session_body(self) -> dict[str, Any]:
        """Return the whole session, in GA shape."""
        session = self.session
        if not session.answers:
            return {
                "type": "transcription",
                "object": "realtime.transcription_session",
                "id": self.session_id,
                "expires_at": self.expires_at,
                "audio": {"input": self._input_body()},
                "include": session.extra.get("include"),
            }
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": self.session_id,
            "model": session.model,
            "output_modalities": ["audio"] if "audio" in session.modalities else ["text"],
            "instructions": session.instructions,
            "tools": session.tools,
            "tool_choice": session.tool_choice,
            "max_output_tokens": session.max_output_tokens,
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "include": None,
            **session.extra,
            "expires_at": self.expires_at,
            "audio": {
                "input": self._input_body(),
                "output": {"format": session.output_format, "voice": session.voice, "speed": session.speed},
            },
        }

    def _input_body(self) -> dict[str, Any]:
        session = self.session
        return {
            "format": session.input_format,
            "transcription": session.transcription,
            "noise_reduction": session.noise_reduction,
            "turn_detection": self._turn_detection(),
        }

    def _turn_detection(self) -> dict[str, Any] | None:
        written = self.session.turn_detection
        if written is None or written.get("type") is None:
            return None
        return (
            {**_VAD, **written}
            if written["type"] == "server_vad"
            else {"eagerness": "auto", "create_response": True, "interrupt_response": True, **written}
        )

    def item_body(self, item: Item) -> dict[str, Any]:
        """Return an item; parts of finished answers are ``output_text`` and ``output_audio``."""
        if item.kind == "function_call":
            return {
                "id": item.id,
                "type": item.kind,
                "status": item.status,
                "name": item.name,
                "call_id": item.call_id,
                "arguments": item.arguments,
            }
        if item.kind == "function_call_output":
            return {"id": item.id, "type": item.kind, "status": "completed", "call_id": item.call_id, "output": item.output}
        return {"id": item.id, "type": "message", "status": item.status, "role": item.role, "content": self._content(item)}

    def _content(self, item: Item) -> list[dict[str, Any]]:
        if item.parts is not None:
            return without_sound(item.parts)
        if item.role == "user":
            return [{"type": "input_audio", "transcript": item.text or None}]
        if item.status == "in_progress":
            return []
        return [
            {"type": "output_audio", "transcript": item.text} if item.content == "audio" else {"type": "output_text", "text": item.text}
        ]

    def response_body(self, response: Response) -> dict[str, Any]:
        """Return a response; usage only when it is over."""
        session, request = self.session, response.request
        own = request.output_format
        return {
            "object": "realtime.response",
            "id": response.id,
            "status": response.status,
            "status_details": _status_details(response),
            "output": [self.item_body(item) for item in response.output] if not response.active else [],
            "conversation_id": response.conversation_id or None,
            "output_modalities": ["audio"] if response.spoken else ["text"],
            "max_output_tokens": "inf" if response.most_tokens is None else response.most_tokens,
            "audio": {
                "output": {
                    "format": dict(session.output_format if own is None else _FORMATS[own.encoding]),
                    "voice": request.voice or session.voice,
                }
            },
            "usage": None if response.active else _usage(response.usage),
            "metadata": dict(request.metadata) if request.metadata is not None else None,
        }

    def _session_update(self, frame: dict[str, Any]) -> None:
        written = frame.get("session")
        if isinstance(written, dict) and self.session.updated(written).voice != self.session.voice and self.conversation.has_spoken:
            raise RefusedError(
                "cannot_update_voice", "Cannot update a conversation's voice if assistant audio is present.", param="session.voice"
            )
        super()._session_update(frame)

    def read_request(self, body: dict[str, Any]) -> Request:
        """Return what a ``response.create`` asks for; an unknown field refuses all of it. Raises: RefusedError."""
        if not self.session.answers:
            raise RefusedError("invalid_event", "A transcription session gives no responses.", param="type")
        refuse_unknown(body, RESPONSE if self.session.ga else RESPONSE_WITH_BETA, "response")
        one_modality(body.get("output_modalities"), "response.output_modalities")
        request = super().read_request(body)
        _check_metadata(request.metadata)
        self._read_sound(body, request)
        return request

    def _read_sound(self, body: dict[str, Any], request: Request) -> None:
        """Read what an answer's own sound shall be, in today's shape or the beta's. Raises: RefusedError."""
        audio = body.get("audio")
        output = audio.get("output") if isinstance(audio, dict) else None
        wanted = output if isinstance(output, dict) else {}
        for given, param in ((wanted.get("format"), "audio.output.format"), (body.get("output_audio_format"), "output_audio_format")):
            if given is not None:
                param, rates = f"response.{param}", self.session.rates
                format_of = given if self.session.ga else written_format(given, rates, param)
                request.output_format = audio_format(format_of, rates, param)
        request.voice = wanted.get("voice") or body.get("voice")

    # -- facts ---------------------------------------------------------------------------------------------------------------

    def _speech_began(self, fact: facts.SpeechBegan) -> None:
        self.send("input_audio_buffer.speech_started", audio_start_ms=fact.start_ms, item_id=fact.item.id)

    def _committed(self, fact: facts.BufferCommitted) -> None:
        self.send("input_audio_buffer.committed", previous_item_id=fact.previous or None, item_id=fact.item.id)
        self._added_and_done(fact.item, fact.previous)

    def _added_and_done(self, item: Item, previous: str) -> None:
        for name in ("conversation.item.added", "conversation.item.done"):
            self.send(name, previous_item_id=previous or None, item=self.item_body(item))

    def _heard(self, fact: facts.Heard) -> None:
        # Increments that join to the transcript cannot be had from a recogniser that changes its mind: one delta, then the whole.
        if not fact.final or self.session.transcription is None:
            return
        name = "conversation.item.input_audio_transcription"
        self.send(f"{name}.delta", item_id=fact.item.id, content_index=0, delta=fact.text)
        usage = {"type": "duration", "seconds": round(fact.seconds, 2)}
        self.send(f"{name}.completed", item_id=fact.item.id, content_index=0, transcript=fact.text, usage=usage)

    def _item_added(self, fact: facts.ItemAdded) -> None:
        self._added_and_done(fact.item, fact.previous)

    def _truncated(self, fact: facts.ItemTruncated) -> None:
        self.send("conversation.item.truncated", item_id=fact.item.id, content_index=fact.content_index, audio_end_ms=fact.audio_end_ms)

    def _output_began(self, fact: facts.OutputBegan) -> None:
        body = self.item_body(fact.item)
        self.send("response.output_item.added", response_id=fact.response.id, output_index=fact.index, item=body)
        if not fact.response.request.out_of_band:
            self.send("conversation.item.added", previous_item_id=fact.previous or None, item=body)
        if fact.item.kind == "message":
            part = {"type": "audio", "transcript": ""} if fact.item.content == "audio" else {"type": "text", "text": ""}
            self.send("response.content_part.added", **place(fact), part=part)

    def _output_ended(self, fact: facts.OutputEnded) -> None:
        item = fact.item
        if item.kind == "message":
            if item.content == "audio":
                self.send("response.output_audio.done", **place(fact))
                self.send("response.output_audio_transcript.done", **place(fact), transcript=item.text)
                self.send("response.content_part.done", **place(fact), part={"type": "audio", "transcript": item.text})
            else:
                self.send("response.output_text.done", **place(fact), text=item.text)
                self.send("response.content_part.done", **place(fact), part={"type": "text", "text": item.text})
        body = self.item_body(item)
        if not fact.response.request.out_of_band:
            self.send("conversation.item.done", previous_item_id=fact.previous or None, item=body)
        self.send("response.output_item.done", response_id=fact.response.id, output_index=fact.index, item=body)

    def _response_ended(self, fact: facts.ResponseEnded) -> None:
        self.send("response.done", response=self.response_body(fact.response))
        limits = self.terms.rate_limits()
        if limits:
            self.send("rate_limits.updated", rate_limits=limits)

    client_events: ClassVar[Mapping[str, Callable[[Any, dict[str, Any]], None]]] = {
        **FamilySpelling.client_events,
        "session.update": _session_update,
        "conversation.item.retrieve": FamilySpelling._item_retrieve,
    }
    fact_writers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        **FamilySpelling.fact_writers,
        facts.SpeechBegan: _speech_began,
        facts.BufferCommitted: _committed,
        facts.Heard: _heard,
        facts.ItemAdded: _item_added,
        facts.ItemTruncated: _truncated,
        facts.OutputBegan: _output_began,
        facts.OutputEnded: _output_ended,
        facts.ResponseEnded: _response_ended,
    }


def _check_metadata(metadata: Mapping[str, Any] | None) -> None:
    """Raise RefusedError for names and values of an answer that are longer than may be, or no text (source: OpenAI schema)."""
    for name, value in (metadata or {}).items():
        if not isinstance(value, str):
            param = f"response.metadata.{name}"
            raise RefusedError("invalid_type", f"Invalid type for '{param}': expected a string.", param=param)
        if len(name) > 64 or len(value) > 512:
            raise RefusedError(
                "invalid_value",
                "Invalid 'response.metadata': a name has at most 64 characters, a value at most 512.",
                param="response.metadata",
            )


def _status_details(response: Response) -> dict[str, Any] | None:
    if response.status in ("cancelled", "incomplete"):
        return {"type": response.status, "reason": response.reason}
    if response.status == "failed":
        error = {"type": response.error_code, "code": response.error_code, "message": response.error_message}
        return {"type": "failed", "error": error}
    return None


def _usage(usage: Usage) -> dict[str, Any]:
    given, made = usage.input_text + usage.input_audio, usage.output_text + usage.output_audio
    return {
        "total_tokens": given + made,
        "input_tokens": given,
        "output_tokens": made,
        "input_token_details": {
            "text_tokens": usage.input_text,
            "audio_tokens": usage.input_audio,
            "image_tokens": 0,
            "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": usage.output_text, "audio_tokens": usage.output_audio},
    }
