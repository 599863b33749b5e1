"""The connection: frames in, frames out, close, abort. Knows `seam.Frame` and the errors, nothing of events and dialects."""

from __future__ import annotations

from qai_realtime_sync.transport.attempt import Cancellation
from qai_realtime_sync.transport.connecting import connect
from qai_realtime_sync.transport.connection import Connection

__all__ = ["Cancellation", "Connection", "connect"]
