"""What lies between this computer and a service: proxy, name, TCP, TLS, clock, key, and a real round trip."""

from __future__ import annotations

import argparse
import email.utils
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import attrs

from qai_realtime_sync import ApiError, RealtimeConfig
from qai_realtime_sync.cli.address import client_for
from qai_realtime_sync.client.options import DEFAULT_BASE_URL
from qai_realtime_sync.errors import ConfigError, RealtimeError
from qai_realtime_sync.transport.address import Address, parse_address
from qai_realtime_sync.transport.proxy import choose_proxy

__all__ = ["Finding", "look_at"]

_WITHIN = 5.0  # seconds for each step
_ANSWER_WITHIN = 20.0
_CLOCK_OFF = 60.0
_SOON = 14 * 86400.0


@attrs.frozen
class Finding:
    """One thing that was looked at: ``state`` is ok, missing, skipped, warning or FAILED; ``mend`` says what to do about it."""

    what: str
    state: str
    text: str
    mend: str = ""

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"  {self.state:<8} {self.text}" + (f"; {self.mend}" if self.mend else "")


def look_at(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Look at one thing after the other; what cannot be looked at any more after a failure is named as skipped."""
    url = (arguments.url or os.environ.get("QAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")
    left = ["DNS", "TCP", "TLS", "clock", "round trip"]
    try:
        address = parse_address(_as_socket(url))
        proxy = choose_proxy(address, None)
    except ValueError as error:  # a ConfigError too
        yield Finding("address", "FAILED", f"the address: {error}", "give --url https://… or set QAI_BASE_URL")
        yield _rest(left)
        return
    if proxy is not None:
        yield Finding("proxy", "ok", f"the way to {address.host} goes through the proxy {proxy.host}:{proxy.port}")
        yield Finding("DNS", "skipped", "DNS, TCP and TLS: the proxy stands between")
        left = left[3:]
    else:
        yield Finding("proxy", "ok", "no proxy is set for this address")
        for step in (_name, _connection):
            for finding in step(address):
                yield finding
                left = left[1:] if left[:1] == [finding.what] else left
                if finding.state == "FAILED":
                    yield _rest(left)
                    return
        left = [one for one in left if one not in ("DNS", "TCP", "TLS")]
    yield _clock(address)
    yield from _round_trip(arguments)


def _as_socket(url: str) -> str:
    split = urlsplit(url)
    scheme = {"https": "wss", "http": "ws"}.get(split.scheme, split.scheme)
    return split._replace(scheme=scheme).geturl()


def _rest(left: list[str]) -> Finding:
    return Finding(left[0] if left else "rest", "skipped", f"could not be looked at after that: {', '.join(left)}")


def _name(address: Address) -> Iterator[Finding]:
    """A resolver may hang; it is left behind then."""
    found: list[object] = []

    def ask() -> None:
        try:
            found.extend(sorted({info[4][0] for info in socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)}))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=ask, name="qai-doctor-dns", daemon=True)
    thread.start()
    thread.join(_WITHIN)
    if not found or isinstance(found[0], OSError):
        why = found[0] if found else f"no answer within {_WITHIN:g} s"
        mend = "is there a network? is the address spelled right?"
        yield Finding("DNS", "FAILED", f"DNS: the name {address.host} is not found: {why}", mend)
        return
    yield Finding("DNS", "ok", f"DNS: {address.host} is {', '.join(map(str, found[:3]))}")


def _connection(address: Address) -> Iterator[Finding]:
    begun = time.monotonic()
    try:
        connected = socket.create_connection((address.host, address.port), timeout=_WITHIN)
    except OSError as error:
        yield Finding("TCP", "FAILED", f"TCP: {address.host}:{address.port} does not answer: {error}", "a firewall, or the wrong port?")
        return
    with connected:
        yield Finding("TCP", "ok", f"TCP: connected to port {address.port} in {(time.monotonic() - begun) * 1000:.0f} ms")
        if not address.secure:
            yield Finding("TLS", "ok", "TLS: none, the address is not encrypted; fine on this computer only")
            return
        try:
            with ssl.create_default_context().wrap_socket(connected, server_hostname=address.host) as secured:
                yield _certificate(secured)
        except ssl.SSLCertVerificationError as error:
            mend = "is the clock right? does a proxy read along?"
            yield Finding("TLS", "FAILED", f"TLS: the certificate is not trusted: {error.verify_message}", mend)
        except OSError as error:
            yield Finding("TLS", "FAILED", f"TLS: no handshake: {error}", "is that port meant for TLS?")


def _certificate(secured: ssl.SSLSocket) -> Finding:
    certificate = secured.getpeercert() or {}
    left = ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time() if "notAfter" in certificate else _SOON
    told = f"TLS: {secured.version()}, the certificate is good for {left / 86400:.0f} days"
    return Finding("TLS", "ok" if left >= _SOON else "warning", told)


def _clock(address: Address) -> Finding:
    """Hold the clock against the date in the service's answer, whatever that answer is."""
    url = f"{'https' if address.secure else 'http'}://{address.host_and_port}/"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_WITHIN) as answer:
            told = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        told = error.headers.get("Date")
        error.close()
    except (OSError, ValueError) as error:
        return Finding("clock", "skipped", f"clock: the service gave no date to hold it against ({error})")
    try:
        off = time.time() - email.utils.parsedate_to_datetime(told or "").timestamp()
    except (ValueError, TypeError):
        return Finding("clock", "skipped", "clock: the service gave no date to hold it against")
    if abs(off) > _CLOCK_OFF:
        way = "fast" if off > 0 else "slow"
        told = f"clock: {abs(off):.0f} s {way}: tokens seem expired or not valid yet"
        return Finding("clock", "FAILED", told, "set the computer's clock")
    return Finding("clock", "ok", f"clock: within {max(1.0, abs(off)):.0f} s of the service's")


def _round_trip(arguments: argparse.Namespace) -> Iterator[Finding]:
    begun = time.monotonic()
    try:
        with client_for(arguments, RealtimeConfig(turn_detection=None)) as client, client:
            ready = time.monotonic() - begun
            yield Finding("key", "ok", f"key: accepted, session {client.session_id or '(without a name)'} after {ready:.2f} s")
            answer = client.ask("Hello!", _ANSWER_WITHIN)
    except ConfigError as error:
        yield Finding("key", "FAILED", f"key: {error}", "set QAI_API_KEY, or give --key")
    except ApiError as error:
        mend = "is the key right, and for this service?" if error.is_auth else "see what the service says"
        yield Finding("key" if error.is_auth else "round trip", "FAILED", f"the service refused: {error}", mend)
    except RealtimeError as error:
        yield Finding("round trip", "FAILED", f"round trip: {error}")
    else:
        yield Finding("round trip", "ok", f"round trip: {' '.join(answer.text.split())[:70]!r} in {time.monotonic() - begun:.1f} s")
