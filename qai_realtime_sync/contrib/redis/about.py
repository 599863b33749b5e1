"""`About`: what the registry knows of a conversation, and how it is written there."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from qai_realtime_sync.dialects import wire

__all__ = ["About"]


@attrs.frozen(kw_only=True)
class About:
    """One shared conversation: who owns it, since when, and what is needed to bill it.

    ``owner`` is the process (host and process id, or the name it was given), ``labels`` what the program said of it. ``session_id`` is
    that of a minted session (``""`` = none, nothing to settle), ``metered_from`` when the owner first had it, by its own count. Times
    are unix seconds by the clock of the Redis server; ``seen`` is the owner's last sign of life, ``ended`` ``None`` while it goes on.
    ``number`` is that of the last event when it was seen.
    """

    conversation_id: str
    owner: str = ""
    labels: Mapping[str, str] = attrs.field(factory=dict)
    session_id: str = ""
    provider: str = ""
    started: float = 0.0
    metered_from: float = 0.0
    seen: float = 0.0
    number: int = 0
    claims: int = 0
    ended: float | None = None
    reason: str = ""

    @property
    def metered_seconds(self) -> float:
        """How long the minted session was in use as far as is known: until the owner was last seen."""
        return max(0.0, self.seen - self.metered_from)

    @classmethod
    def read(cls, conversation_id: str, fields: Mapping[str, str]) -> About:
        """Read what Redis holds; what is missing takes its default."""
        labels = wire.loads(fields.get("labels") or "{}")
        return cls(
            conversation_id=conversation_id,
            owner=fields.get("owner", ""),
            labels=labels,
            session_id=fields.get("session_id", ""),
            provider=fields.get("provider", ""),
            started=_seconds(fields, "started"),
            metered_from=_seconds(fields, "metered_from"),
            seen=_seconds(fields, "seen"),
            number=int(fields.get("number") or 0),
            claims=int(fields.get("claims") or 0),
            ended=_seconds(fields, "ended") if "ended" in fields else None,
            reason=fields.get("reason", ""),
        )


def _seconds(fields: Mapping[str, str], name: str) -> float:
    return int(fields.get(name) or 0) / 1000
