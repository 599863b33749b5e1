"""How events reach the program: one at a time, in order, whoever has something to tell.

The reader delivers what the service says; what other threads have to tell (a tool that failed, playback that was stopped by the
program) goes through the same queue. Whoever holds the delivery token runs handlers; the reader waits for the token, other threads
leave their event to its holder, or to the teller, a lane of its own.
"""

from __future__ import annotations

import collections
import logging
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qai_realtime_sync.client.reactions import react
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.events import Closed, Event, StateChanged

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call

__all__ = ["Delivery"]

log = logging.getLogger("qai_realtime_sync")


class Delivery:
    """The queue of events that are due, and the token of who hands them out."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._lock = threading.Lock()  # guards _delivering, _patient and who may add to due; only the token's holder takes from that
        self._free = threading.Condition(self._lock)
        self._patient = 0  # threads that wait for the token
        self.due: collections.deque[Event] = collections.deque()
        self._delivering: int | None = None
        self._told_end = False  # belongs to who holds the delivery token

    def check_not_in_handler(self, what: str) -> None:
        """Raises: `RealtimeError` in a handler, where waiting would wait for itself."""
        if self._delivering == threading.get_ident() or self._call.reader is threading.current_thread():
            raise RealtimeError(
                f"{what} cannot wait in a handler: the events it waits for come on this very thread; "
                "register the handler with background=True, or do it in another thread",
                code="called_in_handler",
            )

    @property
    def in_delivery(self) -> bool:
        """True on the thread that runs handlers just now, and on the reader."""
        return self._delivering == threading.get_ident() or self._call.reader is threading.current_thread()

    @property
    def holds_reader(self) -> bool:
        """True while the reader hands out events, or waits for its turn to: it does not look at the socket then."""
        reader = self._call.reader
        return self._patient > 0 or (reader is not None and self._delivering == reader.ident)

    def deliver(self, events: Iterable[Event]) -> None:
        """Hand events to the client's own parts and to the handlers; for the reader, which waits its turn."""
        if self._delivering == threading.get_ident():
            with self._lock:
                self.due.extend(events)
            return
        self.take_turn()
        try:
            for event in events:
                self.hand_out(event)
        finally:
            self.end_turn()

    def take_turn(self) -> None:
        """Take the token, waiting while another thread has it: the reader keeps it for all that arrived at once."""
        with self._lock:
            while self._delivering is not None:
                self._patient += 1
                self._free.wait()
                self._patient -= 1
            self._delivering = threading.get_ident()
        if self.due:
            self.catch_up()

    def end_turn(self) -> None:
        """Give the token back, once nothing is due any more."""
        with self._lock:
            if not self.due and not self._patient:
                self._delivering = None
                return
        self._drain()

    def catch_up(self) -> None:
        """Tell what other threads had to tell; the caller holds the token."""
        while self.due:
            self.hand_out(self.due.popleft())

    def retell(self, events: Iterable[Event]) -> None:
        """Tell the events of a recording, in the caller's thread: the handlers hear them, and nothing reacts."""
        with self._lock:
            while self._delivering is not None:
                self._patient += 1
                self._free.wait()
                self._patient -= 1
            self._delivering = threading.get_ident()
        try:
            for event in events:
                self._retell(event)
        finally:
            with self._lock:
                self.due.clear()  # `Closed` was the last event
                self._delivering = None
                self._free.notify_all()

    def _retell(self, event: Event) -> None:
        if event.__class__ is Closed:
            self._told_end = True
            self._call.ended_at = self._call.clock()
        self.tell(event)
        while not self._told_end:
            with self._lock:
                if not self.due:
                    return
                caused = self.due.popleft()
            self.tell(caused)  # a handler of the recorded event failed, or closed the client

    def announce(self, event: Event) -> None:
        """Tell something from any thread; never waits for a handler.

        Handlers run on threads of the client only: the program's may hold a lock that a handler wants, and the sender keeps the
        connection alive. Where no handler runs just now, the teller takes over.
        """
        with self._free:
            self.due.append(event)
            if self._delivering is not None:
                return
        if threading.current_thread() is self._call.teller.thread:
            self._deliver_due()
        else:
            self._call.teller.post(self._deliver_due)

    def _deliver_due(self) -> None:
        with self._free:
            if self._delivering is not None or not self.due:
                return
            self._delivering = threading.get_ident()
        self._drain()

    def _drain(self) -> None:
        while True:
            with self._lock:
                if not self.due:
                    self._delivering = None
                    if self._patient:
                        self._free.notify_all()
                    return
                event = self.due.popleft()
            self.hand_out(event)

    def hand_out(self, event: Event) -> None:
        """React to one event and tell it, then what that caused; the caller holds the token."""
        if event.__class__ is StateChanged:
            for state in self._call.states_until(event):
                self.hand_out_one(state)
        else:
            self.hand_out_one(event)

    def hand_out_one(self, event: Event) -> None:
        """As `hand_out`, for what is no change of state: an event of the service."""
        if self._told_end:
            return  # `Closed` is the last event
        call = self._call
        if event.__class__ is Closed:
            self._told_end = True
            call.ended_at = call.clock()
        caused: Sequence[Event] | None = ()
        try:
            caused = react(call, event)
        except BaseException:  # a bug of ours must not end the conversation, nor keep the event, or the token, from the program
            log.exception("the client's own part in the event %s failed", event.event_name)
        if caused is None:
            return  # void: not for anybody's ears
        try:
            call.waiting.offer(event)
            if call.observers:
                self._show(event)
            call.handlers.dispatch(event)
        except BaseException:  # of an observer; handlers' own failures do not come here
            log.exception("the event %s could not be delivered", event.event_name)
        for one in caused:
            self.hand_out(one)

    def tell(self, event: Event) -> None:
        """Wake who waits for the event, then call its handlers; on the thread that delivers."""
        call = self._call
        call.waiting.offer(event)
        self._show(event)
        call.handlers.dispatch(event)

    def _show(self, event: Event) -> None:
        call = self._call
        for observe in call.observers:
            observe(event, call.clock())
