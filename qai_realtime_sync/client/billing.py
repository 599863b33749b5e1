"""The life of a minted session: minted, refreshed before its token expires, ended exactly once or named in the log as not ended.

All REST calls of one client run in order in one thread, ``qai-billing``. An answer that comes when nobody waits for it any more is not
lost: a session that was minted too late is ended at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from qai_realtime_sync.client.lane import Lane
from qai_realtime_sync.config import RealtimeSession
from qai_realtime_sync.errors import ApiError, ConnectError, RealtimeError, RealtimeTimeoutError

__all__ = ["Billing", "unsettled"]

_log = logging.getLogger("qai_realtime_sync")
_TOKEN_LIFE = 300.0
_REFRESH_AT = 0.8
_END_TIMEOUT = 2.0
_EXPIRED = frozenset({"EPHEMERAL_EXPIRED", "SESSION_EXPIRED"})

_unsettled: set[Billing] = set()


def unsettled() -> list[Billing]:
    """What still has a session to end: the process waits for these when it exits."""
    return list(_unsettled)


class _Info(Protocol):
    @property
    def cost_ticks(self) -> int: ...


class _Rest(Protocol):
    @property
    def last_response(self) -> _Info: ...
    def create_session(self, provider: str | None = None, *, timeout: float | None = None, **body: Any) -> RealtimeSession: ...
    def refresh_session(self, session_id: str, *, timeout: float | None = None) -> str: ...
    def end_session(self, session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None: ...
    def close(self) -> None: ...


class Billing:
    """One minted session at a time. ``after(seconds, fn)`` runs a timer; ``clock`` is monotonic, ``now`` unix seconds."""

    def __init__(
        self,
        rest: _Rest,
        provider: str,
        body: dict[str, Any],
        *,
        clock: Callable[[], float],
        after: Callable[[float, Callable[[], None]], Any],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rest = rest
        self._provider = provider
        self._body = body
        self._clock = clock
        self._after = after
        self._now = now
        self._lane = Lane("qai-billing")
        self._lock = threading.Lock()  # guards everything below
        self._session: RealtimeSession | None = None
        self._minted_at = 0.0
        self._token_until = 0.0
        self._open: set[str] = set()
        self._over = False
        self._gave_up = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._timer: Any = None
        self._pending = 0
        self.cost_ticks = 0  # written by the billing thread alone

    @property
    def thread(self) -> threading.Thread | None:
        """The thread of the REST calls, once there is one."""
        return self._lane.thread

    @property
    def session(self) -> RealtimeSession | None:
        """The session as it is now, with its credentials."""
        return self._session

    # -- for the reader, which waits -------------------------------------------------------------------------------------------

    def obtain(self, timeout: float) -> RealtimeSession:
        """Return a session to connect with: a new one, or after a loss the same with a new token.

        Raises: `ApiError`, `ConnectError`, `RealtimeTimeoutError` after ``timeout`` seconds.
        """
        session = self._session
        if session is None or not session.ephemeral_token:
            # A signed URL cannot be refreshed: what it opened is ended, and a new one is minted.
            self.end()
            return self._ask(lambda: self._mint(timeout), timeout)
        try:
            return self._ask(lambda: self._refresh(session, timeout), timeout)
        except ApiError as error:
            if not error.is_not_found and error.code not in _EXPIRED:
                raise
            self.end()
            return self._ask(lambda: self._mint(timeout), timeout)

    def give_up(self) -> None:
        """The client is closing: who waits in `obtain` stops waiting."""
        with self._lock:
            self._over = True
        self._gave_up.set()

    def _ask(self, action: Callable[[], RealtimeSession], timeout: float) -> RealtimeSession:
        answers: list[RealtimeSession | Exception] = []
        arrived = threading.Event()

        def run() -> None:
            try:
                answers.append(action())
            except Exception as error:  # handed to the thread that waits
                answers.append(error)
            arrived.set()
            self._gave_up.set()

        with self._lock:
            if not self._over:
                self._gave_up.clear()
        self._post(run)
        self._gave_up.wait(timeout + 0.5)
        if not arrived.is_set():
            if self._over:
                raise ConnectError("the client was closed while a session was being minted", code="cancelled")
            with self._lock:
                self._over = True  # what still comes is ended at once
            raise RealtimeTimeoutError(f"the gateway did not mint a session within {timeout:g} s")
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    # -- for whoever ends ------------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Settle the bill of what is open, once; returns at once, see `wait`."""
        with self._lock:
            due, self._open = self._open, set()
            duration = self._clock() - self._minted_at
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for session_id in due:
            self._post(lambda session_id=session_id: self._end(session_id, duration))  # type: ignore[misc]

    def finish(self) -> None:
        """The conversation is over: settle, and let the thread end after that."""
        self.give_up()
        self.end()
        self._lane.stop()

    def wait(self, timeout: float) -> bool:
        """Wait until all REST calls are done; False if ``timeout`` seconds were not enough."""
        return self._idle.wait(timeout)

    # -- in the billing thread -------------------------------------------------------------------------------------------------

    def _post(self, action: Callable[[], None]) -> None:
        with self._lock:
            self._pending += 1
            self._idle.clear()
        _unsettled.add(self)

        def run() -> None:
            try:
                action()
            except Exception:
                _log.exception("a REST call of the conversation failed")
            with self._lock:
                self._pending -= 1
                if not self._pending:
                    self._idle.set()
                    if not self._open:
                        _unsettled.discard(self)

        self._lane.post(run)

    def _mint(self, timeout: float) -> RealtimeSession:
        session = self._rest.create_session(self._provider or None, timeout=timeout, **self._body)
        self._charged()
        with self._lock:
            self._session = session
            self._minted_at = self._clock()
            too_late = self._over
            if session.session_id:
                self._open.add(session.session_id)
        if too_late:
            self.end()
        else:
            self._watch(session)
        return session

    def _refresh(self, session: RealtimeSession, timeout: float) -> RealtimeSession:
        token = self._rest.refresh_session(session.session_id, timeout=timeout)
        self._charged()
        renewed = attrs.evolve(session, ephemeral_token=token, expires_at=None)
        with self._lock:
            self._session = renewed
        self._watch(renewed)
        return renewed

    def _watch(self, session: RealtimeSession) -> None:
        """Ask for a new token after four fifths of its life."""
        life = session.expires_in
        if life is None and session.expires_at is not None and session.expires_at > self._now():
            life = session.expires_at - self._now()
        if life is None or life <= 0:
            life = _TOKEN_LIFE
        if not session.ephemeral_token or not session.session_id:
            return
        self._token_until = self._clock() + life
        self._arm(life * _REFRESH_AT, session.session_id)

    def _arm(self, seconds: float, session_id: str) -> None:
        with self._lock:
            if self._over or session_id not in self._open:
                return
            old, self._timer = self._timer, self._after(seconds, lambda: self._post(lambda: self._keep(session_id)))
        if old is not None:
            old.cancel()

    def _keep(self, session_id: str) -> None:
        """Refresh during the conversation; a failure is tried again while the token lives, and said when it does not."""
        session = self._session
        if session is None or session_id not in self._open:
            return
        left = self._token_until - self._clock()
        try:
            self._refresh(session, max(1.0, left))
        except RealtimeError as error:
            left = self._token_until - self._clock()
            if left > 1.0 and not (isinstance(error, ApiError) and error.status_code < 500 and not error.is_rate_limit):
                self._arm(left / 2, session_id)
                return
            _log.warning(
                "the token of session %s could not be refreshed (%s): the conversation goes on, but the service may end it",
                session_id,
                error,
            )

    def _charged(self) -> None:
        """The gateway says with each answer what it cost."""
        self.cost_ticks += self._rest.last_response.cost_ticks

    def _end(self, session_id: str, duration: float) -> None:
        try:
            self._rest.end_session(session_id, max(0.0, duration), timeout=_END_TIMEOUT)
            self._charged()
        except RealtimeError as error:
            _log.error(
                "session %s could not be ended (%s): the gateway meters it until it notices by itself", session_id, error
            )
