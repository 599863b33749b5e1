"""The listening socket and the thread per request, as werkzeug (owned by this file) serves them, with names and an end."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from qai_realtime_sync.errors import ConfigError
from qai_realtime_sync.offline.tls import TlsSocket

try:
    from werkzeug import Request, Response
    from werkzeug.exceptions import HTTPException
    from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler
except ImportError as error:
    raise ConfigError(
        f"the local server needs werkzeug and simple-websocket ({error}); pip install 'qai-realtime-sync[serve]'",
        code="missing_dependency",
    ) from error

__all__ = ["HTTPException", "HttpServer", "Request", "Response"]

_HANDSHAKE_SECONDS = 10.0
_log = logging.getLogger(__name__)


class _Handler(WSGIRequestHandler):
    """One request; the TLS handshake happens in its own thread, so that a slow client holds nobody up."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        context = self.server.ssl_context
        if context is not None:
            self.request = TlsSocket(self.request, context, timeout=_HANDSHAKE_SECONDS)
        super().setup()

    def finish(self) -> None:
        super().finish()
        if isinstance(self.request, TlsSocket):
            self.request.say_goodbye()

    def connection_dropped(self, error: BaseException, environ: dict[str, Any] | None = None) -> None:
        """Read no further request: what follows a WebSocket that is over is no HTTP."""
        self.close_connection = True

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log what is no HTTP as the package logs, not to the terminal of whoever runs the server."""
        _log.debug(message, *args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        _log.debug("%s %s", getattr(self, "requestline", ""), code)


class HttpServer(ThreadedWSGIServer):
    """Accepts connections and knows the threads that serve them."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, host: str, port: int, app: Callable[..., Any], context: ssl.SSLContext | None) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            bound.listen(self.request_queue_size)
            # Given as a descriptor: werkzeug prints and exits the process if it cannot bind by itself.
            super().__init__(host, port, app, handler=_Handler, fd=bound.fileno())
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host} port {port}: {error.strerror or error}; choose another port, or 0 for any",
                code="cannot_listen",
            ) from error
        finally:
            bound.close()
        self.ssl_context = context
        self.socket.setblocking(False)  # a client that is gone before it is accepted must not hold the accepting thread
        self._lock = threading.Lock()  # guards _requests
        self._requests: dict[threading.Thread, socket.socket] = {}
        self._count = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a request in a thread of its own."""
        request.setblocking(True)
        self._count += 1
        thread = threading.Thread(target=self._serve, args=(request, client_address), name=f"qai-offline-http-{self._count}", daemon=True)
        with self._lock:
            self._requests[thread] = request
        thread.start()

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._requests.pop(threading.current_thread(), None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with one connection; the others go on."""
        _log.debug("a connection failed", exc_info=True)

    def log(self, type: str, message: str, *args: Any) -> None:
        """Log as the package logs, not to the terminal."""
        getattr(_log, type if type in ("debug", "warning", "error") else "debug")(message.rstrip(), *args)

    def wait_for_requests(self, deadline: float) -> None:
        """Wait until all requests are over, or the deadline of the monotonic clock."""
        with self._lock:
            threads = list(self._requests)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def abort_requests(self) -> None:
        """Cut all connections that are still open."""
        with self._lock:
            sockets = list(self._requests.values())
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
