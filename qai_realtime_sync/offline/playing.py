"""What a service takes to be heard of its answers: sound plays in real time from when it was sent, one piece after the other."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from qai_realtime_sync.offline.items import Item

__all__ = ["Cut", "Playing"]


@attrs.frozen
class Cut:
    """What was meant to be said, and what was heard of it."""

    original: str
    heard: str


class Playing:
    """The sound of one turn of the assistant. Belongs to who holds the conversation's lock; ``clock`` returns seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pieces: list[tuple[Item, float, int]] = []  # whose sound, when it begins to be heard, milliseconds
        self._silent_at = 0.0
        self.items: list[Item] = []

    def begin(self) -> None:
        """Another turn begins; what came before is not talked about any more."""
        self._pieces.clear()
        self.items = []

    def sent(self, item: Item, duration_ms: int) -> None:
        """A piece of sound went out; 0 ms for words that are only written."""
        if not any(one is item for one in self.items):
            self.items.append(item)
        if duration_ms:
            starts = max(self._clock(), self._silent_at)
            self._pieces.append((item, starts, duration_ms))
            self._silent_at = starts + duration_ms / 1000

    @property
    def seconds_left(self) -> float:
        """How long the sound that was sent still plays."""
        return max(0.0, self._silent_at - self._clock()) if self._pieces else 0.0

    def cut(self) -> Cut:
        """The listener hears no more of it: every item keeps the words that were heard until now."""
        now = self._clock()
        original = " ".join(item.planned or item.text.strip() for item in self.items)
        for item in self.items:
            if item.content == "audio":
                heard = sum(min(length, max(0.0, (now - starts) * 1000)) for one, starts, length in self._pieces if one is item)
                item.cut(min(int(heard), item.generated_ms))
        heard_text = " ".join(item.text.strip() for item in self.items if item.text.strip())
        self._pieces.clear()
        self._silent_at = now
        return Cut(original, heard_text)
