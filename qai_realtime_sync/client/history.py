"""What a service that kept nothing is told after a reconnect: the conversation as it was heard, as context, oldest first."""

from __future__ import annotations

from collections.abc import Iterable

from qai_realtime_sync.commands import SendContext
from qai_realtime_sync.turns import Turn

__all__ = ["MAX_HISTORY", "history_commands"]

MAX_HISTORY = 16_000
"""Characters of history that are given again at most; the newest turns win. About 4,000 tokens."""


def history_commands(turns: Iterable[Turn], limit: int = MAX_HISTORY) -> list[SendContext]:
    """Return the turns as context of user and assistant, in order, the newest ``limit`` characters of them.

    Of an answer that was cut off, only what was heard is told: the model must not refer to what nobody heard.
    """
    told: list[SendContext] = []
    left = limit
    for turn in reversed(list(turns)):
        for role, text in (("assistant", turn.heard), ("user", turn.user)):
            if not text:
                continue
            left -= len(text)
            if left < 0:
                return told[::-1]
            told.append(SendContext(text=text, role=role))
    return told[::-1]
