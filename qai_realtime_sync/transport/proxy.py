"""Proxies: which one is used for an address, and how it is asked for a tunnel (HTTP CONNECT, SOCKS4, SOCKS4a, SOCKS5)."""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import attrs

from qai_realtime_sync.errors import ConfigError, ConnectError, RealtimeError
from qai_realtime_sync.transport.address import Address, ascii_host
from qai_realtime_sync.transport.answers import AnswerError, read_answer
from qai_realtime_sync.transport.attempt import Attempt
from qai_realtime_sync.transport.dial import open_tcp, resolve
from qai_realtime_sync.transport.readiness import WRITE
from qai_realtime_sync.transport.stream import RawSocket

__all__ = ["Proxy", "choose_proxy", "open_tunnel"]

_PORTS: Final = {"http": 80, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


@attrs.frozen(kw_only=True)
class Proxy:
    """A proxy: ``kind`` is ``http``, ``socks4``, ``socks4a``, ``socks5`` or ``socks5h`` (a and h: it looks names up itself)."""

    kind: str
    host: str
    port: int
    user: str = attrs.field(default="", repr=False)
    password: str = attrs.field(default="", repr=False)


def choose_proxy(address: Address, proxy: str | Literal[False] | None, environ: Mapping[str, str] | None = None) -> Proxy | None:
    """The proxy for ``address``: the given one, none for ``False``, for ``None`` what the environment says.

    From the environment: ``wss_proxy``, ``https_proxy`` (for ws ``ws_proxy``, ``http_proxy``), ``all_proxy``, in small or capital
    letters, unless ``no_proxy`` names the host; never for this machine itself.

    Raises: `ConfigError` (code ``invalid_proxy``).
    """
    if proxy is False:
        return None
    if proxy is not None:
        return _parse_proxy(proxy, "the proxy")
    environ = os.environ if environ is None else environ
    if _is_loopback(address.host) or _is_exempt(address, _variable(environ, "no_proxy")):
        return None
    for name in ("wss_proxy", "https_proxy", "all_proxy") if address.secure else ("ws_proxy", "http_proxy", "all_proxy"):
        value = _variable(environ, name)
        if value:
            return _parse_proxy(value, f"the environment variable {name}")
    return None


def _variable(environ: Mapping[str, str], name: str) -> str:
    if name == "http_proxy" and "REQUEST_METHOD" in environ:
        return environ.get(name, "")  # a CGI script: HTTP_PROXY is then a header of whoever calls it
    return environ.get(name, "") or environ.get(name.upper(), "")


def _parse_proxy(value: str, source: str) -> Proxy:
    wanted = "write http://host:port or socks5://host:port, with user:password@ if it wants credentials"
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = parts.port
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{source} cannot be read: {wanted}", code="invalid_proxy") from None
    if parts.scheme not in _PORTS:
        raise ConfigError(f"{source} is of a kind that is not supported ({parts.scheme}://): {wanted}", code="invalid_proxy")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not parts.hostname or port == 0 or not all(character.isprintable() for character in user + password):
        raise ConfigError(f"{source} names no usable host, port or user: {wanted}", code="invalid_proxy")
    host = ascii_host(parts.hostname)
    return Proxy(kind=parts.scheme, host=host, port=port or _PORTS[parts.scheme], user=user, password=password)


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    number = _ip(host)
    return number is not None and number.is_loopback


def _is_exempt(address: Address, no_proxy: str) -> bool:
    """True if an entry of ``no_proxy`` is the host, a domain it lies in, its network, or ``*``; an entry may end in a port."""
    host = address.host.lower().rstrip(".")
    for entry in no_proxy.replace(",", " ").lower().split():
        if entry == "*":
            return True
        name, port = _split_port(entry)
        if port and port != str(address.port):
            continue
        name = name.removeprefix("*").strip(".")
        if name and (host == name or host.endswith(f".{name}") or _in_network(host, name)):
            return True
    return False


def _split_port(entry: str) -> tuple[str, str]:
    if entry.startswith("["):
        name, _, rest = entry[1:].partition("]")
        return name, rest.removeprefix(":")
    name, colon, port = entry.rpartition(":")
    return (name, port) if colon and ":" not in name and port.isdigit() else (entry, "")


def _in_network(host: str, entry: str) -> bool:
    number = _ip(host)
    if number is None:
        return False
    try:
        return number in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# -- tunnels -----------------------------------------------------------------------------------------------------------------


def open_tunnel(proxy: Proxy, address: Address, attempt: Attempt) -> socket.socket:
    """Connect to ``proxy`` and have it connect to ``address``; what comes out reads and writes like the service itself.

    Raises: `ConnectError` (code ``proxy`` if the proxy refuses or answers nonsense, else like `open_tcp`); `RealtimeTimeoutError`
    at the deadline.
    """
    sock = open_tcp(proxy.host, proxy.port, attempt, "proxy")
    attempt.stage = f"asking the proxy {proxy.host} for a tunnel"
    try:
        line = _Line(sock, attempt)
        if proxy.kind == "http":
            _connect_http(line, proxy, address)
        elif proxy.kind.startswith("socks5"):
            _connect_socks5(line, proxy, address, attempt)
        else:
            _connect_socks4(line, proxy, address, attempt)
    except BaseException as error:
        sock.close()
        if isinstance(error, OSError) and not isinstance(error, RealtimeError):
            raise _refused(proxy, f"broke the connection ({error.strerror})") from error
        raise
    return sock


class _Line:
    """Questions and answers over a socket, under the attempt's deadline."""

    def __init__(self, sock: socket.socket, attempt: Attempt) -> None:
        self._raw = RawSocket(sock)
        self._attempt = attempt

    def write(self, data: bytes) -> None:
        while data:
            data = data[self._raw.send(data) :]
            if data:
                self._attempt.wait(self._raw.sock, WRITE)

    def read_into(self, room: memoryview) -> int:
        return self._raw.read(room, self._attempt.wait)

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises: `AnswerError` if the stream ends before."""
        data = bytearray(size)
        have = 0
        while have < size:
            count = self.read_into(memoryview(data)[have:])
            if not count:
                raise AnswerError("it closed the connection in the middle of its answer")
            have += count
        return bytes(data)


def _refused(proxy: Proxy, why: str) -> ConnectError:
    return ConnectError(f"the proxy {proxy.host} (port {proxy.port}) {why}. Check the proxy settings.", code="proxy")


def _connect_http(line: _Line, proxy: Proxy, address: Address) -> None:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [f"CONNECT {host}:{address.port} HTTP/1.1", f"Host: {host}:{address.port}"]
    if proxy.user or proxy.password:
        credentials = base64.b64encode(f"{proxy.user}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {credentials}")
    line.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    try:
        answer = read_answer(line.read_into)
    except AnswerError as error:
        raise _refused(proxy, f"cannot be used: {error}") from None
    if answer.status == 407:
        raise _refused(proxy, "wants other credentials (407): give them as http://user:password@host:port")
    if not 200 <= answer.status < 300:
        raise _refused(proxy, f"refused a tunnel to {host}:{address.port} ({answer.status})")
    if answer.rest:
        raise _refused(proxy, "sent more than its answer")


_SOCKS5_FAILURES: Final = {
    1: "failed",
    2: "does not allow this host",
    3: "says that the network cannot be reached",
    4: "says that the host cannot be reached",
    5: "says that the host refused the connection",
    6: "says that the time ran out",
    7: "cannot make connections",
    8: "does not know this kind of address",
}


def _connect_socks5(line: _Line, proxy: Proxy, address: Address, attempt: Attempt) -> None:
    """Source: RFC 1928, and RFC 1929 for user and password."""
    user, password = proxy.user.encode(), proxy.password.encode()
    credentials = bool(user or password)
    if len(user) > 255 or len(password) > 255:
        raise _refused(proxy, "cannot be used: SOCKS5 has no room for a user or password of more than 255 bytes")
    target = _socks5_target(address, proxy.kind == "socks5h", attempt)
    try:
        line.write(b"\x05\x02\x00\x02" if credentials else b"\x05\x01\x00")
        version, method = line.read(2)
        if version != 5:
            raise _refused(proxy, "does not speak SOCKS5")
        if method == 2 and credentials:
            line.write(b"\x01" + bytes([len(user)]) + user + bytes([len(password)]) + password)
            if line.read(2)[1]:
                raise _refused(proxy, "does not accept the user and password")
        elif method:
            raise _refused(proxy, "wants other credentials: give them as socks5://user:password@host:port")
        line.write(b"\x05\x01\x00" + target + address.port.to_bytes(2, "big"))
        version, status, _, kind = line.read(4)
        if status or version != 5:
            raise _refused(proxy, _SOCKS5_FAILURES.get(status, "refused"))
        size = {1: 4, 4: 16}.get(kind) or line.read(1)[0]
        line.read(size + 2)  # the proxy's own address: of no use
    except AnswerError as error:
        raise _refused(proxy, f"cannot be used: {error}") from None


def _socks5_target(address: Address, by_name: bool, attempt: Attempt) -> bytes:
    number = _ip(address.host)
    if number is None and not by_name:
        number = ipaddress.ip_address(resolve(address.host, address.port, attempt)[0][4][0])
    if number is not None:
        return (b"\x01" if number.version == 4 else b"\x04") + number.packed
    name = address.host.encode("ascii")
    return b"\x03" + bytes([len(name)]) + name


def _connect_socks4(line: _Line, proxy: Proxy, address: Address, attempt: Attempt) -> None:
    """Source: the SOCKS4 memo of Ying-Da Lee, and its extension 4a."""
    number = _ip(address.host)
    name = b""
    if number is None and proxy.kind == "socks4a":
        number, name = ipaddress.IPv4Address("0.0.0.1"), address.host.encode("ascii") + b"\0"
    elif number is None:
        found = [one for one in resolve(address.host, address.port, attempt) if one[0] == socket.AF_INET]
        number = ipaddress.ip_address(found[0][4][0]) if found else None
    if not isinstance(number, ipaddress.IPv4Address):
        raise _refused(proxy, "cannot be used: SOCKS4 knows IPv4 only; use socks5h://")
    try:
        line.write(b"\x04\x01" + address.port.to_bytes(2, "big") + number.packed + proxy.user.encode() + b"\0" + name)
        zero, status = line.read(8)[:2]
    except AnswerError as error:
        raise _refused(proxy, f"cannot be used: {error}") from None
    if zero or status != 90:
        raise _refused(proxy, f"refused a tunnel ({status})")
