"""Watches over one running call: its minutes are paid, and its token is refreshed in time, or it ends."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from qai_realtime_sync.offline.ledger import Ledger

__all__ = ["Meter", "meter"]

_POLICY_VIOLATION = 1008  # the gateway's own codes are not known; it says why in the reason


class Meter:
    """Ends a call with ``hang_up(code, reason)`` when there is no money for its next minute, or its token has expired."""

    def __init__(self, ledger: Ledger, session_id: str, number: int, hang_up: Callable[[int, str], None]) -> None:
        self._ledger, self._session_id, self._hang_up = ledger, session_id, hang_up
        self._paid_until = ledger.paid_until(session_id) if session_id else time.time() + ledger.tariff.minute
        self._over = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"qai-offline-meter-{number}", daemon=True)
        self.thread.start()

    def end(self) -> threading.Thread:
        """The call is over; return the thread, which is about to end."""
        self._over.set()
        return self.thread

    def _run(self) -> None:
        ledger, tariff = self._ledger, self._ledger.tariff
        while True:
            expires = ledger.token_until(self._session_id) if tariff.cut_expired else math.inf
            paid = self._paid_until if tariff.balance_ticks is not None else math.inf
            if self._over.wait(min(threading.TIMEOUT_MAX, max(0.0, min(expires, paid) - time.time()))):
                return
            now = time.time()
            if tariff.cut_expired and now >= ledger.token_until(self._session_id):
                self._hang_up(_POLICY_VIOLATION, "ephemeral token expired")
                return
            if now >= paid:
                if not ledger.pay_minute(self._session_id):
                    self._hang_up(_POLICY_VIOLATION, "insufficient balance")
                    return
                self._paid_until = ledger.paid_until(self._session_id) if self._session_id else paid + tariff.minute


def meter(ledger: Ledger, session_id: str, path: str, number: int, hang_up: Callable[[int, str], None]) -> Meter | None:
    """Return a meter for calls that need one: of a minted session, or through the gateway's proxy, and only if something can run out."""
    billed = ledger.tariff.balance_ticks is not None and (session_id or path.startswith("/qai/"))
    cut = ledger.tariff.cut_expired and session_id
    return Meter(ledger, session_id, number, hang_up) if billed or cut else None
