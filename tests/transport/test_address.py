"""Addresses, headers and subprotocols as callers give them, right and wrong."""

from __future__ import annotations

from typing import Any

import pytest

from qai_realtime_sync import transport
from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.transport.address import check_headers, check_subprotocols, parse_address


@pytest.mark.parametrize(
    ("url", "secure", "host", "port", "resource", "shown"),
    [
        ("ws://a", False, "a", 80, "/", "ws://a/"),
        ("wss://a.example", True, "a.example", 443, "/", "wss://a.example/"),
        ("WSS://A.Example:8443/p?q=1", True, "a.example", 8443, "/p?q=1", "wss://a.example:8443/p"),
        ("ws://[::1]:9/x", False, "::1", 9, "/x", "ws://[::1]:9/x"),
        ("ws://bücher.example/ü?ä=%C3%A4", False, "xn--bcher-kva.example", 80, "/%C3%BC?%C3%A4=%C3%A4", "ws://xn--bcher-kva.example/%C3%BC"),
        ("wss://a?token=secret", True, "a", 443, "/?token=secret", "wss://a/"),
    ],
)
def test_addresses_are_read(url: str, secure: bool, host: str, port: int, resource: str, shown: str) -> None:
    """Scheme, host, port and resource come out as DNS and HTTP want them; what may be shown has no query."""
    address = parse_address(url)
    assert (address.secure, address.host, address.port, address.resource, address.shown) == (secure, host, port, resource, shown)
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    ("url", "expected"),
    [("ws://a", "a"), ("wss://a:443", "a"), ("ws://a:443", "a:443"), ("wss://[::1]:8", "[::1]:8"), ("ws://[::1]", "[::1]")],
)
def test_the_host_header_names_an_unusual_port(url: str, expected: str) -> None:
    """The port stands in the Host header only if it is not the scheme's own."""
    assert parse_address(url).host_and_port == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "//a",
        "http://a/secret",
        "https://a/secret",
        "file:///etc/passwd",
        "wss://",
        "wss:///path",
        "wss://:443/",
        "wss://a:0/",
        "wss://a:65536/",
        "wss://a:secret/",
        "wss://a:-1/",
        "wss://user:secret@a/",
        "wss://secret@a/",
        "wss://a/#secret",
        "wss://a/b c",
        "wss://a/\r\nX: secret",
        "wss://a/\0",
        "wss://[::1/secret",
        "wss://" + "a" * 300 + "/",
        "wss://.a/",
        "wss://a..b/",
        "wss://./",
        "wss://ü" + "ü" * 100 + ".example/",
        b"wss://a/",
        None,
    ],
)
def test_other_addresses_are_refused(url: Any) -> None:
    """What is not a WebSocket address raises `ConfigError` before any I/O, without a secret in the message."""
    with pytest.raises(ConfigError) as caught:
        transport.connect(url)
    assert caught.value.code == "invalid_base_url"
    assert "secret" not in str(caught.value)


def test_good_headers_are_kept_in_order() -> None:
    """Names and values are passed on in order, white space around a value cut off; no headers is no headers."""
    assert check_headers({"X-B": " 1 ", "A": "", "x-c": "Zoë\t!"}) == [("X-B", "1"), ("A", ""), ("x-c", "Zoë\t!")]
    assert check_headers(None) == []


@pytest.mark.parametrize(
    "headers",
    [
        {"X": "secret\r\nY: 1"},
        {"X": "secret\n"},
        {"X": "sec\0ret"},
        {"X": "secret\x7f"},
        {"X": "secret €"},
        {"X": b"secret"},
        {"X": None},
        {"X": 1},
        {"X Y": "secret"},
        {"X:": "secret"},
        {"": "secret"},
        {"Ü": "secret"},
        {"X\r\nY": "secret"},
        {1: "secret"},
        {"Sec-WebSocket-Key": "secret"},
        {"sec-websocket-extensions": "secret"},
        {"Connection": "secret"},
        {"upgrade": "secret"},
        {"Content-Length": "secret"},
        {"Transfer-Encoding": "secret"},
    ],
)
def test_bad_headers_are_refused(headers: dict[Any, Any]) -> None:
    """A header that could change the request raises `ConfigError`, and its value is not in the message."""
    with pytest.raises(ConfigError) as caught:
        transport.connect("ws://localhost:1/", headers=headers)
    assert caught.value.code == "invalid_header"
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("offered", ["realtime", ["a b"], ["a,b"], [""], ["a", "a"], [1], ["ü"]])
def test_bad_subprotocols_are_refused(offered: Any) -> None:
    """A subprotocol is a name; two that are the same, or one text instead of a list, are mistakes."""
    with pytest.raises(ConfigError) as caught:
        transport.connect("ws://localhost:1/", subprotocols=offered)
    assert caught.value.code == "invalid_header"


def test_good_subprotocols_are_kept_in_order() -> None:
    """The order is the caller's preference."""
    assert check_subprotocols(["realtime", "xai-client-secret.abc"]) == ("realtime", "xai-client-secret.abc")
