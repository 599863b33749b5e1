"""A planned reconnect before the service ends the session by itself, at a moment when nobody speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qai_realtime_sync.client.call import Call
    from qai_realtime_sync.client.sender import Timer

__all__ = ["Renewal"]

_LEAD = 60.0
_LAST_MOMENT = 5.0
_HANDLE_COMES_WITHIN = 2.0


class Renewal:
    """Knows when the session must end; looks for a quiet moment from a minute before, and takes any five seconds before."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._timers: list[Timer] = []
        self._due = False
        self._may_resume = True  # as the service said last
        self._handle_by = 0.0  # an answer has ended, and until then the handle may come that knows of it

    @property
    def awaits_handle(self) -> bool:
        """True just after an answer, while the service has not said yet that it may be resumed again.

        The handle there is is older than the answer: who resumed with it would make the service forget that (source: Gemini's SDK).
        """
        return not self._may_resume and self._call.clock() < self._handle_by

    def begin(self) -> None:
        """A connection is ready, and nothing was said about resuming it."""
        self._may_resume = True

    def may_resume(self, yes: bool) -> None:
        """The service says whether it may be resumed at the moment."""
        was, self._may_resume = self._may_resume, yes
        if yes and not was:
            self._call.settled()

    def answered(self) -> None:
        """An answer is over."""
        if not self._may_resume:
            self._handle_by = self._call.clock() + _HANDLE_COMES_WITHIN
            self._call.sender.after(_HANDLE_COMES_WITHIN, self._call.settled)

    def expect_end(self, seconds: float) -> None:
        """The service will end the session in ``seconds``."""
        self.forget()
        sender = self._call.sender
        lead, last = min(_LEAD, seconds / 2), min(_LAST_MOMENT, seconds / 4)
        self._timers = [
            sender.after(seconds - lead, self._begin),
            sender.after(seconds - last, lambda: self._renew("the service ends the session soon")),
        ]

    def forget(self) -> None:
        """The connection is over, or a new one was made."""
        self._due = False
        timers, self._timers = self._timers, []
        for timer in timers:
            timer.cancel()

    def look(self) -> None:
        """Something has ended (an answer, a sound, the user's speech): perhaps it is quiet now."""
        if self._due and self._call.is_quiet:
            self._renew("the service would end the session soon")

    def _begin(self) -> None:
        self._due = True
        self.look()

    def _renew(self, why: str) -> None:
        self.forget()
        if self._call.options.reconnect is not None:
            self._call.plan_reconnect(why)
