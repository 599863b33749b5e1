"""TLS as an `ssl.SSLObject` between two memory buffers, and the certificates that are trusted by default.

Python's SSLSocket must not be read and written by two threads at once: OpenSSL forbids it, and it ends in lost data, broken
records or a crash. Here one lock spans each call into OpenSSL and the move of its ciphertext into one ordered buffer; the waiting
is done outside.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
from typing import Final

from qai_realtime_sync.transport.readiness import WRITE
from qai_realtime_sync.transport.stream import RawSocket, Wait

__all__ = ["VARIABLES", "TlsStream", "default_context", "tls_reason"]

_AT_ONCE = 32 * 1024  # plaintext encrypted in one go: bounds what lies between a control frame and the kernel
_HANDSHAKE_ROOM = 16 * 1024


class TlsStream:
    """A TLS client over a connected socket. `handshake` first; then read by one thread and written by others at once."""

    __slots__ = ("_held", "_incoming", "_outgoing", "_raw", "_tls", "_unsent", "lock")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, hostname: str) -> None:
        self._raw = RawSocket(sock)
        self.lock = threading.Lock()  # guards everything below
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._unsent = memoryview(b"")  # ciphertext the kernel has not taken yet
        self._held = b""  # plaintext that OpenSSL wants to be offered again, unchanged (renegotiation in TLS 1.2)

    @property
    def sock(self) -> socket.socket:
        return self._raw.sock

    @property
    def pending(self) -> int:
        return len(self._unsent) + len(self._held)

    def settle(self) -> None:
        self._raw.settle()

    def handshake(self, wait: Wait) -> None:
        """Agree on keys and check the server's certificate. Raises: ssl.SSLError, OSError, and what ``wait`` raises."""
        room = memoryview(bytearray(_HANDSHAKE_ROOM))
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            finally:  # on an error OpenSSL has an alert to send, which tells the server's log why
                self._collect()
                pushed = self.push()
            while not pushed:
                wait(self.sock, WRITE)
                pushed = self.push()
            if done:
                return
            count = self._raw.read(room, wait)
            if count:
                self._incoming.write(room[:count])
            else:
                self._incoming.write_eof()

    def read(self, room: memoryview, wait: Wait | None = None) -> int:
        arrived = None
        while True:
            with self.lock:
                if arrived:
                    self._incoming.write(room[:arrived])
                elif arrived == 0:
                    self._incoming.write_eof()
                try:
                    return self._tls.read(len(room), room)  # type: ignore[return-value]
                except ssl.SSLWantReadError:
                    pass
                except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                    return 0  # with or without a farewell: the WebSocket close frame says if the end was wanted
                finally:
                    if self._outgoing.pending:  # an alert, or the answer to new keys
                        self._collect()
                        with contextlib.suppress(OSError):  # what was read counts; who writes next meets the error
                            self.push()
            # The ciphertext is read where the plaintext will be written: OpenSSL copies it away first.
            arrived = self._raw.read(room, wait)

    def write(self, data: bytes | memoryview) -> int:
        if not self.push():
            return 0
        piece = data if len(data) <= _AT_ONCE else memoryview(data)[:_AT_ONCE]
        try:
            count = self._tls.write(piece)
        except ssl.SSLWantReadError:
            self._held = bytes(piece)
            count = len(piece)
        self._collect()
        self.push()
        return count

    def push(self) -> bool:
        if self._held:
            with contextlib.suppress(ssl.SSLWantReadError):
                self._held = self._held[self._tls.write(self._held) :]
            self._collect()
        while self._unsent:
            count = self._raw.send(self._unsent)
            if not count:
                return False
            self._unsent = self._unsent[count:]
        return not self._held

    def farewell(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # it waits for the server's farewell; ours is written, or cannot be
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self._collect()
            if self.push():
                self.sock.shutdown(socket.SHUT_WR)

    def _collect(self) -> None:
        if self._outgoing.pending:
            data = self._outgoing.read()
            self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)


def tls_reason(error: BaseException) -> str:
    """What OpenSSL or the system says of a failure, in a few words."""
    if isinstance(error, ssl.SSLError):
        return f"TLS says {error.reason or type(error).__name__}"
    return getattr(error, "strerror", None) or type(error).__name__


# -- which certificates are trusted ------------------------------------------------------------------------------------------

_BUNDLE_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR", *_BUNDLE_VARIABLES)

_default: tuple[tuple[str | None, ...], ssl.SSLContext] | None = None  # what the variables said then, and what was made of it


def default_context() -> ssl.SSLContext:
    """The context all connections share: TLS 1.2 or newer, certificates and host names checked.

    Trusted is what the system trusts, or what REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE or SSL_CERT_DIR name; where the
    system has no certificates, the bundle of ``certifi``. Made once, and again only if these variables change.

    Raises: OSError if a named file cannot be read.
    """
    global _default
    key = tuple(os.environ.get(name) for name in VARIABLES)
    made = _default
    if made is None or made[0] != key:
        # No lock: two threads may both make one, which harms nobody, but a fork in between would leave a lock taken for ever.
        _default = made = (key, _new_context())
    return made[1]


def _new_context() -> ssl.SSLContext:
    bundle = next((os.environ[name] for name in _BUNDLE_VARIABLES if os.environ.get(name)), None)
    folder = bundle is not None and os.path.isdir(bundle)
    context = ssl.create_default_context(cafile=None if folder else bundle, capath=bundle if folder else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if bundle is None and not context.get_ca_certs() and not _system_store():
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _system_store() -> bool:
    """True if OpenSSL's own file or folder of certificates exists; a folder is read when needed, so counting does not tell."""
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or paths.capath)
