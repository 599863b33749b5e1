"""What dialects, transport, conversation and client hand each other; data only.

A dialect turns `Frame` objects into events and commands into `Frame` objects; the transport moves them; the client joins both and
learns from `Traits` and `Ending` what it must know of a service, so that it never asks for a dialect's name.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from qai_realtime_sync.commands import Command
from qai_realtime_sync.config import AudioFormat
from qai_realtime_sync.fields import FrozenByFields

__all__ = ["Ending", "Frame", "Handshake", "Resume", "Traits"]


@attrs.define(slots=True, eq=True)
class Frame:
    """One whole WebSocket message.

    ``payload`` is bytes, or a memoryview that is valid until the next frame is read. ``text`` says that it came, or goes, as a
    text message; the transport says which of them it has checked to be UTF-8. ``start`` is where a memoryview begins in its ``obj``,
    where that is known: a view cannot be searched, its object can.
    """

    payload: bytes | memoryview
    text: bool = True
    start: int | None = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Resume(FrozenByFields):
    """What a new connection may continue from: the newest handle the service gave (an xAI conversation id, a Gemini handle)."""

    handle: str


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Handshake(FrozenByFields):
    """How one connection is opened: where to, with which headers, and what to say first.

    ``url`` and ``headers`` may hold credentials and are left out of the text form. ``commands`` are sent as soon as the socket is
    open. ``timeout`` is the service's usual limit in seconds, from DNS to readiness.
    """

    url: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    subprotocols: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    timeout: float = 10.0


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Traits(FrozenByFields):
    """What the rest of the library must know of a service without asking for its name."""

    answers_by_itself: frozenset[type[Command]] = frozenset()
    """Commands the service answers without a `CreateResponse`."""
    unsupported: frozenset[type[Command]] = frozenset()
    """Commands that raise `UnsupportedCommandError`, known before they are encoded."""
    resumable: bool = False
    """A lost connection can be continued with the handle of a `ResumptionUpdate`."""
    two_connections: bool = True
    """A new connection may be opened before the old one is closed."""
    configures_once: bool = False
    """The configuration is fixed after the first frame."""
    voice_fixed_by_audio: bool = False
    """The voice cannot change any more once the assistant has spoken."""
    fixed_input: AudioFormat | None = None
    """The one audio format that can be sent, or ``None`` if the configuration decides."""
    fixed_output: AudioFormat | None = None
    """The one audio format that arrives, or ``None`` if the configuration decides."""
    speech_events: bool = True
    """`SpeechStarted` and `SpeechStopped` are told."""
    items: bool = True
    """Messages are items with ids."""
    announces_ends: bool = True
    """The end of every answer is told; else the last one of a conversation may have none."""
    session_cap: float | None = None
    """Longest life of one connection in seconds, or ``None`` if not known."""


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Ending(FrozenByFields):
    """What the end of a connection means: ``meaning`` is a word of `Closed.meaning`.

    ``retry`` says if a new one may be worth trying.
    """

    meaning: str
    retry: bool
