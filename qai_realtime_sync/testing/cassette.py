"""A recorded conversation as JSON lines, without secrets: how it is written and read, and when two commands are the same.

The first line tells the dialect and when it was recorded. Then, per message and in order: what the client sent, in our words
(``{"connection": 1, "at": 0.1, "direction": "sent", "name": "send_text", "text": "Hello"}``, sound added up as its length), and what the
service sent, by name and as it was (``"direction": "received", "name": "audio_delta", "frame": {…}``), its end (``closed``) or its refusal
(``refused``) too.
"""

from __future__ import annotations

import base64
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import attrs

from qai_realtime_sync.config import redacted
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.tap import Refusal

__all__ = ["Cassette", "Entry", "difference", "frame_of", "refused", "scrubbed", "shown", "spelled_frame"]

VERSION: Final = 1
_SECRETS: Final = re.compile(
    r"(?:\b(?:sk|ek|qai|xai|gsk|cvtkn|auth_tokens)[-_/][A-Za-z0-9_-]{12,}|\bAIza[A-Za-z0-9_-]{30,}|\beyJ[\w-]+\.[\w-]+\.[\w-]+"
    r"|\b(?:gh[opsu]|github_pat)_\w{20,}|\bAKIA[A-Z0-9]{16}\b|\bxox[a-z]-[\w-]{10,}"
    r"|(?<=Bearer )[\w.~+/=-]+|(?<=Basic )[A-Za-z0-9+/]{8,}={0,2}|(?<=://)[^/\s:@\"]*:[^/\s@\"]+(?=@))"
)
_NAME: Final = (
    r"(?:api[_-]?key|passw(?:or)?d|secret|signature|credential|authorization"
    r"|(?:access|refresh|auth|session|client|ephemeral|bearer)[_-]?token)"
)
_SECRET_NAME: Final = re.compile(rf"[\w-]*{_NAME}", re.IGNORECASE)
# A name and its value inside a text: quoted as in JSON, a part of an address, or as people write it (then a word with a digit in it).
_NAMED: Final = re.compile(
    rf"({_NAME}\\*[\"']\s*:\s*\\*[\"'])[^\"'\\]+|([?&](?:[\w-]{{0,40}}{_NAME}|key|token|sig)=)[^&\s\"'\\]+"
    rf"|({_NAME}\s*[:=]\s*)(?=[^\s\"',;&]*\d)[^\s\"',;&]{{8,}}",
    re.IGNORECASE,
)
_REDACTED: Final = "<redacted>"
_SOUND: Final = re.compile(r"[A-Za-z0-9+/]{256,}={0,2}")  # may be sound, and is left alone
# What differs from run to run and means nothing, and what a newer version of the library may write otherwise.
_UNTELLING: Final = frozenset(
    "connection at direction event_id item_id response_id context_id previous_item_id approval_id ping_id audio image count config changes "
    "audio_end_ms metadata after_text".split()
)


@attrs.define(eq=False)
class Entry:
    """One line of a cassette; ``number`` is its line in the file."""

    number: int
    connection: int
    direction: str
    name: str
    fields: dict[str, Any]
    met: bool = False


class Cassette:
    """The file of one conversation. Raises: `ConfigError` for a file that cannot be read or is no cassette."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)
        self.entries: list[Entry] = []
        try:
            lines = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"the cassette {str(self.path)!r} cannot be read ({error}); record it: RecordingServer, or pytest --realtime-record URL",
                code="invalid_cassette",
            ) from error
        try:
            header = json.loads(lines[0])
            if header["cassette"] != VERSION:
                raise ValueError(f"it is of version {header['cassette']!r}, this is version {VERSION}")
            self.dialect = str(header["dialect"])
            self.recorded_at = float(header["recorded_at"])
            self.entries = [_entry(number, json.loads(line)) for number, line in enumerate(lines[1:], 2) if line.strip()]
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise ConfigError(f"{str(self.path)!r} is no cassette: {error}", code="invalid_cassette") from error

    def of(self, connection: int) -> list[Entry]:
        """Return the lines of one connection, counted from 1."""
        return [entry for entry in self.entries if entry.connection == connection]

    @property
    def connections(self) -> int:
        """How many connections were recorded."""
        return max((entry.connection for entry in self.entries), default=0)


def _entry(number: int, value: dict[str, Any]) -> Entry:
    direction, name = value["direction"], value["name"]
    if direction not in ("sent", "received") or not isinstance(name, str):
        raise ValueError(f"line {number} has no direction or name")
    return Entry(number, int(value["connection"]), direction, name, value)


# -- messages ------------------------------------------------------------------------------------------------------------------


def spelled_frame(message: str | bytes) -> dict[str, Any]:
    """Return the fields that keep a message of the service: ``frame``, and whether it was binary."""
    binary = {"binary": True} if isinstance(message, bytes) else {}
    try:
        return {"frame": json.loads(message), **binary}
    except ValueError:
        kept = {"base64": base64.b64encode(message).decode()} if isinstance(message, bytes) else message
        return {"frame": kept, **binary}


def frame_of(fields: Mapping[str, Any], change: Callable[[str, Any], Any]) -> str | bytes:
    """Return the message that `spelled_frame` kept; ``change`` is asked for each value with its key."""
    frame, binary = fields["frame"], fields.get("binary") is True
    if isinstance(frame, dict) and set(frame) == {"base64"}:
        return base64.b64decode(frame["base64"])
    text = frame if isinstance(frame, str) else json.dumps(_changed("", frame, change), ensure_ascii=False, separators=(",", ":"))
    return text.encode() if binary else text


def refused(fields: Mapping[str, Any]) -> Refusal:
    """Return the refusal of a connection as it is written: ``status``, ``code``, ``message``, and ``retry_after`` if it was said."""
    wait = fields.get("retry_after")
    headers = {} if wait is None else {"Retry-After": f"{wait:g}"}
    return Refusal(int(fields["status"]), str(fields["code"]), str(fields["message"]), headers)


def _changed(key: str, value: Any, change: Callable[[str, Any], Any]) -> Any:
    if isinstance(value, dict):
        return {name: _changed(name, one, change) for name, one in value.items()}
    if isinstance(value, list):
        return [_changed(key, one, change) for one in value]
    return change(key, value)


def scrubbed(value: Any, known: Iterable[str]) -> Any:
    """Return a JSON value without what could be a secret: fields of such names, the ``known`` keys anywhere, what looks like a key."""
    encoded = [form for one in known for form in (one, base64.b64encode(one.encode()).decode().rstrip("="), quote(one, safe=""))]
    return _scrubbed(redacted(value), tuple(encoded))


def _scrubbed(value: Any, known: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {
            _scrubbed(key, known): _REDACTED if one and isinstance(one, str) and _SECRET_NAME.fullmatch(key) else _scrubbed(one, known)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [_scrubbed(one, known) for one in value]
    if not isinstance(value, str):
        return value
    for secret in known:
        value = value.replace(secret, _REDACTED)
    if _SOUND.fullmatch(value):
        return value
    return _NAMED.sub(lambda found: "".join(filter(None, found.groups())) + _REDACTED, _SECRETS.sub(_REDACTED, value))


# -- commands ------------------------------------------------------------------------------------------------------------------


def difference(recorded: Mapping[str, Any], sent: Mapping[str, Any], ignore: Iterable[str] = ()) -> bool:
    """Tell whether two commands are not the same; ids, sound, the configuration and what is to be ignored do not count."""
    untelling = _UNTELLING | set(ignore)

    def telling(fields: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _without_ids(value) for name, value in fields.items() if name not in untelling}

    return telling(recorded) != telling(sent)


def _without_ids(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _without_ids(one) for name, one in value.items() if name not in ("event_id", "id")}
    return value


def shown(fields: Mapping[str, Any]) -> str:
    """Return a command for people: its name and what tells."""
    told = _pairs((name, value) for name, value in fields.items() if name not in _UNTELLING | {"name"})
    return f"{fields['name']}({told})"


def _pairs(fields: Iterator[tuple[str, Any]]) -> str:
    written = (f"{name}={json.dumps(value, ensure_ascii=False, default=str)}" for name, value in fields)
    return ", ".join(one if len(one) <= 120 else one[:119] + "…" for one in written)
