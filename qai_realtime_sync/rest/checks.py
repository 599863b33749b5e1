"""What the program gives a RestClient is checked here, before anything is sent."""

from __future__ import annotations

import ipaddress
import math
import re
import urllib.parse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from qai_realtime_sync.errors import ConfigError

if TYPE_CHECKING:
    import requests

__all__ = [
    "Credentials",
    "checked_base_url",
    "checked_headers",
    "checked_session_id",
    "checked_timeout",
    "is_loopback",
]

_RESERVED: Final = frozenset(
    {"authorization", "x-api-key", "idempotency-key", "content-type", "content-length", "transfer-encoding"}
)
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[!-~\xa0-\xff](?:[ \t!-~\xa0-\xff]*[!-~\xa0-\xff])?")


class Credentials:
    """Puts the key on a request, in both headers (source: gateway; it reads X-API-Key first, some proxies eat Authorization).

    Raises: `ConfigError` (code ``invalid_api_key``) for a key that no header can carry.
    """

    def __init__(self, api_key: str) -> None:
        if not isinstance(api_key, str) or not _HEADER_VALUE.fullmatch(api_key):
            raise ConfigError(f"{_wrong_key(api_key)}; pass the key as it was issued (qai_…), or set QAI_API_KEY", code="invalid_api_key")
        self.key = api_key

    def __repr__(self) -> str:
        return "<credentials>"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Be the ``auth`` of a request; an explicit one, or requests would put netrc's in its place."""
        request.headers["Authorization"] = f"Bearer {self.key}"
        request.headers["X-API-Key"] = self.key
        return request


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy. Raises: `ConfigError` (code ``invalid_header``) for a reserved name, or what cannot be sent."""
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} cannot be the name of a header", code="invalid_header")
        if name.lower() in _RESERVED:
            raise ConfigError(f"the header {name!r} is set by the client itself; leave it out", code="invalid_header")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value or "-"):
            raise ConfigError(
                f"the header {name!r} has a value that cannot be sent; no line breaks, Latin-1 only", code="invalid_header"
            )
    return dict(headers)


def checked_base_url(base_url: str, *, allow_insecure: bool) -> str:
    """Return the address without trailing slashes.

    Raises: `ConfigError` for another scheme, or plain http to another machine unless ``allow_insecure``.
    """
    try:
        parts = urllib.parse.urlsplit(base_url)
        parts.port  # noqa: B018 - raises ValueError for a port that is none
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"base_url is not an address: {_shown(base_url)}", code="invalid_base_url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or any(map(str.isspace, base_url)):
        raise ConfigError(f"base_url must be https://host[:port], not {_shown(base_url)}", code="invalid_base_url")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"base_url must have no user, query or fragment, unlike {_shown(base_url)}", code="invalid_base_url")
    if parts.scheme == "http" and not allow_insecure and not is_loopback(parts.hostname):
        raise ConfigError(
            f"the API key would go unencrypted to {parts.hostname}; use https, or pass allow_insecure=True if you must",
            code="insecure_base_url",
        )
    return base_url.rstrip("/")


def checked_timeout(timeout: float) -> float:
    """Return the seconds as float. Raises: `ConfigError` for anything but a finite number above 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ConfigError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    return float(timeout)


def checked_session_id(session_id: str) -> str:
    """Return the id. Raises: `ConfigError` for an empty one."""
    if not isinstance(session_id, str) or not session_id:
        raise ConfigError("session_id is empty; pass RealtimeSession.session_id of the answer of create_session")
    return session_id


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong_key(api_key: object) -> str:
    """Say why this is no key, without a letter of it."""
    if api_key is None or api_key == "":
        return "no API key was given"
    if not isinstance(api_key, str):
        return f"the API key must be text, not {type(api_key).__name__}"
    if "\n" in api_key or "\r" in api_key:
        return "the API key holds a line break"
    if api_key != api_key.strip():
        return "the API key has a blank at its ends"
    return "the API key holds a character that no header can carry"


def _shown(base_url: object) -> str:
    """Return an address for a message, without what may be a credential."""
    if not isinstance(base_url, str):
        return type(base_url).__name__
    return repr(re.split(r"[?#]", base_url.rpartition("@")[2])[0][:200])
