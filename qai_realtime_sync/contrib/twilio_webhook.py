"""Twilio's requests over HTTP: whether they are Twilio's, and the answer that connects a call to a media stream."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit
from xml.sax.saxutils import quoteattr

from qai_realtime_sync.errors import ConfigError

__all__ = ["is_from_twilio", "signature", "stream_twiml"]

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_MOST_PARAMETER = 500  # characters of name and value together (source: Twilio, <Parameter>)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def signature(auth_token: str, url: str, params: Mapping[str, Any] | None = None) -> str:
    """Return what Twilio signs a request with: HMAC-SHA1 over the address and the sorted form fields, in base64.

    ``params`` are the fields of a POST (``request.form``, ``request.POST``), values text or lists of text; none for a GET or a WebSocket.
    """
    signed = url
    for name, values in sorted(_fields(params or {})):
        signed += "".join(name + value for value in sorted(set(values)))
    return base64.b64encode(hmac.new(auth_token.encode(), signed.encode(), hashlib.sha1).digest()).decode()


def is_from_twilio(auth_token: str, url: str, given: str | None, params: Mapping[str, Any] | None = None) -> bool:
    """Tell whether ``given``, the header ``X-Twilio-Signature``, fits the request; compared in constant time.

    ``url`` is the address as Twilio called it, ``wss://`` for the upgrade of a media stream: behind a proxy that is not what the
    program sees. Twilio names the usual port or leaves it out, and may end the address of a WebSocket with a slash: all are tried.

    Raises: `ConfigError` without an auth token, which would let everybody in.
    """
    if not auth_token:
        raise ConfigError("the signature cannot be checked without the account's auth token: give it, for instance from TWILIO_AUTH_TOKEN")
    told = (given or "").encode("utf-8", "replace")
    found = False
    for spelling in _spellings(url):
        found |= hmac.compare_digest(signature(auth_token, spelling, params).encode(), told)
    return found


def stream_twiml(url: str, parameters: Mapping[str, str] | None = None, *, name: str = "", status_callback: str = "") -> str:
    """Return the TwiML that connects a call to the media stream at ``url`` (``wss://``), both ways; answer with it as ``text/xml``.

    ``parameters`` arrive with the call's start: the way to tell who calls, for the address may have no query.

    Raises: `ConfigError` for an address that Twilio would refuse, parameters of more than 500 characters, or text that is not XML.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("wss", "ws") or not parts.netloc or re.search(r"\s", url):
        raise ConfigError(f"the address of a media stream begins with wss:// and has no space in it: {url!r:.80}")
    if parts.query or parts.fragment:
        raise ConfigError("Twilio drops the query of a media stream's address: give what it says as parameters")
    attributes = [("url", url), ("name", name), ("statusCallback", status_callback)]
    inside = ""
    for key, value in (parameters or {}).items():
        if len(key) + len(str(value)) >= _MOST_PARAMETER:
            raise ConfigError(f"the parameter {key!r:.40} is too long: name and value have less than {_MOST_PARAMETER} characters together")
        inside += f"<Parameter name={_quoted(key)} value={_quoted(str(value))}/>"
    stream = " ".join(f"{key}={_quoted(value)}" for key, value in attributes if value)
    return f'<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream {stream}>{inside}</Stream></Connect></Response>'


def _quoted(text: str) -> str:
    if _NOT_XML.search(text):
        raise ConfigError("TwiML is XML, which has no control characters: take them out of the address and the parameters")
    return quoteattr(text)


def _fields(params: Mapping[str, Any]) -> Iterable[tuple[str, list[str]]]:
    lists = getattr(params, "lists", None)  # the forms of Flask and Django, where a field may come twice
    for name, value in lists() if callable(lists) else params.items():
        yield name, list(value) if isinstance(value, (list, tuple)) else [value]


def _spellings(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        port, default = parts.port, _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return [url]  # no address at all
    found = [url]
    if default is not None and parts.netloc and port in (None, default):
        other = parts.netloc.rpartition(":")[0] if port else f"{parts.netloc}:{default}"
        found.append(parts._replace(netloc=other).geturl())
    if parts.scheme in ("ws", "wss"):
        found += [spelling.removesuffix("/") if spelling.endswith("/") else f"{spelling}/" for spelling in found]
    return found
