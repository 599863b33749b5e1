"""Watches over one connection with the sender's timers: ready in time, alive, not deaf."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qai_realtime_sync.client.call import Call, log
from qai_realtime_sync.errors import ApiError, ConnectionClosedError, RealtimeError, RealtimeTimeoutError
from qai_realtime_sync.events import ErrorReceived, ServiceSilent

if TYPE_CHECKING:
    from qai_realtime_sync.client.sender import Timer
    from qai_realtime_sync.transport import Connection

__all__ = ["Vigil"]

_LOOKS = 10  # in a ping interval, while something goes up


class Vigil:
    """``verdict`` is why it ended the connection itself, or ``None``."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._connection: Connection | None = None
        self._ready_timer: Timer | None = None
        self._ping_timer: Timer | None = None
        self._silence_told = False
        self._seen_frames = self._seen_sent = 0
        self._quiet_since = 0.0
        self._looked_sent = self._asked_sent = 0
        self._asked_at = self._ping_due = 0.0
        self.verdict: Exception | None = None

    def begin(self, connection: Connection, deadline: float, timeout: float) -> None:
        """A socket is open: the service must be ready by ``deadline``."""
        self.verdict = None
        self._connection = connection
        left = max(0.0, deadline - self._call.clock())
        self._ready_timer = self._call.sender.after(left, lambda: self._not_ready(connection, timeout))

    def opened(self) -> None:
        """The service is ready: from now on it must show life."""
        if self._ready_timer is not None:
            self._ready_timer.cancel()
        self._silence_told = False
        call, connection = self._call, self._connection
        if connection is not None and call.options.ping_interval is not None:
            now, sent = call.clock(), call.outbox.sent
            self._asked_at, self._asked_sent, self._looked_sent = 0.0, sent, sent
            self._seen_frames, self._seen_sent, self._quiet_since = call.frames, sent, now
            self._ping_due = now + call.options.ping_interval
            self._arm(connection, now)
        ends = [] if call.dialect is None or call.dialect.traits.session_cap is None else [call.dialect.traits.session_cap]
        if call.expires_at is not None:
            ends.append(call.expires_at - time.time())
        if ends and min(ends) > 0:
            call.renewal.expect_end(min(ends))

    def end(self) -> None:
        """The connection is over."""
        self._connection = None
        self._call.outbox.tell_next(None)
        for timer in (self._ready_timer, self._ping_timer):
            if timer is not None:
                timer.cancel()

    def refused(self, error: ErrorReceived) -> None:
        """An error came; before readiness, one that names our configuration means that readiness will never come."""
        connection = self._connection
        if connection is None or self._call.lifecycle.state != "handshaking" or error.benign:
            return
        if error.command is not None or error.fatal:
            self._end(
                connection,
                ApiError(
                    f"the service refused the session: {error.message}", code=error.code or error.type or "session_refused"
                ),
            )

    # -- on the sender's thread ------------------------------------------------------------------------------------------------

    def _not_ready(self, connection: Connection, timeout: float) -> None:
        last = self._call.last_error
        said = f"; its last error was: {last.message}" if last is not None else ""
        self._end(
            connection,
            RealtimeTimeoutError(
                f"connected, but the service did not confirm the session within {timeout:g} s{said}; "
                "check address, dialect, model and configuration, or give more time with timeout="
            ),
        )

    def _arm(self, connection: Connection, now: float) -> None:
        """Look again soon if something went up since the last look; else when the next ping is due, or soon after something goes up.

        So a conversation in which nobody speaks wakes nobody between two pings: of a thousand most are such.
        """
        call, interval = self._call, self._call.options.ping_interval
        assert interval is not None
        soon, seen = interval / _LOOKS, self._looked_sent
        self._looked_sent = call.outbox.sent
        if self._looked_sent == seen:
            call.outbox.tell_next(lambda: call.sender.after(soon, lambda: self._look(connection)))
        speaks = call.outbox.sent != seen  # asked for again: it may have been before there was anybody to tell
        left = max(0.0, self._ping_due - now)
        self._ping_timer = call.sender.after(min(soon, left) if speaks else left, lambda: self._look(connection))

    def _look(self, connection: Connection) -> None:
        """Ask for a sign of life where none came by itself."""
        if connection is not self._connection:
            return
        if self._ping_timer is not None:
            self._ping_timer.cancel()  # it was for later: something went up meanwhile
        call, interval = self._call, self._call.options.ping_interval
        assert interval is not None
        now = call.clock()
        due = now >= self._ping_due
        if due:
            self._ping_due = now + interval
        unanswered = self._unanswered(connection, now, interval)
        self._arm(connection, now)
        if not due and not unanswered:
            return
        self._asked_at, self._asked_sent = now, call.outbox.sent
        try:
            connection.ping()
        except ConnectionClosedError:
            return
        if due:
            self._listen()
        if call.delivery.holds_reader:
            return  # a handler runs: the answer may lie in the socket, and nobody looks
        frames = call.frames
        call.sender.after(call.options.pong_timeout, lambda: self._check(connection, now, frames))

    def _unanswered(self, connection: Connection, now: float, interval: float) -> bool:
        """Who speaks to nobody must learn it sooner than who is silent: something went up since the last question, and nothing came."""
        asked = self._asked_at > connection.last_received
        silent = now - connection.last_received >= interval / _LOOKS / 2
        return silent and not asked and self._call.outbox.sent != self._asked_sent

    def _check(self, connection: Connection, asked_at: float, frames: int) -> None:
        """Judge, if the reader waited for an answer all the time; else the next question is judged."""
        call = self._call
        if frames != call.frames or call.delivery.holds_reader:
            return
        if connection is self._connection and connection.last_received < asked_at:
            seconds = call.clock() - connection.last_received
            log.warning("no sign of life from the service for %.0f s: the connection is given up", seconds)
            self._end(connection, ConnectionClosedError(f"no sign of life for {seconds:.0f} s, not even a pong", code=None))

    def _end(self, connection: Connection, verdict: RealtimeError) -> None:
        if connection is self._connection and self.verdict is None:
            self.verdict = verdict
            connection.abort()

    def _listen(self) -> None:
        """Tell once per connection that much goes up and nothing comes back; pongs do not count."""
        call = self._call
        now, frames, sent = call.clock(), call.frames, call.outbox.sent
        if frames != self._seen_frames or sent == self._seen_sent or call.delivery.holds_reader:
            self._quiet_since = now
        self._seen_frames, self._seen_sent = frames, sent
        if now - self._quiet_since >= call.options.silent_after and not self._silence_told:
            self._silence_told = True
            call.announce(ServiceSilent(seconds=now - self._quiet_since))
