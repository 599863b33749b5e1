"""The half of a client that speaks: a method for each command, checked in the caller's thread."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.client import barge_in
from qai_realtime_sync.client.asking import AnswerStream, Collected, collect
from qai_realtime_sync.client.waiting import check_timeout, in_slices
from qai_realtime_sync.commands import (
    ApproveMcpCall,
    CancelResponse,
    ClearAudio,
    Command,
    CommitAudio,
    CreateResponse,
    DeleteItem,
    RawEvent,
    RetrieveItem,
    Say,
    SendAudio,
    SendContext,
    SendFunctionResult,
    SendImage,
    SendText,
    TruncateItem,
)
from qai_realtime_sync.config import UNSET
from qai_realtime_sync.errors import ConfigError, RealtimeTimeoutError, UnsupportedCommandError
from qai_realtime_sync.turns import Answer

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["Speaking"]

_ROLES = ("system", "user", "assistant")


class Speaking:
    """Every ``send_*`` returns at once: it never waits for the network. Ids that are returned are those of ``error.caused_by``.

    All raise `NotConnectedError` before ``connect()`` and after the end, `OutboxFullError` when too much waits, `ForkedClientError` in a
    forked process, and `UnsupportedCommandError` where the service has no word for it.
    """

    _call: Call

    def _submit(self, command: Command) -> str:
        call = self._call
        call.check_process()
        call.waiting.mark()
        with _values_checked():
            return call.submit(command)

    # -- the user's sound ------------------------------------------------------------------------------------------------------

    def send_audio(self, audio: bytes | bytearray | memoryview) -> None:
        """Send a piece of the user's sound, of any size, in the configuration's input format (default pcm16 at 24000 Hz, mono).

        A sample may be cut: the byte is kept for the next call. Sound that comes before the service is ready is held.

        Raises: `ConfigError` for what is not bytes.
        """
        if not isinstance(audio, (bytes, bytearray, memoryview)):
            raise ConfigError(
                f"send_audio takes bytes, not {type(audio).__name__}; for base64 text use send_audio_base64", code="invalid_audio"
            )
        call = self._call
        if os.getpid() != call.pid:
            call.check_process()
        call.waiting.mark()
        self._send_sound(audio)

    def _send_sound(self, audio: bytes | bytearray | memoryview) -> None:
        if type(audio) is memoryview and not audio.c_contiguous:
            audio = audio.tobytes()  # every other sample of something, say
        whole = self._call.sound.outgoing(audio)
        if whole:
            self._call.outbox.put(SendAudio(audio=whole))

    def send_audio_base64(self, audio: str) -> None:
        """As `send_audio`, for sound that is base64 text. Raises: `ConfigError` for text that is not base64."""
        try:
            decoded = b64decode(audio)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"the sound is not base64: {error}", code="invalid_audio") from None
        self.send_audio(decoded)

    def commit_audio(self) -> str:
        """Say that the user has finished (manual turns); ask for the answer with ``create_response()``.

        Raises: `ConfigError` if the sound ends in the middle of a sample.
        """
        self._call.check_process()
        rest = self._call.sound.outgoing_end()
        if rest:
            self._call.outbox.put(SendAudio(audio=rest))
        return self._submit(CommitAudio())

    def clear_audio(self) -> str:
        """Make the service forget the sound that was not committed."""
        self._call.check_process()
        self._call.sound.outgoing_clear()
        return self._submit(ClearAudio())

    # -- words -----------------------------------------------------------------------------------------------------------------

    def send_text(self, text: str, *, item_id: str = "", respond: bool = True) -> str:
        """Send what the user wrote and ask for an answer, unless ``respond`` is false or the service answers by itself.

        While an answer runs, the request is held until it ends. Raises: `ConfigError` for text that is empty.
        """
        event_id = self._submit(SendText(text=_text(text, "send_text"), item_id=item_id))
        if respond and SendText not in self._answers_by_itself():
            self._call.submit(CreateResponse(after_text=True))
        return event_id

    def send_context(self, text: str, *, role: str = "system", context_id: str = "", previous_item_id: str = "") -> str:
        """Give the model knowledge or history; no answer is asked. ``role``: system, user or assistant. Raises: `ConfigError`."""
        if role not in _ROLES:
            raise ConfigError(f"role must be one of {', '.join(_ROLES)}, not {role!r}")
        return self._submit(
            SendContext(text=_text(text, "send_context"), role=role, context_id=context_id, previous_item_id=previous_item_id)
        )

    def say(self, text: str, *, voice: str = "", interruptible: bool = True) -> str:
        """Have this spoken word by word, where the service can. Raises: `ConfigError` for text that is empty."""
        return self._submit(Say(text=_text(text, "say"), voice=voice, interruptible=interruptible))

    def send_image(self, image: bytes, media_type: str, *, text: str = "", respond: bool = True) -> str:
        """Send a picture (the file's bytes; ``image/png`` or ``image/jpeg``), with words if given. Raises: `ConfigError`."""
        if not isinstance(image, (bytes, bytearray, memoryview)) or not len(image):
            raise ConfigError("send_image takes the bytes of a picture file")
        if not media_type.startswith("image/"):
            raise ConfigError(f"media_type must be like 'image/png', not {media_type!r}")
        event_id = self._submit(SendImage(image=bytes(image), media_type=media_type, text=text))
        if respond and SendImage not in self._answers_by_itself():
            self._call.submit(CreateResponse(after_text=True))
        return event_id

    def ask(self, text: str, timeout: float | None = 30.0) -> Answer:
        """Send text and return the finished answer to it, tool rounds included; what was asked for before comes first and is not it.

        After ``timeout`` seconds (None = no limit), and after any other failure, the question is given up: its request is dropped if it
        still waits, its answer cancelled if it runs, and the next ``ask`` does not see it. What the user wrote stays in the
        conversation; where the service answers it by itself, a text that has not left by then is dropped too. An answer that was
        cancelled, or that `interrupt` or `cancel_response` gave up before it began, comes with ``status="cancelled"``.

        Raises: `ConfigError` for a wrong text or timeout, before anything is sent; `RealtimeTimeoutError`; `ApiError` when the service
        refuses or fails to answer; `ConnectionClosedError` when the conversation ends first; `RealtimeError` in a handler; with
        ``on_handler_error="raise"``, what a handler or tool raised.
        """
        call = self._call
        call.check_process()
        call.delivery.check_not_in_handler("ask")
        check_timeout(timeout, zero=False)
        _text(text, "ask")
        deadline = None if timeout is None else monotonic() + timeout
        # A conversation has one answer at a time: a second thread's question waits for the end of the first one's.
        try:  # around the waiting too: the exception of a signal may come right after it
            if not in_slices(lambda seconds: call.asking.acquire(timeout=seconds), timeout):
                raise RealtimeTimeoutError(f"another thread's ask() had no finished answer for {timeout:g} s")
            return self._asked(text, deadline, timeout)
        finally:
            with contextlib.suppress(RuntimeError):  # it is another thread's
                call.asking.release()

    def _asked(self, text: str, deadline: float | None, timeout: float | None) -> Answer:
        call = self._call
        collected = Collected(call, SendFunctionResult in self._answers_by_itself())
        stream = AnswerStream(collected.goes_on_after)
        call.waiting.feed(stream)
        call.asked = stream
        try:
            collected.event_id = self.send_text(text, respond=False)
            if SendText not in self._answers_by_itself():
                request = CreateResponse(after_text=True)
                call.posting.remember(request)
                collected.request_id = request.event_id  # before it is sent: the answer may be faster than this thread
                call.submit(request)
            return collect(collected, stream, deadline, timeout)
        except BaseException:  # also Ctrl-C: nobody will take the answer
            if not call.over.is_set():
                call.posting.abandon(collected.request_id or collected.event_id, collected.answer.response_ids)
            raise
        finally:
            call.asked = None
            call.waiting.forget(stream)

    # -- answers ---------------------------------------------------------------------------------------------------------------

    def create_response(
        self,
        *,
        instructions: str | None = None,
        modalities: list[str] | None = None,
        voice: str | None = None,
        tools: list[dict[str, Any]] | None = None,
        tool_choice: str | dict[str, Any] | None = None,
        max_output_tokens: int | str | None = None,
        metadata: dict[str, str] | None = None,
        out_of_band: bool = False,
        input: list[dict[str, Any]] | None = None,
    ) -> str:
        """Ask for an answer now; held while another runs, unless ``out_of_band``. What is given replaces the session's for this one.

        Raises: `ConfigError` for modalities, tools or input that are no list.
        """
        for name, value in (("modalities", modalities), ("tools", tools), ("input", input)):
            if value is not None and not isinstance(value, (list, tuple)):
                raise ConfigError(f"{name} must be a list, not {value!r}")
        return self._submit(
            CreateResponse(
                instructions=instructions,
                modalities=modalities,
                voice=voice,
                tools=tools,
                tool_choice=tool_choice,
                max_output_tokens=max_output_tokens,
                metadata=metadata,
                out_of_band=out_of_band,
                input=input,
            )
        )

    def cancel_response(self, response_id: str = "") -> str:
        """Stop the running answer, or the one named; requests that were held for its end are dropped."""
        return self._submit(CancelResponse(response_id=response_id))

    def interrupt(self) -> None:
        """Stop what plays and what is being made, and tell the service what was heard; does what it can on every service.

        Answers that were asked for and have not begun are given up, too.
        """
        call = self._call
        call.check_process()
        barge_in.interrupt(call)

    def send_function_result(
        self, call_id: str, output: Any, *, name: str = "", is_error: bool = False, respond: bool = True
    ) -> str:
        """Give the result of a function call: text as it is, anything else as JSON.

        When it is the last missing result of its answer, the next answer is asked for, once, as soon as no other runs; not if all of
        its results were given with ``respond=False``, nor where the service goes on by itself. A second result for one call is dropped.

        Raises: `ConfigError` for an empty call id, or a result without a JSON form.
        """
        from qai_realtime_sync.conversation.schema import plain_result

        if not isinstance(call_id, str) or not call_id:
            raise ConfigError("call_id must be the call_id of a FunctionCall event")
        try:
            plain = plain_result(output)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        call = self._call
        call.check_process()
        call.waiting.mark()
        return call.posting.answer_call(
            SendFunctionResult(call_id=call_id, output=plain, name=name, is_error=is_error), respond=respond
        )

    # -- items and session -----------------------------------------------------------------------------------------------------

    def truncate_item(self, item_id: str, audio_end_ms: int, content_index: int = 0) -> str:
        """Cut an answer at what was heard. Raises: `ConfigError` for a time that is not a whole number of milliseconds from 0."""
        if isinstance(audio_end_ms, bool) or not isinstance(audio_end_ms, (int, float)) or not math.isfinite(audio_end_ms):
            raise ConfigError(f"audio_end_ms must be a number of milliseconds, not {audio_end_ms!r}")
        if audio_end_ms < 0:
            raise ConfigError(f"audio_end_ms must not be negative, not {audio_end_ms!r}")
        return self._submit(TruncateItem(item_id=_id(item_id), audio_end_ms=int(audio_end_ms), content_index=content_index))

    def delete_item(self, item_id: str) -> str:
        """Take an item out of the conversation."""
        return self._submit(DeleteItem(item_id=_id(item_id)))

    def retrieve_item(self, item_id: str) -> str:
        """Ask for an item as the service keeps it; wait for `ItemRetrieved`."""
        return self._submit(RetrieveItem(item_id=_id(item_id)))

    def update_session(
        self,
        *,
        instructions: Any = UNSET,
        tools: Any = UNSET,
        voice: Any = UNSET,
        turn_detection: Any = UNSET,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """Change the running session; a `SessionReady` confirms it. ``extra`` are raw session fields, kept for later connections.

        What the service refuses is taken back. While a lost connection is replaced, the change waits for the new one.

        Raises: `ConfigError`; `UnsupportedCommandError` for what only a new connection could change: see ``mutate_context``.
        """
        given = {"instructions": instructions, "tools": tools, "voice": voice, "turn_detection": turn_detection}
        changes = {name: value for name, value in given.items() if value is not UNSET}
        call = self._call
        call.check_process()
        call.waiting.mark()
        with _values_checked():
            return call.mutations.update(changes, extra)

    def approve_mcp_call(self, approval_id: str, approve: bool, reason: str = "") -> str:
        """Answer an `McpApprovalRequested`."""
        return self._submit(ApproveMcpCall(approval_id=_id(approval_id), approve=approve, reason=reason))

    def send_event(self, event: Command | dict[str, Any] | str | bytes) -> str:
        """Send a command object, or anything as it is: a dict becomes JSON text, str a text message, bytes a binary one.

        Raises: `ConfigError` for another type, or a dict without a JSON form.
        """
        if isinstance(event, SendAudio):
            self.send_audio(event.audio)
            return ""
        if isinstance(event, SendFunctionResult):
            # The book of calls must know of it; a command is one intent, so no answer is asked for.
            return self.send_function_result(event.call_id, event.output, name=event.name, is_error=event.is_error, respond=False)
        if isinstance(event, Command):
            return self._submit(event)
        if not isinstance(event, (dict, str, bytes)):
            raise ConfigError(f"send_event takes a command, dict, str or bytes, not {type(event).__name__}")
        return self._submit(RawEvent(value=event))

    def drain(self, timeout: float | None = 10.0) -> None:
        """Wait until everything that was sent so far is with the kernel; ``timeout=0`` looks once, None sets no limit.

        Raises: `ConfigError` for a wrong timeout; `RealtimeTimeoutError`; `RealtimeError` in a handler.
        """
        call = self._call
        call.check_process()
        call.delivery.check_not_in_handler("drain")
        check_timeout(timeout)
        if not in_slices(call.outbox.drain, timeout):
            raise RealtimeTimeoutError(f"{call.outbox.counts.waiting} commands still wait to be sent after {timeout:g} s")

    def _answers_by_itself(self) -> frozenset[type[Command]]:
        dialect = self._call.dialect
        return dialect.traits.answers_by_itself if dialect is not None else frozenset()


@contextlib.contextmanager
def _values_checked() -> Iterator[None]:
    try:
        yield
    except UnsupportedCommandError as error:
        if error.code == "invalid_value":  # the service has the word, but the value has no form on the wire
            raise ConfigError(str(error), code="invalid_value") from error
        raise


def _text(text: object, method: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"{method} takes text that is not empty, not {type(text).__name__ if not isinstance(text, str) else repr(text)}")
    return text


def _id(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"an id must be text that is not empty, not {value!r}")
    return value
