"""What the caller asks for, checked before any I/O: the address, the headers, the subprotocols."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote, urlsplit

import attrs

from qai_realtime_sync.errors import ConfigError

__all__ = ["Address", "ascii_host", "check_headers", "check_subprotocols", "parse_address"]

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_URL = re.compile(r"[\x00-\x20\x7f]")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_RESERVED = frozenset({"connection", "upgrade", "content-length", "transfer-encoding"})
_SAFE = "!#$%&'()*+,/:;=?@[]~"  # what may stay in a path or query as it is; "%" too, for it is encoded already


@attrs.frozen(kw_only=True)
class Address:
    """Where to connect: ``host`` as DNS wants it, ``resource`` path and query; ``shown`` has no query and may be told."""

    secure: bool
    host: str
    port: int
    resource: str = attrs.field(repr=False)
    shown: str

    @property
    def host_and_port(self) -> str:
        """As it stands in a Host header: IPv6 in brackets, the port only if it is not the usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def parse_address(url: str) -> Address:
    """Read a ``ws://`` or ``wss://`` URL.

    Raises: `ConfigError` (code ``invalid_base_url``) for anything else; the message never holds the query or a password.
    """
    if not isinstance(url, str):
        raise _bad(f"the address must be text, not {type(url).__name__}")
    if _FORBIDDEN_IN_URL.search(url):
        raise _bad("the address holds a space, a line break or another control character")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _bad("the address cannot be read: a port is a number from 1 to 65535, an IPv6 address goes in []") from None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise _bad(f"the address must begin with wss:// or ws://, not with {scheme or 'no scheme'!r}")
    if parts.username is not None or parts.password is not None:
        raise _bad("the address holds a user name or password: pass credentials as headers")
    if not parts.hostname:
        raise _bad("the address names no host")
    if parts.fragment:
        raise _bad("the address holds a '#': a WebSocket address has no fragment, write %23")
    if port == 0:
        raise _bad("port 0 cannot be connected to")
    host = ascii_host(parts.hostname)
    path = quote(parts.path or "/", safe=_SAFE)
    shown_host = f"[{host}]" if ":" in host else host
    return Address(
        secure=scheme == "wss",
        host=host,
        port=port or _DEFAULT_PORTS[scheme],
        resource=f"{path}?{quote(parts.query, safe=_SAFE)}" if parts.query else path,
        shown=f"{scheme}://{shown_host}{f':{port}' if port else ''}{path}",
    )


def ascii_host(host: str) -> str:
    """The name as DNS wants it. Raises: `ConfigError` for a name that no DNS can hold."""
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _bad("the host name is not a valid international name") from None
    if len(name) > 253 or (":" not in name and not all(name.removesuffix(".").split("."))):
        raise _bad("the host name is longer than 253 characters or has an empty part")
    return name


def check_headers(headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    """The headers as pairs, in order. Raises: `ConfigError` (code ``invalid_header``); the message never holds a value."""
    checked = []
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise _bad_header(f"{name!r:.60} is not a header name: letters, digits and '-' are allowed")
        if name.lower() in _RESERVED or name.lower().startswith("sec-websocket-"):
            raise _bad_header(f"the header {name} belongs to the upgrade itself and cannot be given")
        if not isinstance(value, str):
            raise _bad_header(f"the value of the header {name} must be text, not {type(value).__name__}")
        if _FORBIDDEN_IN_VALUE.search(value):
            raise _bad_header(f"the value of the header {name} holds a line break or another control character")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise _bad_header(f"the value of the header {name} holds a character that is not in Latin-1") from None
        checked.append((name, value.strip(" \t")))
    return checked


def check_subprotocols(subprotocols: Iterable[str]) -> tuple[str, ...]:
    """The subprotocols to offer. Raises: `ConfigError` (code ``invalid_header``); one may hold a token, so none is shown."""
    if isinstance(subprotocols, str):
        raise _bad_header("subprotocols must be a list of names, not one text")
    offered = tuple(subprotocols)
    if not all(isinstance(name, str) and _TOKEN.fullmatch(name) for name in offered):
        raise _bad_header("a subprotocol must be a name without spaces and commas")
    if len(set(offered)) != len(offered):
        raise _bad_header("a subprotocol is offered twice")
    return offered


def _bad(message: str) -> ConfigError:
    return ConfigError(f"{message} (expected something like wss://host/path)", code="invalid_base_url")


def _bad_header(message: str) -> ConfigError:
    return ConfigError(message, code="invalid_header")
