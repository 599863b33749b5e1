"""TLS before a plain server, with new keys on demand: Python's ssl has no word for a KeyUpdate, so OpenSSL is asked by its own."""

from __future__ import annotations

import _ssl
import contextlib
import ctypes
import socket
import ssl
import threading

__all__ = ["TlsFront", "key_update_missing"]

_PATIENCE = 10.0
_REQUESTED = 1  # the peer must renew its keys too (source: OpenSSL, SSL_key_update(3))
_SSL_POINTER = 24  # in CPython's PySSLSocket behind the object header and the weak reference to the socket
_ROOM = 65536


def _openssl() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
        library.SSL_get_version.argtypes = [ctypes.c_void_p]
        library.SSL_get_version.restype = ctypes.c_char_p
    except (OSError, AttributeError):
        return None
    return library


_library = _openssl()
key_update_missing = "" if _library is not None and ctypes.sizeof(ctypes.c_void_p) == 8 else "this Python's OpenSSL cannot be called"


class _Half:
    """One accepted connection: TLS in memory under one lock, two threads that pass bytes on."""

    def __init__(self, outer: socket.socket, inner: socket.socket, context: ssl.SSLContext) -> None:
        self.outer, self.inner = outer, inner
        self._lock = threading.Lock()  # guards the TLS object and the order of what is written to `outer`
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.updates_seen = 0
        self._handshake()
        self.threads = [
            threading.Thread(target=self._inwards, name="tls-front-in", daemon=True),
            threading.Thread(target=self._outwards, name="tls-front-out", daemon=True),
        ]
        for thread in self.threads:
            thread.start()

    def _handshake(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._flush()
                self._incoming.write(self.outer.recv(_ROOM))
            finally:
                self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self.outer.sendall(self._outgoing.read())

    def key_update(self) -> None:
        """Renew our keys and ask for theirs; goes out with the next bytes."""
        assert _library is not None
        with self._lock:
            pointer = ctypes.c_void_p.from_address(id(self._tls._sslobj) + _SSL_POINTER)
            assert _library.SSL_get_version(pointer) == b"TLSv1.3"
            assert _library.SSL_key_update(pointer, _REQUESTED) == 1

    def _inwards(self) -> None:
        with contextlib.suppress(OSError):
            data = b""  # what came with the last flight of the handshake is looked at first
            while True:
                plain = []
                with self._lock:
                    self._incoming.write(data)
                    with contextlib.suppress(ssl.SSLWantReadError):
                        while piece := self._tls.read(_ROOM):
                            plain.append(piece)
                    self._flush()
                self.inner.sendall(b"".join(plain))
                data = self.outer.recv(_ROOM)
                if not data:
                    break
        self._end()

    def _outwards(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.inner.recv(_ROOM):
                with self._lock:
                    self._tls.write(data)
                    self._flush()
        self._end()

    def _end(self) -> None:
        for sock in (self.outer, self.inner):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class TlsFront:
    """Listens with TLS and passes on to the plain port; a context manager."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._target, self._context = port, context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.failures: list[BaseException] = []
        self._halves: list[_Half] = []
        self._thread = threading.Thread(target=self._accept, name="tls-front-accept", daemon=True)
        self._thread.start()

    def key_update(self) -> None:
        """New keys on every connection, both ways."""
        for half in list(self._halves):
            half.key_update()

    def __enter__(self) -> TlsFront:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(_PATIENCE)
        for half in self._halves:
            half._end()
            for thread in half.threads:
                thread.join(_PATIENCE)
                assert not thread.is_alive(), "a thread of the TLS front is stuck"
            half.outer.close()
            half.inner.close()
        assert not self.failures, self.failures

    def _accept(self) -> None:
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            inner = socket.create_connection(("127.0.0.1", self._target), _PATIENCE)
            inner.settimeout(None)
            for sock in (outer, inner):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._halves.append(_Half(outer, inner, self._context))
            except OSError as error:
                self.failures.append(error)
                outer.close()
                inner.close()
