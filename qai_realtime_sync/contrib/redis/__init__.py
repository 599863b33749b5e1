"""One conversation on many machines: its owner shares it over Redis, any worker watches it and commands it, and a dead owner's is ended.

`share` is for the process that has the client, `Conversations` for all others, `clean` or `Cleaner` for what a dead process left.
Needs the extra ``redis`` and a Redis server from version 5 on.
"""

from __future__ import annotations

from qai_realtime_sync.contrib.redis.about import About
from qai_realtime_sync.contrib.redis.cleaner import Cleaned, Cleaner, clean
from qai_realtime_sync.contrib.redis.owner import Owner, share
from qai_realtime_sync.contrib.redis.remote import Conversations, NotAllowedError, Outcome, Remote
from qai_realtime_sync.contrib.redis.watching import PublishedEvent

__all__ = [
    "About",
    "Cleaned",
    "Cleaner",
    "Conversations",
    "NotAllowedError",
    "Outcome",
    "Owner",
    "PublishedEvent",
    "Remote",
    "clean",
    "share",
]
