"""One ``response.create`` at a time: a request made while an answer runs is held until that answer ends."""

from __future__ import annotations

import collections
import threading

import attrs

from qai_realtime_sync.commands import CancelResponse, Command, CreateResponse
from qai_realtime_sync.events import ErrorReceived, Event, ResponseCreated, ResponseDone

__all__ = ["BUSY", "Responses"]

BUSY = "conversation_already_has_active_response"
_ON_ITS_WAY = "?"
_MOST_BESIDE = 64
_REMEMBERED = 16


class Responses:
    """Knows which answer of the conversation runs, and holds requests for the next one.

    Out-of-band requests run beside it and are never held. Told events and asked from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards everything below
        self._active = ""
        self._requested: CreateResponse | None = None
        self._requested_left = False  # it is on the wire: an answer that begins now is taken for its answer
        # Requests whose answer is taken to have begun, by event id, newest last: an error may tell later that it was another's.
        self._assumed: collections.OrderedDict[str, CreateResponse] = collections.OrderedDict()
        self._taken_for = ""  # the one of them that the running answer is taken for
        self._held: list[CreateResponse] = []
        self._causes: collections.OrderedDict[str, str] = collections.OrderedDict()  # by answer: the event id of its request
        self._first_ids: collections.OrderedDict[str, str] = collections.OrderedDict()  # of requests that were asked once more
        self._requested_first = ""
        # Requests that were on the wire when nobody wanted their answer any more, by their first event id.
        self._abandoned: collections.OrderedDict[str, None] = collections.OrderedDict()
        self._beside: collections.OrderedDict[str, bool] = collections.OrderedDict()  # by answer: it still runs
        self._beside_requested: dict[str, CreateResponse] = {}
        self._names_conversations = False  # the service does, for answers of one

    @property
    def active(self) -> str:
        """The id of the answer that runs in the conversation, or ``""``."""
        return "" if self._active == _ON_ITS_WAY else self._active

    @property
    def is_busy(self) -> bool:
        """True while an answer runs or was asked for."""
        return bool(self._active) or self._requested is not None

    @property
    def pending(self) -> list[str]:
        """The requests of the conversation that no answer has begun for, the oldest first, by the event ids of their first tries."""
        with self._lock:
            sent = [self._requested_first] if self._requested is not None else []
            return sent + [self._first(command.event_id) for command in self._held]

    def request(self, command: CreateResponse) -> list[Command]:
        """Ask for an answer: returned at once if none runs, else held."""
        with self._lock:
            if command.out_of_band:
                if not command.metadata:
                    command.metadata = {"request": command.event_id}  # what tells its answer from the conversation's
                self._beside_requested[command.event_id] = command
                while len(self._beside_requested) > _MOST_BESIDE:
                    del self._beside_requested[next(iter(self._beside_requested))]
                return [command]
            if self._active or self._requested is not None or self._held:
                self._held.append(command)
                return []
            return self._ask(command)

    def cancel(self, command: CancelResponse) -> list[Command]:
        """Stop the running answer; requests that were held for its end are dropped."""
        with self._lock:
            if not command.response_id or command.response_id == self._active:
                self._held.clear()
            return [command]

    @property
    def beside(self) -> frozenset[str]:
        """The newest answers outside the conversation, which has none of their items and calls."""
        with self._lock:
            return frozenset(self._beside)

    def runs_beside(self, response_id: str) -> bool:
        """True while an answer outside the conversation runs."""
        with self._lock:
            return self._beside.get(response_id, False)

    def cause_of(self, response_id: str) -> str:
        """The event id of the request that this answer is taken to answer, that of its first try; ``""`` if nobody asked for it."""
        with self._lock:
            return self._causes.get(response_id, "")

    def first_id(self, event_id: str) -> str:
        """The event id that a request had when it was made; it gets another one when it must be sent once more."""
        with self._lock:
            return self._first(event_id)

    def abandon(self, event_id: str) -> list[Command]:
        """Nobody waits for the answer to this request any more: drop it, or stop its answer, now or when it begins. Others are kept."""
        with self._lock:
            self._held = [c for c in self._held if self._first(c.event_id) != event_id]
            if self._requested is not None and self._requested_first == event_id:
                if self._requested_left:
                    self._abandoned[event_id] = None
                    if len(self._abandoned) > _MOST_BESIDE:
                        self._abandoned.popitem(last=False)
                    return []
                self._requested = None
                return self._next()
            if self._active not in ("", _ON_ITS_WAY) and self._causes.get(self._active) == event_id:
                return [CancelResponse(response_id=self._active)]
            return []

    def withdraw(self, command: CreateResponse) -> list[Command]:
        """The request could not be sent after all; return the held one that takes its place."""
        with self._lock:
            self._beside_requested.pop(command.event_id, None)
            if self._requested is not command:
                return []
            self._requested = None
            return self._next()

    def may_leave(self, command: CreateResponse) -> bool:
        """The request is about to be written: False if it must not be, because another answer began and it is held again."""
        with self._lock:
            if command.out_of_band:
                return True
            if command is not self._requested:
                return False
            self._note_first()
            self._requested_left = True
            return True

    def unblock(self) -> list[Command]:
        """The answer the service said it was giving has shown no sign of itself: stop waiting for its end."""
        with self._lock:
            if self._active == _ON_ITS_WAY:
                self._active = ""
            return self._next()

    def told(self, event: Event) -> list[Command]:
        """Follow the service; return the held request whose time has come, if any."""
        with self._lock:
            if isinstance(event, ResponseCreated):
                return self._created(event)
            if isinstance(event, ResponseDone):
                return self._done(event)
            if isinstance(event, ErrorReceived):
                return self._failed(event)
            return []

    def reset(self) -> None:
        """The connection is gone and with it what ran on it.

        What was asked for and not answered is asked for again; a request that has not left yet still will.
        """
        with self._lock:
            if self._requested is not None and self._requested_left:
                self._hold_again(self._requested)
                self._requested = None
            self._assumed.clear()
            self._active = ""
            self._beside.clear()
            self._beside_requested.clear()

    def held(self) -> list[Command]:
        """The requests that were never sent, in order; asked at the end."""
        with self._lock:
            return list(self._held)

    def overdue(self, command: CreateResponse) -> list[Command]:
        """The service has not begun to answer this request for a long time: it is given up, and the next one returned."""
        with self._lock:
            if self._requested is not command or not self._requested_left:
                return []
            self._abandoned.pop(self._requested_first, None)
            self._requested = None
            return self._next()

    def next(self) -> list[Command]:
        """Return the held request whose time has come; asked after a reconnect."""
        with self._lock:
            return self._next()

    def _created(self, event: ResponseCreated) -> list[Command]:
        asked = next((c for c in self._beside_requested.values() if c.metadata and c.metadata == event.metadata), None)
        self._names_conversations = self._names_conversations or bool(event.conversation_id)
        if asked is not None and self._may_be_beside(event):
            del self._beside_requested[asked.event_id]
            self._beside[event.response_id] = True
            if len(self._beside) > _MOST_BESIDE:
                self._beside.popitem(last=False)
            self._note_cause(event.response_id, asked.event_id)
            return []
        self._active = event.response_id or _ON_ITS_WAY
        ours, self._requested = self._requested, None
        self._taken_for = ""
        self._note_cause(event.response_id, "")
        if ours is not None and self._requested_left:
            self._taken_for = ours.event_id
            self._assume(ours)
            cause = self._first(ours.event_id)
            self._note_cause(event.response_id, cause)
            if cause in self._abandoned:  # and it stays there: an error may tell that this answer is another's, and ours not given yet
                return [CancelResponse(response_id=event.response_id)]
        elif ours is not None:
            self._note_first(ours)
            self._held.insert(0, ours)  # an answer that nobody asked for came first: ours comes after it
        return []

    def _may_be_beside(self, event: ResponseCreated) -> bool:
        """It says that it is of no conversation (source: OpenAI schema); where services name none, ours with that metadata wins."""
        if self._names_conversations:
            return not event.conversation_id
        return self._requested is None or self._requested.metadata != event.metadata

    def _note_cause(self, response_id: str, event_id: str) -> None:
        self._causes[response_id] = event_id
        self._causes.move_to_end(response_id)
        if len(self._causes) > _MOST_BESIDE:
            self._causes.popitem(last=False)

    def _note_first(self, command: CreateResponse | None = None) -> None:
        """The request has its new event id now: what it was called at first is kept with it."""
        command = command or self._requested
        if command is None or not command.event_id or command.event_id == self._requested_first:
            return
        self._first_ids[command.event_id] = self._requested_first
        if len(self._first_ids) > _MOST_BESIDE:
            self._first_ids.popitem(last=False)

    def _first(self, event_id: str) -> str:
        return self._first_ids.get(event_id, event_id)

    def _hold_again(self, command: CreateResponse) -> None:
        """The service did not take this request: it is asked once more, unless nobody waits for its answer any more."""
        if self._first(command.event_id) not in self._abandoned:
            self._held.insert(0, command)

    def _assume(self, request: CreateResponse) -> None:
        self._assumed[request.event_id] = request
        if len(self._assumed) > _REMEMBERED:
            self._assumed.popitem(last=False)

    def _done(self, event: ResponseDone) -> list[Command]:
        if event.response_id in self._beside:
            self._beside[event.response_id] = False
            return []
        if self._active not in ("", _ON_ITS_WAY) and event.response_id not in ("", self._active):
            return []  # an older answer's end, told late
        self._active = ""
        return self._next()

    def _failed(self, event: ErrorReceived) -> list[Command]:
        if event.caused_by in self._beside_requested and event.caused_by:
            del self._beside_requested[event.caused_by]
            return []
        if event.code.rpartition(".")[2] == BUSY:
            return self._busy(event)
        ours = self._requested
        if ours is None or event.benign or event.caused_by not in ("", ours.event_id):
            return []
        self._requested = None
        if not event.caused_by and self._requested_left:
            self._assume(ours)  # it may have been about something else, and the real answer to our request may still come
        return self._next()

    def _busy(self, event: ErrorReceived) -> list[Command]:
        """The service began an answer of its own (the user spoke) before it saw our request: ask again when that one ends."""
        if self._requested is not None and event.caused_by in ("", self._requested.event_id):
            self._hold_again(self._requested)
            self._requested = None
            self._active = self._active or _ON_ITS_WAY
        elif event.caused_by in self._assumed:
            # That answer was told before this error, and was taken for ours.
            self._take_back(self._assumed.pop(event.caused_by))
        elif self._active and self._taken_for in self._assumed and not event.caused_by:
            self._take_back(self._assumed.pop(self._taken_for))
        return self._next()

    def _take_back(self, request: CreateResponse) -> None:
        """The answer that was taken for this request's was another's."""
        first = self._first(request.event_id)
        for response_id, cause in self._causes.items():
            if cause == first:
                self._causes[response_id] = ""
        self._hold_again(request)

    def _next(self) -> list[Command]:
        if self._active or self._requested is not None or not self._held:
            return []
        # A fresh command: the id of the first try may already be tied to an error.
        held = self._held.pop(0)
        asked = self._ask(attrs.evolve(held, event_id=""))
        self._requested_first = self._first(held.event_id)
        return asked

    def _ask(self, command: CreateResponse) -> list[Command]:
        self._requested = command
        self._requested_first = command.event_id
        self._requested_left = False
        return [command]
