"""Takes from an error the frames it came through: their locals hold keys and headers, and crash reporters send locals."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["without_frames"]

E = TypeVar("E", bound=BaseException)


def without_frames(error: E) -> E:
    """Drop the tracebacks of an error and of all its causes, in place, and return it; messages, codes and causes stay."""
    waiting: list[BaseException] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = None
        waiting += [cause for cause in (one.__cause__, one.__context__) if cause is not None]
    return error
