"""The life of a minted session: minted, refreshed before its token expires, ended exactly once or named in the log as not ended.

The REST calls of one client run in order in one thread, ``qai-billing``; only an `end` that would have to wait behind a refresh that
hangs gets a thread of its own. An answer that comes when nobody waits for it any more is not lost: a session that was minted too late is
ended at once.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import attrs

from qai_realtime_sync.client.lane import Lane
from qai_realtime_sync.config import RealtimeSession
from qai_realtime_sync.errors import ApiError, ConnectError, RealtimeError, RealtimeTimeoutError

__all__ = ["Billing", "unsettled"]

_log = logging.getLogger("qai_realtime_sync")
_TOKEN_LIFE = 300.0  # source: gateway, billing
_LONGEST_LIFE = 86_400.0
_REFRESH_AT = 0.8  # of a token's life: four minutes of five, as the gateway's SDKs advise
_SOONEST = 0.2  # a service that says nonsense about its tokens is not asked more often than this
_REFRESH_TIMEOUT = 5.0
_END_TIMEOUT = 2.0
_LEAST = 0.1
_GRACE = 0.2  # for an answer that is on its way when the time is up
_EXPIRED = frozenset({"EPHEMERAL_EXPIRED", "SESSION_EXPIRED"})
_NOT_SENT = frozenset({"unreachable", "proxy_failed"})

_unsettled: set[Billing] = set()


def unsettled() -> list[Billing]:
    """What still has a session to end in this process: it waits for these when it exits."""
    return [billing for billing in list(_unsettled) if billing.pid == os.getpid()]


class _Info(Protocol):
    @property
    def cost_ticks(self) -> int: ...


class _Rest(Protocol):
    @property
    def last_response(self) -> _Info: ...
    def create_session(self, provider: str | None = None, *, timeout: float | None = None, **body: Any) -> RealtimeSession: ...
    def refresh_session(self, session_id: str, *, timeout: float | None = None) -> str: ...
    def end_session(self, session_id: str, duration_seconds: float, *, timeout: float | None = None) -> None: ...


@attrs.define(eq=False)
class _Question:
    """What the reader waits for; ``abandoned`` once it does so no more."""

    settled: threading.Event = attrs.field(factory=threading.Event)
    answer: RealtimeSession | Exception | None = None
    abandoned: bool = False


class Billing:
    """One minted session at a time.

    ``make_rest(wait)`` gives the REST client, which waits for a replay with ``wait(seconds)``. ``after(seconds, fn)`` runs a timer;
    ``clock`` is monotonic, ``now`` unix seconds.
    """

    def __init__(
        self,
        make_rest: Callable[[Callable[[float], object]], _Rest],
        provider: str,
        *,
        clock: Callable[[], float],
        after: Callable[[float, Callable[[], None]], Any],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.pid = os.getpid()
        self.cost_ticks = 0
        self._rest = make_rest(self._pause)
        self._provider = provider
        self._clock = clock
        self._after = after
        self._now = now
        self._closing = threading.Event()
        self._never = threading.Event()
        self._settled = threading.Event()
        self._settled.set()
        self._lane = Lane("qai-billing")
        self._lock = threading.Lock()  # guards everything below, and cost_ticks
        self._session: RealtimeSession | None = None
        self._life = _TOKEN_LIFE
        self._token_until = 0.0
        self._open: dict[str, float] = {}  # session id -> when it was minted
        self._ending: set[str] = set()  # their end is under way
        self._end_lanes: list[Lane] = []
        self._timer: Any = None
        self._question: _Question | None = None
        self._doing = ""  # the call that runs in the billing thread
        self._pending = 0
        self._moving_money = 0  # those of them that mint or end
        self._over = False
        self._stopped = False
        self._end_by: float | None = None
        self._failed_mint: BaseException | None = None

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads of the REST calls, once there are any."""
        return [lane.thread for lane in (self._lane, *self._end_lanes) if lane.thread is not None]

    @property
    def session(self) -> RealtimeSession | None:
        """The session as it is now, or was last, with its credentials."""
        return self._session

    # -- for the reader, which waits -------------------------------------------------------------------------------------------

    def obtain(self, timeout: float, body: Mapping[str, Any]) -> RealtimeSession:
        """Return a session to connect with: a new one, or after a loss the same with a new token.

        Where a new token cannot be had because the gateway is away, the old one serves for as long as it lives. What has no token to
        refresh (a signed URL) is ended, and a new session is minted, with ``body``.

        Raises: `ApiError`, `ConnectError`, `RealtimeTimeoutError` after ``timeout`` seconds.
        """
        deadline = self._clock() + timeout
        with self._lock:
            session = self._session
            refreshable = session is not None and session.session_id in self._open and bool(session.ephemeral_token)
            alive = self._token_until - self._clock() > _GRACE
        if session is None or not refreshable:
            return self._ask(lambda question: self._mint(question, body, deadline), deadline)
        limit = min(deadline, self._clock() + timeout / 2) if alive else deadline
        try:
            return self._ask(lambda _: self._refresh(session, limit), limit, vital=False)
        except (ConnectError, RealtimeTimeoutError) as error:
            if not alive or self._over:
                raise
            _log.info("session %s goes on with the token it has: %s", session.session_id, error)
            return session
        except ApiError as error:
            if alive and (_was_not_taken(error) or _is_from_elsewhere(error)):
                _log.info("session %s goes on with the token it has: %s", session.session_id, error)
                return session
            if not error.is_not_found and error.code not in _EXPIRED:
                raise
            return self._ask(lambda question: self._mint(question, body, deadline), deadline)

    def may_repeat(self, error: BaseException) -> bool:
        """False for a failed minting that may have been charged all the same: it is never tried again by itself."""
        return error is not self._failed_mint

    def _ask(self, action: Callable[[_Question], RealtimeSession], deadline: float, *, vital: bool = True) -> RealtimeSession:
        question = _Question()

        def run() -> None:
            try:
                question.answer = action(question)
            except Exception as error:  # handed to the thread that waits
                question.answer = error
            question.settled.set()

        with self._lock:
            self._question = question
        if self._over or not self._post(run, vital=vital):
            raise _cancelled()
        question.settled.wait(max(0.0, deadline - self._clock()) + _GRACE)
        with self._lock:
            self._question = None
            answer = question.answer
            question.abandoned = answer is None
        if answer is None and self._over:
            raise _cancelled()
        if answer is None:
            late = RealtimeTimeoutError("the gateway did not answer in time; give more with connect_timeout=, or connect(timeout=)")
            self._failed_mint = late if self._doing == "mint" else self._failed_mint
            raise late
        if isinstance(answer, Exception):
            raise answer
        return answer

    # -- for whoever ends ------------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """The client is closing: who waits in `obtain` stops waiting, and nothing is minted or refreshed from now on."""
        with self._lock:
            self._over = True
            question = self._question
        self._closing.set()
        if question is not None:
            question.settled.set()

    def limit(self, seconds: float) -> None:
        """The bill must be settled within so many seconds from now (else each attempt gets two)."""
        with self._lock:
            self._end_by = self._clock() + seconds

    def finish(self) -> None:
        """The conversation is over: settle, and let the thread end after that. Returns at once, see `wait`; once is enough."""
        self.give_up()
        with self._lock:
            due, self._open = self._open, {}
            self._ending |= due.keys()
            if due:
                self._settled.clear()  # already now: whoever else ends it looks at that before their end is queued
            now = self._clock()
            busy = self._doing == "refresh"
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for session_id, minted_at in due.items():
            self._post(lambda id=session_id, at=minted_at: self._end(id, now - at), apart=busy)  # type: ignore[misc]
        self._stop_when_idle()

    def wait(self, timeout: float) -> bool:
        """Wait until nothing is minted or ended any more; False if ``timeout`` seconds were not enough. A refresh is not waited for."""
        return self._settled.wait(timeout)

    def report_unsettled(self) -> None:
        """The process ends now: name in the log what could not be settled before."""
        with self._lock:
            left, self._ending = self._ending, set()
            minting = self._doing == "mint"
        for session_id in sorted(left):
            _log.error("session %s: the process ended before the gateway had confirmed its end; it may be metered further", session_id)
        if minting:
            _log.error("the process ended while a session was being minted; if the gateway granted it, it is metered until it notices")

    # -- in the billing thread -------------------------------------------------------------------------------------------------

    def _post(self, action: Callable[[], None], *, apart: bool = False, vital: bool = True) -> bool:
        """Queue an action, behind the others or ``apart`` from them; ``vital`` if it moves money. False when it is too late for any."""
        lane = Lane("qai-billing-end") if apart else self._lane
        with self._lock:
            if self._stopped:
                return False
            self._pending += 1
            if vital:
                self._moving_money += 1
                self._settled.clear()
                _unsettled.add(self)
            if apart:
                self._end_lanes.append(lane)

        def run() -> None:
            try:
                action()
            finally:
                self._done(vital)

        lane.post(run)
        if apart:
            lane.stop()
        return True

    def _done(self, vital: bool) -> None:
        with self._lock:
            self._pending -= 1
            self._moving_money -= vital
            if not self._moving_money and not self._ending:
                if not self._open:
                    _unsettled.discard(self)
                self._settled.set()
        self._stop_when_idle()

    def _stop_when_idle(self) -> None:
        with self._lock:
            if not self._over or self._pending or self._open or self._ending:
                return  # also while another thread is about to queue the end of a session
            self._stopped = True
        self._lane.stop()

    def _pause(self, seconds: float) -> None:
        """Wait for a replay; an `end` is waited for also while the client closes.

        Raises: `ConnectError` when the client closes.
        """
        if self._doing and threading.current_thread() is self._lane.thread:
            if self._closing.wait(seconds):
                raise _cancelled()
        else:
            self._never.wait(seconds)

    def _mint(self, question: _Question, body: Mapping[str, Any], deadline: float) -> RealtimeSession:
        self._end_earlier(deadline)
        if question.abandoned or self._over:
            raise _cancelled()
        self._doing = "mint"
        try:
            left = max(_LEAST, deadline - self._clock())
            session = self._rest.create_session(self._provider or None, timeout=left, **body)
        except Exception as error:
            if not _was_not_charged(error):
                self._failed_mint = error
            raise
        finally:
            self._doing = ""
        self._charged()
        minted_at = self._clock()
        with self._lock:
            too_late = self._over or question.abandoned
            if not too_late:
                self._session = session
                self._life = self._life_of(session)
                if session.session_id:
                    self._open[session.session_id] = minted_at
            elif session.session_id:
                self._ending.add(session.session_id)
        if too_late:
            if session.session_id:
                self._end(session.session_id, self._clock() - minted_at, _END_TIMEOUT)
            raise _cancelled()
        self._watch(session)
        return session

    def _refresh(self, session: RealtimeSession, deadline: float) -> RealtimeSession:
        with self._lock:  # so that `finish` either sees it or comes before it
            if self._over:
                raise _cancelled()
            self._doing = "refresh"
        try:
            left = min(_REFRESH_TIMEOUT, max(_LEAST, deadline - self._clock()))
            token = self._rest.refresh_session(session.session_id, timeout=left)
        finally:
            self._doing = ""
        self._charged()
        renewed = attrs.evolve(session, ephemeral_token=token, expires_at=None)
        with self._lock:
            self._session = renewed
        self._watch(renewed)
        return renewed

    def _life_of(self, session: RealtimeSession) -> float:
        """How many seconds each of its tokens lives."""
        life = session.expires_in
        if life is None and session.expires_at is not None:
            life = session.expires_at - self._now()
        return min(life, _LONGEST_LIFE) if life is not None and life > 0 else _TOKEN_LIFE  # also where it is no number at all

    def _watch(self, session: RealtimeSession) -> None:
        """Ask for a new token after four fifths of its life."""
        self._token_until = self._clock() + self._life
        if session.ephemeral_token and session.session_id:
            self._arm(max(_SOONEST, self._life * _REFRESH_AT), session.session_id)

    def _arm(self, seconds: float, session_id: str) -> None:
        timer = self._after(seconds, lambda: self._keep_soon(session_id))
        with self._lock:
            wanted = not self._over and session_id in self._open
            unwanted = self._timer if wanted else timer
            if wanted:
                self._timer = timer
        if unwanted is not None:
            unwanted.cancel()

    def _keep_soon(self, session_id: str) -> None:
        with self._lock:
            wanted = not self._over and session_id in self._open
        if wanted:
            self._post(lambda: self._keep(session_id), vital=False)

    def _keep(self, session_id: str) -> None:
        """Refresh during the conversation: asked once for each token, again only when that was not even looked at."""
        with self._lock:
            session = self._session
            wanted = session_id in self._open
        if session is None or session.session_id != session_id or not wanted:
            return
        try:
            self._refresh(session, self._token_until)
        except RealtimeError as error:
            left = self._token_until - self._clock()
            if _was_not_taken(error) and left > _SOONEST:
                wished = getattr(error, "retry_after", None) or 0.0
                self._arm(max(_SOONEST, left / 4, min(wished, left / 2)), session_id)
            elif not self._over:
                _log.warning(
                    "the token of session %s could not be refreshed (%s): the conversation goes on, but the service may end it when "
                    "the token has expired, and the client would then have to reconnect",
                    session_id,
                    error,
                )

    def _charged(self) -> None:
        """The gateway says with each answer what it cost."""
        with self._lock:
            self.cost_ticks += self._rest.last_response.cost_ticks

    def _end_earlier(self, deadline: float) -> None:
        """End what an earlier connection had, before the next is minted. An attempt that was not even looked at does not count.

        Raises: `ConnectError` if it could not be sent, `ApiError` where there were too many requests (429).
        """
        with self._lock:
            due, self._open = self._open, {}
            self._ending |= due.keys()
        for session_id, minted_at in due.items():
            error = self._try_to_end(session_id, self._clock() - minted_at, min(_END_TIMEOUT, max(_LEAST, (deadline - self._clock()) / 3)))
            if error is None:
                continue
            with self._lock:
                put_off = _was_not_taken(error) and not self._over  # nobody looks at it any more once that is so
                if put_off:
                    self._open[session_id] = minted_at
                    self._ending.discard(session_id)
            if put_off:
                raise error
            self._name(session_id, error)

    def _end(self, session_id: str, duration: float, timeout: float | None = None) -> None:
        if timeout is None:
            with self._lock:
                left = _END_TIMEOUT if self._end_by is None else self._end_by - self._clock() - _LEAST
            timeout = min(_END_TIMEOUT, max(_LEAST, left))
        error = self._try_to_end(session_id, duration, timeout)
        if error is not None:
            self._name(session_id, error)

    def _try_to_end(self, session_id: str, duration: float, timeout: float) -> RealtimeError | None:
        try:
            self._rest.end_session(session_id, max(0.0, duration), timeout=timeout)
        except RealtimeError as error:
            return error
        except Exception as error:  # a bug must not leave a session without its line in the log
            return RealtimeError(f"{type(error).__name__}: {error}")
        self._charged()
        with self._lock:
            self._ending.discard(session_id)
        return None

    def _name(self, session_id: str, error: RealtimeError) -> None:
        with self._lock:
            unnamed = session_id in self._ending
            self._ending.discard(session_id)
        if unnamed:
            _log.error("session %s could not be ended (%s): the gateway meters it until it notices by itself", session_id, error)


def _cancelled() -> ConnectError:
    return ConnectError("the client was closed while a session was being minted", code="cancelled")


def _was_not_taken(error: RealtimeError) -> bool:
    """A request that never left, or a 429, which comes before anything else (source: gateway, retries): it may be sent again."""
    return error.code in _NOT_SENT or (isinstance(error, ApiError) and error.status_code == 429)


def _is_from_elsewhere(error: ApiError) -> bool:
    """The gateway is away, and what stands before it has answered: a 5xx, a redirect, a page that is no JSON."""
    return error.status_code >= 500 or 300 <= error.status_code < 400 or error.code == "invalid_response"


def _was_not_charged(error: Exception) -> bool:
    """A refusal before any charge (4xx), or a request that never left (source: gateway, retries)."""
    return (isinstance(error, ApiError) and 400 <= error.status_code < 500) or getattr(error, "code", "") in _NOT_SENT
