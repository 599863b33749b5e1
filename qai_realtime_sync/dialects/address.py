"""Where a dialect connects and with which headers: addresses, queries and credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, unquote_plus, urlsplit, urlunsplit

from qai_realtime_sync.commands import Configure
from qai_realtime_sync.config import RealtimeConfig, RealtimeSession
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.seam import Handshake

__all__ = ["DIRECT_TIMEOUT", "GATEWAY_TIMEOUT", "checked_key", "direct", "gateway", "is_voice_live", "with_query", "ws_address"]

GATEWAY_TIMEOUT: Final = 15.0
DIRECT_TIMEOUT: Final = 10.0
_SCHEMES: Final = {"https": "wss", "http": "ws", "wss": "wss", "ws": "ws"}


def shown(url: str) -> str:
    """An address without what may be secret: user, query and fragment."""
    return url.split("?")[0].split("#")[0].rpartition("@")[2] if "@" in url else url.split("?")[0].split("#")[0]


def ws_address(url: str) -> str:
    """Return the address with a WebSocket scheme. Raises: `ConfigError` with code ``invalid_base_url``, without the query."""
    try:
        split = urlsplit(url)
        scheme = _SCHEMES.get(split.scheme.lower())
        usable = scheme is not None and bool(split.hostname) and split.port != 0
    except ValueError:
        usable, scheme = False, None
    if not usable or scheme is None or any(ord(character) <= 32 or ord(character) == 127 for character in url):
        raise ConfigError(
            f"the address {shown(url)!r} cannot be connected to; give one that begins with https:// or wss:// "
            "(http:// or ws:// for a server on this machine)",
            code="invalid_base_url",
        )
    return scheme + url[url.index(":") :]


def with_query(url: str, parameters: Mapping[str, str]) -> str:
    """Append the parameters that are not empty to the query that is there; one that is there already stays as it is."""
    split = urlsplit(url)
    present = {unquote_plus(pair.partition("=")[0]) for pair in split.query.split("&")}
    added = [f"{name}={quote(value, safe='')}" for name, value in parameters.items() if value and name not in present]
    query = "&".join(([split.query] if split.query else []) + added)
    return urlunsplit((split.scheme, split.netloc, split.path, query, ""))


def checked_key(key: str) -> str:
    """Return a key that can be a header value. Raises: `ConfigError` with code ``invalid_api_key``; the key is not shown."""
    if any(not (32 <= ord(character) < 127 or 160 <= ord(character) < 256) for character in key) or key != key.strip():
        raise ConfigError(
            "the API key or token cannot be sent in a header: it holds a line break, a control character, white space at an end, "
            "or a character outside Latin-1; copy it again",
            code="invalid_api_key",
        )
    return key


def gateway(base: str, path: str, query: Mapping[str, str], api_key: str, config: RealtimeConfig | None) -> Handshake:
    """Return the handshake of the gateway's proxy WebSocket (source: gateway's reference): both credential headers, 15 s."""
    split = urlsplit(ws_address(base))
    url = urlunsplit((split.scheme, split.netloc, split.path.rstrip("/") + path, split.query, ""))
    key = checked_key(api_key)
    return Handshake(
        url=with_query(url, query),
        headers={"Authorization": f"Bearer {key}", "X-API-Key": key} if key else {},
        commands=(Configure(config=config),) if config is not None else (),
        timeout=GATEWAY_TIMEOUT,
    )


def direct(
    session: RealtimeSession, usual: str, query: Mapping[str, str], api_key: str, config: RealtimeConfig
) -> Handshake:
    """Return the handshake straight to a service of the OpenAI family: a bearer only, 10 s; a signed address stays untouched."""
    commands = (Configure(config=config),)
    if session.signed_url:
        ws_address(session.signed_url)
        return Handshake(url=session.signed_url, commands=commands, timeout=DIRECT_TIMEOUT)
    url = ws_address(session.url or usual)
    key = checked_key(session.ephemeral_token or api_key)
    if joins_call(url):
        query = {name: value for name, value in query.items() if name != "model"}
    return Handshake(
        url=with_query(url, query),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        commands=commands,
        timeout=DIRECT_TIMEOUT,
    )


def joins_call(url: str) -> bool:
    """The address joins a running call (source: OpenAI, ``call_id`` instead of ``model``)."""
    return any(pair.partition("=")[0] == "call_id" for pair in urlsplit(url).query.split("&"))


def is_voice_live(url: str) -> bool:
    """The address is of Azure Voice Live, which speaks the beta (recorded)."""
    return "/voice-live/" in url.split("?")[0]
