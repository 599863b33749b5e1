"""What belongs to the answer of one question: which answers, words and sound are its own, and when it is finished, failed or given up."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

import attrs

from qai_realtime_sync.client.waiting import EventStream, GivenUp
from qai_realtime_sync.errors import ApiError, RealtimeTimeoutError
from qai_realtime_sync.events import (
    AudioDelta,
    Closed,
    ErrorReceived,
    Event,
    FunctionCall,
    HandlerFailed,
    Reconnecting,
    ResponseCreated,
    ResponseDone,
    TextDelta,
    TextDone,
    TranscriptDone,
)
from qai_realtime_sync.turns import Answer

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["AnswerStream", "Collected", "collect"]


class AnswerStream(EventStream):
    """Notes of each end of an answer whether another answer follows, in the moment it is told: later it may have come and gone."""

    def __init__(self, goes_on_after: Callable[[str], bool]) -> None:
        super().__init__()
        self._goes_on_after = goes_on_after
        self._followed: list[Event] = []

    def offer(self, event: Event) -> None:
        if isinstance(event, ResponseDone) and self._goes_on_after(event.response_id):
            self._followed.append(event)
        super().offer(event)

    def is_last(self, event: Event) -> bool:
        """True if nothing followed this end of an answer."""
        return not any(event is one for one in self._followed)


@attrs.define(eq=False, repr=False)
class Collected:
    """What belongs to the answer that `Speaking.ask` waits for."""

    call: Call
    goes_on: bool  # the service goes on by itself after the results of functions, perhaps with an answer of its own
    asking: set[str] = attrs.field(factory=set)  # answers that called a function and have said nothing since
    answer: Answer = attrs.field(factory=Answer)
    sound: bytearray = attrs.field(factory=bytearray)  # of the answer: bytes that grow would be copied for every piece
    texts: dict[tuple[str, str], str] = attrs.field(factory=dict)  # by answer and item
    pieces: dict[tuple[str, type[Event]], str] = attrs.field(factory=dict)  # of what has no item, by answer, spoken or written
    event_id: str = ""  # of the text
    request_id: str = ""  # of the request for its answer; none where the service answers by itself

    def goes_on_after(self, response_id: str) -> bool:
        """Another answer follows this one; asked in the moment its end is told."""
        if self.goes_on:  # not is_busy: a fast service has answered before the thread that gave a result comes back from sending it
            return self.call.responses.is_busy or self.call.calls.is_busy
        return self.call.calls.goes_on(response_id)

    def _is_ours(self, response_id: str) -> bool:
        cause = self.call.responses.cause_of(response_id)
        if not cause:  # where the service answers by itself, nobody asks for an answer
            return not self.request_id or (self.goes_on and bool(self.answer.response_ids))
        if cause == self.request_id:
            return True
        requests = map(self.call.calls.follow_up, self.answer.response_ids)
        return any(request is not None and request.event_id == cause for request in requests)

    def was_given_up(self, request_ids: list[str]) -> bool:
        """What it waits for is among these requests: the one of the question, or of the results of its tools."""
        requests = map(self.call.calls.follow_up, self.answer.response_ids)
        own = (self.event_id, self.request_id)  # the text itself where the service answers that
        return any(one in request_ids for one in (*own, *(request.event_id for request in requests if request is not None)))

    def _look_again(self) -> None:
        """The service said that an answer had begun before it saw our request: what was taken for ours is another's."""
        if not self.request_id:
            return
        others = [one for one in self.answer.response_ids if not self.call.responses.cause_of(one)]
        if others and not self.goes_on:
            self.answer.response_ids = [one for one in self.answer.response_ids if one not in others]
            self.texts = {key: text for key, text in self.texts.items() if key[0] not in others}
            self.answer.text = " ".join(part for part in self.texts.values() if part)
            if not self.answer.response_ids:
                self.sound.clear()

    def add(self, event: Event) -> bool:
        """Take an event; True when an answer of ours has ended. Raises: `ApiError` when the service refuses or fails."""
        if isinstance(event, ErrorReceived):
            self._look_again()
        mine = getattr(event, "response_id", "") in self.answer.response_ids
        if isinstance(event, ResponseCreated):
            if self._is_ours(event.response_id):
                self.answer.response_ids.append(event.response_id)
        elif isinstance(event, AudioDelta) and mine:
            self.sound += event.audio
            self.asking.discard(event.response_id)
        elif isinstance(event, TextDelta):
            self.asking.discard(event.response_id)
        elif isinstance(event, FunctionCall) and mine and event.expects_result:
            self.asking.add(event.response_id)
        elif isinstance(event, TranscriptDone) and mine and event.source == "output":
            self._text(event, event.transcript)
        elif isinstance(event, TextDone) and mine:
            self._text(event, event.text)
        elif isinstance(event, ErrorReceived) and not event.benign and self._concerns(event):
            raise ApiError(event.message, code=event.code or event.type or "api_error")
        elif isinstance(event, Reconnecting) and self.answer.response_ids:
            # Between an answer and the results of its tools: the calls are forgotten, and no answer to them will come.
            raise ApiError("the connection was lost while the tools of this answer ran", code="connection_lost")
        elif isinstance(event, ResponseDone) and mine:
            self._done(event)
            return not (self.goes_on and event.response_id in self.asking and event.status == "completed")
        return False

    def _concerns(self, event: ErrorReceived) -> bool:
        """The question, or a request for its answer, was refused; a service that does not say what it means means the last thing."""
        if event.caused_by:
            first = self.call.responses.first_id(event.caused_by)
            requests = map(self.call.calls.follow_up, self.answer.response_ids)
            return first in (self.event_id, self.request_id, *(request.event_id for request in requests if request is not None))
        return event.fatal or not self.answer.response_ids

    def _text(self, event: TranscriptDone | TextDone, text: str) -> None:
        text = text.strip()
        if not event.item_id:  # without items an answer comes in pieces; some services write down what they also say
            before = self.pieces.get((event.response_id, type(event)), "")
            text = text if not before or text.startswith(before) else f"{before} {text}"
            self.pieces[(event.response_id, type(event))] = text
        self.texts[(event.response_id, event.item_id)] = text
        self.answer.text = " ".join(part for part in self.texts.values() if part)

    def _done(self, event: ResponseDone) -> None:
        if event.status == "failed" and not self.call.calls.goes_on(event.response_id):  # results of its functions ask for another
            raise ApiError(
                event.error_message or "the service could not answer", code=event.error_code or event.reason or "response_failed"
            )
        self.answer.status = event.status
        if event.usage is not None:
            self.answer.input_tokens += event.usage.input_tokens
            self.answer.output_tokens += event.usage.output_tokens
            self.answer.total_tokens += event.usage.total_tokens


def collect(collected: Collected, stream: AnswerStream, deadline: float | None, timeout: float | None) -> Answer:
    """Return the finished answer, by ``deadline`` on the monotonic clock.

    Raises: `RealtimeTimeoutError`; `ApiError` when the service refuses, fails or is lost; `ConnectionClosedError`; what a handler raised.
    """
    while True:
        try:
            event = stream.next(None if deadline is None else max(0.0, deadline - monotonic()))
        except RealtimeTimeoutError:
            raise RealtimeTimeoutError(
                f"no finished answer within {timeout:g} s; the conversation is {collected.call.lifecycle.state}"
            ) from None
        if isinstance(event, GivenUp) and collected.was_given_up(event.request_ids):
            if event.lost:
                raise ApiError(
                    "the connection was lost before the answer began, and the question is not sent again: a tool may have run for "
                    "it, or it was lost for the second time; ask again if that does no harm",
                    code="connection_lost",
                )
            collected.answer.status = "cancelled"
            collected.answer.audio = bytes(collected.sound)
            return collected.answer
        if collected.add(event) and stream.is_last(event):
            collected.answer.audio = bytes(collected.sound)
            return collected.answer
        if isinstance(event, (HandlerFailed, Closed)) and (failure := collected.call.waiting.take_failure()) is not None:
            raise failure
        if isinstance(event, Closed):
            raise collected.call.waiting.ended(ResponseDone)
