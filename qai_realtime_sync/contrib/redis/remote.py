"""`Conversations` and `Remote`: watch, speak, interrupt, end and list conversations that other processes own."""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final, Literal

import attrs

from qai_realtime_sync import errors
from qai_realtime_sync.audio import b64encode
from qai_realtime_sync.commands import COMMANDS, Command
from qai_realtime_sync.contrib.redis import scripts
from qai_realtime_sync.contrib.redis.about import About
from qai_realtime_sync.contrib.redis.store import DAY, KEPT, Keys, Store
from qai_realtime_sync.contrib.redis.watching import PublishedEvent, position, sse, watch
from qai_realtime_sync.contrib.sse import Shown
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.errors import ConfigError, ConnectError, NotConnectedError, RealtimeError, RealtimeTimeoutError

__all__ = ["Conversations", "NotAllowedError", "Outcome", "Remote", "named"]

_MOST_COMMANDS: Final = 1000
_TRY_AGAIN: Final = 0.2
_pause: Final = threading.Event()  # never set: only waited for
_SPEAKING = ("send_text", "send_audio", "commit_audio", "clear_audio", "send_image", "create_response")
_ACTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(_SPEAKING, "speak"),
    **dict.fromkeys(("interrupt", "cancel_response"), "interrupt"),
    "end": "end",
}
"""What a user must be allowed for a command; for every other, ``control``."""


class NotAllowedError(RealtimeError, PermissionError):
    """The program's own rule says that this user may not do this with this conversation."""

    code = "not_allowed"


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a command: ``done`` (with its event id), ``refused`` (with the error), ``unknown`` (begun, and no answer came).

    ``refused`` is sure: it was not done, and will not be. Only after ``unknown`` it may have been.
    """

    state: str
    event_id: str = ""
    error: RealtimeError | None = None

    def check(self) -> Outcome:
        """Return itself if it was done. Raises: the error of what was refused; `RealtimeTimeoutError` if nobody knows."""
        if self.error is not None:
            raise self.error
        return self


class Conversations:
    """All shared conversations, from any worker on any machine. Making one opens nothing; use it from any thread.

    ``redis``: an address or a client of the package `redis`. ``authorise(user, about, action)`` says whether this user may do this:
    ``list``, ``watch``, ``speak``, ``interrupt``, ``end`` or ``control`` (every other command); ``user`` is whatever your program gives,
    ``about`` an `About`. Without it everybody may do everything: then your program must ask before it calls.
    """

    def __init__(self, redis: Any, *, authorise: Callable[[Any, About, str], bool] | None = None) -> None:
        self._store = Store(redis)
        self._authorise = authorise

    def close(self) -> None:
        """Close the connections that were made from an address; who waits on one gets a `ConnectError` (code ``redis_closed``)."""
        self._store.close()

    def __enter__(self) -> Conversations:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def list(self, user: Any = None) -> list[About]:
        """The conversations that go on and that ``user`` may see, the oldest first. Raises: `ConnectError`."""
        found = [about for about in self._store.about(self._store.live()) if about.ended is None and self._may(user, about, "list")]
        return sorted(found, key=lambda about: about.started)

    def get(self, conversation_id: str, user: Any = None) -> Remote:
        """One conversation, on behalf of ``user``; what that user may do is asked at each call. Raises: `ConfigError`."""
        return Remote(self._store, conversation_id, user, self._may)

    def _may(self, user: Any, about: About, action: str) -> bool:
        return self._authorise is None or bool(self._authorise(user, about, action))


class Remote:
    """A conversation that another process owns; made by `Conversations.get`.

    Every method raises `NotConnectedError` (code ``unknown_conversation``) if there is no such conversation, `NotAllowedError` if the
    user may not, and `ConnectError` if Redis is away: then nothing was sent. ``timeout`` of a command is in seconds, which are whole ones
    of Redis; what the owner did not begin by then is withdrawn. A Redis that goes away meanwhile is waited for until then.
    """

    def __init__(self, store: Store, conversation_id: str, user: Any, may: Callable[[Any, About, str], bool]) -> None:
        self.conversation_id = conversation_id
        self._store, self._user, self._may = store, user, may
        self._keys = Keys(conversation_id)

    def about(self, action: str = "watch") -> About:
        """What is known of it, also for a while after its end; for who may do ``action``."""
        found = self._store.about([self.conversation_id])
        if not found:
            raise NotConnectedError(f"there is no conversation {self.conversation_id!r}, or it is long over", code="unknown_conversation")
        if not self._may(self._user, found[0], action):
            raise NotAllowedError(f"this user may not {action} the conversation {self.conversation_id!r}")
        return found[0]

    # -- watching ------------------------------------------------------------------------------------------------------------

    def events(self, after: str | int | None = None) -> Iterator[PublishedEvent]:
        """The events behind ``after`` and those to come, until the conversation is over; each once and in order.

        ``after``: the id of the last event that is known, None for all that are kept, ``"$"`` for only what comes. What was trimmed
        since then is counted in `PublishedEvent.lost`. Raises in the iteration: `ConnectError` after half a minute without Redis.
        """
        self.about("watch")
        found = self._watch(after, 1.0)
        return (one for one in found if one is not None)

    def sse(
        self,
        last_event_id: str | int | None = None,
        *,
        events: Collection[str] | Literal["all"] | None = None,
        heartbeat: float = 5.0,
    ) -> Iterator[bytes]:
        """The same as server-sent events, for any framework: give it the request's ``Last-Event-ID`` and send what it yields.

        ``events``: names; ``None`` stands for what a page may know (`contrib.sse.FOR_A_PAGE`), ``"all"`` for all. ``heartbeat``: seconds
        after which a comment is sent where nothing else is, so that a browser that is gone is noticed. A gap is told as ``missed``.

        Raises: `ConfigError` for an id that is none, a name that no event has, or a heartbeat that is none.
        """
        if isinstance(heartbeat, bool) or not isinstance(heartbeat, (int, float)) or not heartbeat > 0:
            raise ConfigError(f"heartbeat must be a number of seconds above 0, not {heartbeat!r}")
        self.about("watch")
        return sse(self._watch(last_event_id, heartbeat), Shown.choose(events), heartbeat)

    def is_over(self, last_event_id: str | int | None = None) -> bool:
        """True if the conversation has ended and nothing is left to tell behind this id: answer 204, and a browser asks no more."""
        ended = self.about("watch").ended is not None
        return ended and self._after(last_event_id) >= self._after("$")

    def _after(self, after: str | int | None) -> int:
        return position(after, lambda: self._store.last(self._keys.events))

    def _watch(self, after: str | int | None, idle: float) -> Iterator[PublishedEvent | None]:
        return watch(self._store, self._keys, self._after(after), idle)

    # -- commanding ----------------------------------------------------------------------------------------------------------

    def send_text(self, text: str, *, respond: bool = True, timeout: float = 10.0, command_id: str = "") -> Outcome:
        """Say something in writing as the user of the conversation, and have it answered."""
        return self._ask("speak", {"name": "send_text", "text": text, "respond": respond}, timeout, command_id)

    def send_audio(self, audio: bytes, *, timeout: float = 10.0, command_id: str = "") -> Outcome:
        """Send a piece of the user's sound, in the input format of the conversation."""
        return self._ask("speak", {"name": "send_audio", "audio_base64": b64encode(audio).decode()}, timeout, command_id)

    def interrupt(self, *, timeout: float = 10.0, command_id: str = "") -> Outcome:
        """Stop what is being said."""
        return self._ask("interrupt", {"name": "interrupt"}, timeout, command_id)

    def end(self, reason: str = "", *, timeout: float = 10.0, command_id: str = "") -> Outcome:
        """End the conversation and, where it is billed, the session; ``done`` when it is."""
        return self._ask("end", {"name": "end", "reason": reason}, timeout, command_id)

    def send(self, command: Command | Mapping[str, Any], *, timeout: float = 10.0, command_id: str = "") -> Outcome:
        """Send any command: an object of `commands`, or its JSON spelling, ``{"name": "send_context", "text": …}``.

        Bytes travel as base64: in the spelling as ``audio_base64``, ``image_base64``. ``interrupt`` and ``end`` are names too. What is
        neither speaking nor interrupting nor the end needs the right to ``control``, and so does `CreateResponse` with any field:
        instructions, tools and input of an answer replace those of the conversation.

        Raises: `ConfigError` for what has no such name.
        """
        value = _spelled(command)
        name = value.get("name")
        if not isinstance(name, str) or (name not in COMMANDS and name not in ("interrupt", "end")):
            raise ConfigError(f"there is no command {name!r}", code="unknown_command")
        plain = name != "create_response" or value.keys() <= {"name", "event_id"}
        return self._ask(_ACTIONS.get(name, "control") if plain else "control", value, timeout, command_id)

    def _ask(self, action: str, value: Mapping[str, Any], timeout: float, command_id: str) -> Outcome:
        """Leave a command for the owner and wait for its outcome, whole seconds; what was not begun by then is withdrawn.

        ``command_id``: your own, so that the same order given twice is done once, within ten minutes; the second sender learns the
        same outcome. Another order is another one, though it has the same id: nobody can be kept from ending a call by a text's.
        """
        if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 <= timeout < math.inf:
            raise ConfigError(f"timeout must be a number of seconds from 0, not {timeout!r}")
        if not isinstance(command_id, str):
            raise ConfigError(f"command_id must be text, not {command_id!r}")
        about = self.about(action)
        try:
            command = wire.dumps(value).decode()
        except ValueError as error:
            raise ConfigError(f"this command has no JSON form: {error}", code="invalid_command") from None
        fields = {"id": uuid.uuid4().hex, "command": command, "waits": str(math.ceil(timeout + 1) * 1000)}
        if command_id:
            fields |= {"id": named(command_id, command), "named": "1"}
        try:
            return self._exchange(about, fields, timeout)
        except ConnectError as error:
            return _unknown(f"Redis went away before the outcome came: {error}")

    def _exchange(self, about: About, fields: Mapping[str, str], timeout: float) -> Outcome:
        command_id, parts = fields["id"], [part for pair in fields.items() for part in pair]
        if not self._store.run(scripts.ASK, (self._keys.owner, self._keys.commands), _MOST_COMMANDS, DAY, *parts):
            ended = about.ended is not None
            return self._withdraw(command_id, "the conversation has ended" if ended else "the process that owned the conversation died")
        deadline, was_away = time.monotonic() + timeout, False
        while True:
            try:
                found = self._store.await_answer(self._keys.of_command("outcome", command_id))
                if found is not None:
                    return _read(found)
                if not self._store.exists(self._keys.owner):
                    return self._withdraw(command_id, "the process that owned the conversation ended or died", was_away)
                if time.monotonic() >= deadline:
                    return self._withdraw(command_id, f"the owner did not begin it within {timeout:g} s", was_away)
            except ConnectError:
                if time.monotonic() >= deadline:
                    raise
                was_away = True
                _pause.wait(_TRY_AGAIN)

    def _withdraw(self, command_id: str, why: str, was_away: bool = False) -> Outcome:
        """See to it that nobody does it any more; if somebody has begun, look once more for the outcome."""
        taken, outcome = self._keys.of_command("taken", command_id), self._keys.of_command("outcome", command_id)
        if self._store.run(scripts.TAKE, (self._keys.owner, taken), "", "withdrawn", KEPT) == 1:
            if was_away:  # it may have forgotten that somebody had begun
                return _unknown("Redis was away meanwhile, and knows no outcome")
            return Outcome(state="refused", error=NotConnectedError(f"{why}; nothing was done", code="not_done"))
        found = self._store.await_answer(outcome)
        return _read(found) if found is not None else _unknown(f"it was begun, but {why}")


def _unknown(why: str) -> Outcome:
    return Outcome(state="unknown", error=RealtimeTimeoutError(why, code="outcome_unknown"))


def named(command_id: str, command: str) -> str:
    """The id in Redis of an order (its JSON) that was given an id of one's own: the same for the same order, and for no other."""
    order = json.dumps([command_id, wire.loads(command)], sort_keys=True)
    return hashlib.sha256(order.encode()).hexdigest()


def _spelled(command: Command | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(command, Command):
        if not isinstance(command, Mapping):
            raise ConfigError(f"send takes a command or its JSON spelling, not {type(command).__name__}")
        return dict(command)
    value = command.to_dict()
    for field in attrs.fields(type(command)):
        given = getattr(command, field.name)
        if isinstance(given, (bytes, bytearray, memoryview)):
            value.pop(field.name, None)
            value[f"{field.name}_base64"] = b64encode(bytes(given)).decode()
        elif field.name in value and field.name != "name" and isinstance(given, (str, list, Mapping)):
            value[field.name] = given  # what the written form hides is to arrive
    return value


def _read(answer: str) -> Outcome:
    value = wire.loads(answer)
    if value.get("state") == "done":
        return Outcome(state="done", event_id=value.get("event_id", ""))
    kind = getattr(errors, str(value.get("kind")), RealtimeError)
    return Outcome(state="refused", error=kind(value.get("message", ""), code=value.get("code", "")))
