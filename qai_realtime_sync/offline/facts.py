"""What the conversation engine reports, in words of no service; every spelling turns these into its own frames."""

from __future__ import annotations

from typing import TypeAlias

import attrs

from qai_realtime_sync.offline.items import Item, Response

__all__ = [
    "AudioPiece",
    "BufferCleared",
    "BufferCommitted",
    "CallWritten",
    "Fact",
    "Heard",
    "IdleTimeout",
    "ItemAdded",
    "ItemDeleted",
    "ItemTruncated",
    "OutputBegan",
    "OutputEnded",
    "ResponseBegan",
    "ResponseEnded",
    "SpeechBegan",
    "SpeechEnded",
    "TextPiece",
]


@attrs.frozen
class SpeechBegan:
    """The user began to speak ``start_ms`` into all audio sent; ``item`` is what it will become, after the item ``previous``."""

    item: Item
    start_ms: int
    previous: str


@attrs.frozen
class SpeechEnded:
    """The user stopped speaking ``end_ms`` into all audio sent."""

    item: Item
    end_ms: int


@attrs.frozen
class IdleTimeout:
    """Nobody spoke for as long as the session allows."""

    item: Item
    start_ms: int
    end_ms: int


@attrs.frozen
class BufferCommitted:
    """The audio that was sent became an item of the conversation; ``announced`` if its speech was."""

    item: Item
    previous: str
    announced: bool


@attrs.frozen
class BufferCleared:
    """The audio that was sent is forgotten."""


@attrs.frozen
class Heard:
    """What the user seems to have said (``final`` false: so far); ``seconds`` of sound."""

    item: Item
    text: str
    final: bool
    seconds: float


@attrs.frozen
class ItemAdded:
    """An item that the client wrote is part of the conversation now; ``replayed`` if it comes from an earlier connection."""

    item: Item
    previous: str
    replayed: bool = False


@attrs.frozen
class ItemDeleted:
    """An item is no longer part of the conversation."""

    item_id: str


@attrs.frozen
class ItemTruncated:
    """An answer was cut at what was heard; the item holds the text that is left."""

    item: Item
    content_index: int
    audio_end_ms: int


@attrs.frozen
class ResponseBegan:
    """An answer is being made."""

    response: Response


@attrs.frozen
class OutputBegan:
    """A message or a function call of an answer begins."""

    response: Response
    index: int
    item: Item
    previous: str


@attrs.frozen
class AudioPiece:
    """Some sound of a message, in the session's output format."""

    response: Response
    index: int
    item: Item
    audio: bytes
    duration_ms: int


@attrs.frozen
class TextPiece:
    """Some words of a message; ``start_ms`` is where they are heard in its sound (0 when it is only written)."""

    response: Response
    index: int
    item: Item
    text: str
    start_ms: float


@attrs.frozen
class CallWritten:
    """The arguments of a function call, whole."""

    response: Response
    index: int
    item: Item


@attrs.frozen
class OutputEnded:
    """A message or function call is complete, or incomplete for good (``item.status``)."""

    response: Response
    index: int
    item: Item
    previous: str


@attrs.frozen
class ResponseEnded:
    """An answer is over, whatever came of it."""

    response: Response


Fact: TypeAlias = (
    SpeechBegan
    | SpeechEnded
    | IdleTimeout
    | BufferCommitted
    | BufferCleared
    | Heard
    | ItemAdded
    | ItemDeleted
    | ItemTruncated
    | ResponseBegan
    | OutputBegan
    | AudioPiece
    | TextPiece
    | CallWritten
    | OutputEnded
    | ResponseEnded
)
