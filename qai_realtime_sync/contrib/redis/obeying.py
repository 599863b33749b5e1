"""The owner's side of a command: what is asked for, done once, and its outcome told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from qai_realtime_sync.audio import b64decode
from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.commands import COMMANDS, command_from_dict
from qai_realtime_sync.contrib.redis import scripts
from qai_realtime_sync.contrib.redis.store import KEPT, KEPT_SHORT, Keys, Store
from qai_realtime_sync.dialects import wire
from qai_realtime_sync.errors import ConfigError, ConnectError, RealtimeError

__all__ = ["obey", "perform"]

_log = logging.getLogger("qai_realtime_sync")
_TRY_AGAIN: Final = 0.5


def _end(client: RealtimeClient, value: Mapping[str, Any]) -> None:
    client.close(reason=str(value.get("reason", "")))


def _interrupt(client: RealtimeClient, value: Mapping[str, Any]) -> None:
    client.interrupt()


def _send_text(client: RealtimeClient, value: Mapping[str, Any]) -> str:
    item_id, respond = value.get("item_id", ""), value.get("respond", False)
    if not isinstance(item_id, str) or not isinstance(respond, bool):
        raise ConfigError("send_text takes an item_id that is text, and respond true or false", code="invalid_command")
    return client.send_text(value.get("text", ""), item_id=item_id, respond=respond)


_METHODS: Final[Mapping[str, Callable[[RealtimeClient, Mapping[str, Any]], str | None]]] = {
    "end": _end,
    "interrupt": _interrupt,
    "send_text": _send_text,
}
"""What is more than one command of the wire; every other name is a command's own. ``respond`` asks for the answer to a text."""
_KINDS: Final[Mapping[str, type]] = {kind.__name__: kind for kind in (str, int, bool, bytes)}


def perform(client: RealtimeClient, value: Mapping[str, Any]) -> str:
    """Do what a command in its JSON spelling says; bytes come as ``…_base64``. Returns the event id, or ``""``. Raises: `RealtimeError`."""
    method = _METHODS.get(str(value.get("name")))
    if method is not None:
        return method(client, value) or ""
    try:
        fields = {key.removesuffix("_base64"): b64decode(given) if key.endswith("_base64") else given for key, given in value.items()}
    except (ValueError, TypeError) as error:
        raise ConfigError(f"bytes must come as base64: {error}", code="invalid_command") from None
    for field in attrs.fields(COMMANDS[name]) if (name := str(fields.get("name"))) in COMMANDS else ():
        # A number would be its length, of silence that is made here: as many bytes as somebody elsewhere likes.
        if field.type in ("bytes", bytes) and not isinstance(fields.get(field.name, b""), bytes):
            raise ConfigError(f"{field.name} of {name} must come as base64, named {field.name}_base64", code="invalid_command")
    command = command_from_dict(fields, client.config.input_audio)
    for field in attrs.fields(type(command)):
        given, kind = getattr(command, field.name), _KINDS.get(getattr(field.type, "__name__", str(field.type)))
        if kind is not None and type(given) is not kind:
            raise ConfigError(f"{field.name} of {command.command_name} cannot be {given!r}", code="invalid_command")
    return client.send_event(command)


def obey(
    client: RealtimeClient,
    store: Store,
    keys: Keys,
    token: str,
    entry_id: str,
    fields: Mapping[str, str],
    stopped: Callable[[float], bool],
) -> None:
    """Do the command of one entry, unless it was done or withdrawn before, and tell the outcome.

    ``stopped(seconds)`` waits, and says whether it is time to stop.

    Raises: `ConnectError` when Redis is away before "taken" is noted: then nothing is done, and the entry may be given again.
    """
    command_id = fields.get("id", "")
    if not command_id:
        return  # only a call to look up
    keep = KEPT if fields.get("named") else KEPT_SHORT  # only who gave it an id can give it twice
    arguments = (token, entry_id, keep, fields.get("waits", ""))
    taken = store.run(scripts.TAKE, (keys.owner, keys.of_command("taken", command_id)), *arguments)
    if taken != 1:
        return
    outcome = wire.dumps(_outcome(client, fields))
    while True:  # from here on it must not be done again, whatever happens
        try:
            return store.answer(keys.of_command("outcome", command_id), outcome, keep, keys.commands, entry_id)
        except ConnectError:
            if stopped(_TRY_AGAIN):
                return None


def _outcome(client: RealtimeClient, fields: Mapping[str, str]) -> dict[str, str]:
    try:
        value = wire.loads(fields.get("command", ""))
        if not isinstance(value, dict):
            raise ConfigError(f"a command is an object with a name, not {value!r}", code="invalid_command")
        return {"state": "done", "event_id": perform(client, value)}
    except RealtimeError as error:
        return {"state": "refused", "kind": type(error).__name__, "code": str(error.code or ""), "message": error.message}
    except Exception as error:  # a command that no method of ours can take must not end the sharing
        _log.warning("a command from elsewhere failed", exc_info=error)
        return {"state": "refused", "kind": "ConfigError", "code": "invalid_command", "message": f"{type(error).__name__}: {error}"}
