"""The command line: ``qai-realtime …``, also ``python -m qai_realtime_sync``."""

from __future__ import annotations

from qai_realtime_sync.cli.program import main

__all__ = ["main"]
