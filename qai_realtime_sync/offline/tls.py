"""TLS for the local server: a context out of the user's files or made on the fly, and a socket that two threads may use at once."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import pathlib
import socket
import ssl
import threading
from typing import Any

from qai_realtime_sync.errors import ConfigError

__all__ = ["TlsSocket", "server_context"]

_CIPHERTEXT = 65536
_log = logging.getLogger(__name__)


def server_context(tls: bool | tuple[str | pathlib.Path, str | pathlib.Path]) -> tuple[ssl.SSLContext | None, str]:
    """Return a context and, if it was made on the fly, the PEM text of the authority that signed it; ``None`` and ``""`` without TLS.

    Raises: `ConfigError` for anything else, if the files cannot be used, or trustme is not installed.
    """
    if tls is False:
        return None, ""
    pair = isinstance(tls, tuple) and len(tls) == 2 and all(isinstance(path, (str, os.PathLike)) for path in tls)
    if tls is not True and not pair:
        raise ConfigError(f"tls must be True, False, or the paths of a certificate and its key as a tuple, not {tls!r}", code="invalid_tls")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if isinstance(tls, tuple):
        try:
            context.load_cert_chain(tls[0], tls[1])
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificate {str(tls[0])!r} with the key {str(tls[1])!r} cannot be used: {error}", code="invalid_tls"
            ) from error
        return context, ""
    try:
        trustme: Any = importlib.import_module("trustme")
    except ImportError as error:
        raise ConfigError(
            "a certificate made on the fly needs trustme, which is not installed; pip install trustme, or give --tls-cert and --tls-key",
            code="missing_dependency",
        ) from error
    authority = trustme.CA()
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context, authority.cert_pem.bytes().decode("ascii")


class TlsSocket:
    """A TLS connection over a plain socket; one thread may receive while others send.

    OpenSSL forbids two threads in one connection, so the encryption works on memory under a lock, and the socket is read and written
    outside of it. What is encrypted is sent in the same order: whoever sends holds the order lock until it is written.
    """

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, *, timeout: float) -> None:
        self._plain = plain
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()  # guards the three above, never while waiting for the network
        self._order = threading.Lock()  # one writer at a time; taken before _lock
        plain.settimeout(timeout)
        while not self._handshaken():
            self._write_out()
            self._read_in()
        self._write_out()
        plain.settimeout(None)

    def _handshaken(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            self._write_out()  # the alert that tells the client why
            raise ConnectionError(f"no TLS: {error}") from error
        return True

    def _read_in(self) -> None:
        data = self._plain.recv(_CIPHERTEXT)
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()

    def _write_out(self) -> None:
        with self._order:
            with self._lock:
                data = self._outgoing.read()
            if data:
                self._plain.sendall(data)

    def recv(self, size: int) -> bytes:
        """Return some bytes, ``b""`` at the end."""
        while True:
            try:
                with self._lock:
                    data = self._tls.read(size)
                    answers = bool(self._outgoing.pending)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:
                    self._write_out()
                self._read_in()
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            if answers:
                self._write_out()
            return data

    def recv_into(self, buffer: Any) -> int:
        """Fill ``buffer`` as far as there is something; 0 at the end."""
        view = memoryview(buffer)
        data = self.recv(len(view))
        view[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        with self._order:
            with self._lock:
                self._tls.write(data)
                encrypted = self._outgoing.read()
            self._plain.sendall(encrypted)

    def say_goodbye(self) -> None:
        """Tell the other side that nothing more comes, if it still listens."""
        try:
            with self._lock:
                self._tls.unwrap()
        except ssl.SSLError as error:
            _log.debug("TLS ends: %s", error)  # mostly that the other side has not said it yet
        with contextlib.suppress(OSError):
            self._write_out()

    def makefile(self, mode: str = "rb", buffering: int = -1) -> io.BufferedReader:
        """Return a reader for the request's head and body."""
        return io.BufferedReader(_Reader(self), 65536)

    def shutdown(self, how: int) -> None:
        """Wake everybody who waits."""
        self._plain.shutdown(how)

    def close(self) -> None:
        """Close the descriptor."""
        self._plain.close()

    def fileno(self) -> int:
        """Return the descriptor, to be waited on."""
        return self._plain.fileno()

    def setsockopt(self, *args: Any) -> None:
        """Set an option of the plain socket."""
        self._plain.setsockopt(*args)

    def getpeercert(self, binary_form: bool = False) -> None:
        """Return nothing: clients need no certificate here."""
        return None


class _Reader(io.RawIOBase):
    """What the HTTP parser reads from; closing it leaves the connection open."""

    def __init__(self, connection: TlsSocket) -> None:
        super().__init__()
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._connection.recv_into(buffer)
