"""The wire spelling of the OpenAI family: client frames become calls of the conversation, facts become server frames.

Two tables do it, one by wire type, one by class of fact. What differs between the members of the family stands in `openai` and `xai`.
Orders, fields and error codes follow recorded sessions of the services.
"""

from __future__ import annotations

import abc
import binascii
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from qai_realtime_sync.audio import b64decode, b64encode
from qai_realtime_sync.offline import facts
from qai_realtime_sync.offline.items import Item, RefusedError, Request, Response, new_id
from qai_realtime_sync.offline.session import WireSession, modalities_of, tokens_of, tools_of
from qai_realtime_sync.offline.spelling import Spelling

__all__ = ["FamilySpelling", "now", "place", "without_sound"]

_log = logging.getLogger(__name__)
_SOUND = "input_audio_buffer.append"


class FamilySpelling(Spelling):
    """One connection of the OpenAI family; `receive` belongs to one thread, `tell` comes under the conversation's lock."""

    session: WireSession
    default_threshold: ClassVar[float] = 0.5

    @property
    def resumable(self) -> bool:
        """The client asked that a later connection may go on with this conversation."""
        return self.session.resumption

    # -- outgoing ------------------------------------------------------------------------------------------------------------

    def send(self, kind: str, **fields: Any) -> None:
        """Queue one server event."""
        frame = {"type": kind, "event_id": new_id("event"), **fields}
        self._journal.note(self.terms.number, "sent", kind, frame)
        text = json.dumps(frame, ensure_ascii=False, separators=(",", ":"))
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            text = json.dumps(frame, separators=(",", ":"))  # half a character, which a client sent, cannot be UTF-8
        self._outlet.put(text)

    def refuse(self, refusal: RefusedError, event_id: str | None) -> None:
        """Queue an ``error`` event about a client event."""
        self.send(
            "error",
            error={
                "type": refusal.type,
                "code": refusal.code,
                "message": refusal.message,
                "param": refusal.param,
                "event_id": event_id,
            },
        )

    def turn_away(self, admitted: bool) -> None:
        """Refuse after the upgrade, as OpenAI does: an error, then close 3000 for a key, 4000 for the retired beta."""
        code = "beta_api_shape_disabled" if admitted else "invalid_api_key"
        message = (
            "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
            if admitted
            else "Incorrect API key provided."
        )
        self.refuse(RefusedError(code, message), None)
        self.hang_up(4000 if admitted else 3000, f"invalid_request_error.{code}")
        self.flush()

    @abc.abstractmethod
    def session_body(self) -> dict[str, Any]:
        """Return the session as the service echoes it."""

    @abc.abstractmethod
    def item_body(self, item: Item) -> dict[str, Any]:
        """Return an item as the service shows it."""

    @abc.abstractmethod
    def response_body(self, response: Response) -> dict[str, Any]:
        """Return a response as the service shows it."""

    # -- incoming ------------------------------------------------------------------------------------------------------------

    def receive(self, message: str | bytes) -> None:
        """Take one message of the client, whatever it is; afterwards everything it caused is written."""
        event_id: str | None = None
        try:
            if isinstance(message, bytes):
                self._binary(message)
            else:
                frame = _parsed(message)
                event_id = frame.get("event_id") if isinstance(frame.get("event_id"), str) else None
                self._event(frame)
        except RefusedError as refusal:
            self.refuse(refusal, event_id)
        except Exception:  # the connection lives on, as the services' do
            _log.exception("a client event could not be worked through")
            self.refuse(
                RefusedError("internal_error", "The server had an error while processing your request.", type="server_error"),
                event_id,
            )
        self.flush()

    def _binary(self, message: bytes) -> None:
        if not self.session.binary_input:
            raise RefusedError("invalid_event", "Binary frames are not supported: send JSON as text frames.", type="invalid_request_error")
        self._journal.received_sound(self.terms.number, len(message))
        self.conversation.hear(message)

    def _event(self, frame: dict[str, Any]) -> None:
        kind = frame.get("type")
        if kind == _SOUND:
            self._append(frame)
            return
        self._journal.note(self.terms.number, "received", kind if isinstance(kind, str) else "", frame)
        if kind is None:
            raise RefusedError("missing_required_parameter", "Missing required parameter: 'type'.", param="type")
        handler = self.client_events.get(kind) if isinstance(kind, str) else None
        if handler is None:
            names = ", ".join(f"'{name}'" for name in self.client_events)
            raise RefusedError("invalid_value", f"Invalid value: '{kind}'. Supported values are: {names}.", param="type")
        handler(self, frame)

    def _append(self, frame: dict[str, Any]) -> None:
        text = frame.get("audio")
        if not isinstance(text, str):
            raise RefusedError("missing_required_parameter", "Missing required parameter: 'audio'.", param="audio")
        try:
            audio = b64decode(text)
        except (binascii.Error, ValueError):
            raise RefusedError("invalid_value", "Invalid 'audio': expected base64-encoded audio bytes.", param="audio") from None
        self._journal.received_sound(self.terms.number, len(audio))
        self.conversation.hear(audio)

    def _session_update(self, frame: dict[str, Any]) -> None:
        if "session" not in frame:
            raise RefusedError("missing_required_parameter", "Missing required parameter: 'session'.", param="session")
        new = self.session.updated(frame["session"])
        settings = new.settings(self.default_threshold)
        self.session = new
        self.conversation.configure(settings)
        self.send("session.updated", session=self.session_body())

    def _commit(self, frame: dict[str, Any]) -> None:
        self.conversation.commit()

    def _clear(self, frame: dict[str, Any]) -> None:
        self.conversation.clear()

    def _item_create(self, frame: dict[str, Any]) -> None:
        item = self.read_item(frame.get("item"), "item")
        previous = frame.get("previous_item_id")
        self.conversation.add(item, previous if isinstance(previous, str) else None)

    def _item_delete(self, frame: dict[str, Any]) -> None:
        self.conversation.delete(_text(frame, "item_id"))

    def _item_retrieve(self, frame: dict[str, Any]) -> None:
        item = self.conversation.find(_text(frame, "item_id"))
        body = self.item_body(item)
        if item.parts is not None:
            body["content"] = item.parts
        elif item.audio:
            for part in body.get("content", []):
                part["audio"] = b64encode(item.audio).decode("ascii")
        self.send("conversation.item.retrieved", item=body)

    def _item_truncate(self, frame: dict[str, Any]) -> None:
        index, end = frame.get("content_index", 0), frame.get("audio_end_ms")
        if isinstance(index, bool) or not isinstance(index, int):
            raise RefusedError("invalid_type", "Invalid type for 'content_index': expected an integer.", param="content_index")
        if isinstance(end, bool) or not isinstance(end, int):
            raise RefusedError("invalid_type", "Invalid type for 'audio_end_ms': expected an integer.", param="audio_end_ms")
        self.conversation.truncate(_text(frame, "item_id"), index, end)

    def _response_create(self, frame: dict[str, Any]) -> None:
        body = frame.get("response")
        if body is not None and not isinstance(body, dict):
            raise RefusedError("invalid_type", "Invalid type for 'response': expected an object.", param="response")
        self.conversation.respond(self.read_request(body or {}))

    def _response_cancel(self, frame: dict[str, Any]) -> None:
        response_id = frame.get("response_id")
        self.conversation.cancel(response_id if isinstance(response_id, str) else "")

    client_events: ClassVar[Mapping[str, Callable[[Any, dict[str, Any]], None]]] = {
        "session.update": _session_update,
        _SOUND: _append,
        "input_audio_buffer.commit": _commit,
        "input_audio_buffer.clear": _clear,
        "conversation.item.create": _item_create,
        "conversation.item.delete": _item_delete,
        "conversation.item.truncate": _item_truncate,
        "response.create": _response_create,
        "response.cancel": _response_cancel,
    }

    def read_item(self, body: object, param: str) -> Item:
        """Return an item as a client wrote it. Raises: RefusedError."""
        if not isinstance(body, dict):
            raise RefusedError("missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)
        kind = body.get("type")
        given = body.get("id")
        item_id = given if isinstance(given, str) and given else new_id("item")
        if kind == "function_call_output":
            output = body.get("output")
            if not isinstance(output, str):
                raise RefusedError("invalid_type", f"Invalid type for '{param}.output': expected a string.", param=f"{param}.output")
            return Item(item_id, kind, call_id=_text(body, "call_id", param), output=output)
        if kind == "function_call":
            return Item(
                item_id,
                kind,
                name=_text(body, "name", param),
                call_id=str(body.get("call_id") or new_id("call")),
                arguments=str(body.get("arguments") or "{}"),
            )
        if kind == "message":
            return _read_message(item_id, body, param, ga=self.session.ga)
        raise RefusedError(
            "invalid_value",
            f"Invalid value: '{kind}'. Supported values are: 'message', 'function_call', and 'function_call_output'.",
            param=f"{param}.type",
        )

    def read_request(self, body: dict[str, Any]) -> Request:
        """Return what a ``response.create`` asks for. Raises: RefusedError."""
        request = Request(out_of_band=body.get("conversation") == "none")
        instructions = body.get("instructions")
        if instructions is not None:
            if not isinstance(instructions, str):
                raise RefusedError(
                    "invalid_type", "Invalid type for 'response.instructions': expected a string.", param="response.instructions"
                )
            request.instructions = instructions
        for name in ("output_modalities", "modalities"):
            if body.get(name) is not None:
                request.spoken = "audio" in modalities_of(body[name], f"response.{name}")
        metadata = body.get("metadata")
        if metadata is not None:
            if not isinstance(metadata, dict) or len(metadata) > 16:
                raise RefusedError(
                    "invalid_value",
                    "Invalid 'response.metadata': expected an object of at most 16 pairs.",
                    param="response.metadata",
                )
            request.metadata = metadata
        if body.get("tools") is not None:
            request.tools = tools_of(body["tools"], "response.tools", ga=self.session.ga)
        request.tool_choice = body.get("tool_choice")
        for name in ("max_output_tokens", "max_response_output_tokens"):
            if body.get(name) is not None:
                request.max_output_tokens = tokens_of(body[name], f"response.{name}") or 0
        if body.get("input") is not None:
            request.input = self._read_input(body["input"])
        return request

    def _read_input(self, value: object) -> list[Item]:
        if not isinstance(value, list):
            raise RefusedError("invalid_type", "Invalid type for 'response.input': expected an array.", param="response.input")
        items = []
        for at, body in enumerate(value):
            if isinstance(body, dict) and body.get("type") == "item_reference":
                items.append(self.conversation.find(_text(body, "id", f"response.input[{at}]")))
            else:
                items.append(self.read_item(body, f"response.input[{at}]"))
        return items

    # -- facts ---------------------------------------------------------------------------------------------------------------

    def tell(self, fact: facts.Fact) -> None:
        """Queue the frames that a fact becomes."""
        self.fact_writers[type(fact)](self, fact)

    def _cleared(self, fact: facts.BufferCleared) -> None:
        self.send("input_audio_buffer.cleared")

    def _speech_ended(self, fact: facts.SpeechEnded) -> None:
        self.send("input_audio_buffer.speech_stopped", audio_end_ms=fact.end_ms, item_id=fact.item.id)

    def _idle(self, fact: facts.IdleTimeout) -> None:
        self.send("input_audio_buffer.timeout_triggered", item_id=fact.item.id, audio_start_ms=fact.start_ms, audio_end_ms=fact.end_ms)

    def _deleted(self, fact: facts.ItemDeleted) -> None:
        self.send("conversation.item.deleted", item_id=fact.item_id)

    def _response_began(self, fact: facts.ResponseBegan) -> None:
        self.send("response.created", response=self.response_body(fact.response))

    def _call_written(self, fact: facts.CallWritten) -> None:
        where = {
            "response_id": fact.response.id,
            "item_id": fact.item.id,
            "output_index": fact.index,
            "call_id": fact.item.call_id,
        }
        self.send("response.function_call_arguments.delta", **where, delta=fact.item.arguments)
        self.send("response.function_call_arguments.done", **where, name=fact.item.name, arguments=fact.item.arguments)

    def _text_piece(self, fact: facts.TextPiece) -> None:
        name = "response.output_audio_transcript.delta" if fact.item.content == "audio" else "response.output_text.delta"
        self.send(name, **place(fact), delta=fact.text)

    def _audio_piece(self, fact: facts.AudioPiece) -> None:
        self.send("response.output_audio.delta", **place(fact), delta=b64encode(fact.audio).decode("ascii"))

    fact_writers: ClassVar[Mapping[type, Callable[[Any, Any], None]]] = {
        facts.BufferCleared: _cleared,
        facts.SpeechEnded: _speech_ended,
        facts.IdleTimeout: _idle,
        facts.ItemDeleted: _deleted,
        facts.ResponseBegan: _response_began,
        facts.CallWritten: _call_written,
        facts.TextPiece: _text_piece,
        facts.AudioPiece: _audio_piece,
    }


def place(fact: facts.AudioPiece | facts.TextPiece | facts.OutputBegan | facts.OutputEnded) -> dict[str, Any]:
    """Return the four ids that say which part of which answer is meant."""
    return {"response_id": fact.response.id, "item_id": fact.item.id, "output_index": fact.index, "content_index": 0}


def now() -> int:
    """Return unix time in whole seconds."""
    return int(time.time())


def _parsed(message: str) -> dict[str, Any]:
    try:
        frame = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise RefusedError("invalid_json", f"We could not parse the JSON body of your event: {error}") from None
    if not isinstance(frame, dict):
        raise RefusedError("invalid_event", "A client event must be a JSON object.")
    return frame


def _text(body: dict[str, Any], name: str, inside: str = "") -> str:
    value = body.get(name)
    param = f"{inside}.{name}" if inside else name
    if value is None:
        raise RefusedError("missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)
    if not isinstance(value, str):
        raise RefusedError("invalid_type", f"Invalid type for '{param}': expected a string.", param=param)
    return value


def without_sound(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a message's parts as events show them: only an item that is asked for has its sound in it (source: OpenAI schema)."""
    return [{name: value for name, value in part.items() if name != "audio"} for part in parts]


def _read_message(item_id: str, body: dict[str, Any], param: str, *, ga: bool) -> Item:
    role, content = body.get("role"), body.get("content")
    if role not in ("user", "assistant", "system"):
        raise RefusedError(
            "invalid_value",
            f"Invalid value: '{role}'. Supported values are: 'system', 'user', and 'assistant'.",
            param=f"{param}.role",
        )
    if not isinstance(content, list):
        raise RefusedError("invalid_type", f"Invalid type for '{param}.content': expected an array.", param=f"{param}.content")
    allowed = (
        ("output_text",)
        if role == "assistant"
        else ("input_text", "input_audio", "input_image")
        if role == "user"
        else ("input_text",)
    )
    if not ga:
        allowed = (*allowed, "text", "audio", "input_text")
    texts = []
    for at, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in allowed:
            raise RefusedError(
                "invalid_value",
                f"Invalid value: '{kind}'. Supported values are: {', '.join(repr(name) for name in dict.fromkeys(allowed))}.",
                param=f"{param}.content[{at}].type",
            )
        texts.append(str(part.get("text") or part.get("transcript") or ""))
    return Item(item_id, role=role, text=" ".join(filter(None, texts)), parts=content)
