"""A conversation's events as lines of JSON: ``{"at": seconds, "name": …, fields}``, sound left out."""

from __future__ import annotations

import time
from collections.abc import Callable

from qai_realtime_sync import AudioDelta, Event, RealtimeClient
from qai_realtime_sync.cli.terminal import json_line

__all__ = ["follow_as_json"]


def follow_as_json(
    client: RealtimeClient,
    *,
    seconds: Callable[[], float] | None = None,
    background: bool = True,
    cut_off: Callable[[], object] | None = None,
) -> None:
    """Print every event of a client that carries no sound, in the spelling of a recording's ``events.jsonl``.

    ``seconds`` gives the time of each; without it they count from now. ``cut_off`` is called once when nothing can be written any more.
    """
    begun = time.monotonic()
    now = seconds or (lambda: time.monotonic() - begun)
    over = False

    def tell(event: Event) -> None:
        nonlocal over
        if over or isinstance(event, AudioDelta):
            return
        try:
            json_line({"at": round(now(), 3), **event.to_dict()})
        except OSError:  # nobody reads any more, or the disk is full: who prints the result stumbles over it too
            over = True
            if cut_off is not None:
                cut_off()

    client.on(Event, tell, background=background)
