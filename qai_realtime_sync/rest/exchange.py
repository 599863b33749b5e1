"""One HTTP exchange with the gateway, bounded in time and size (the only importer of requests)."""

from __future__ import annotations

import functools
import io
import os
import time
import urllib.parse
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import attrs

from qai_realtime_sync.errors import ConfigError, ConnectError, RealtimeError, RealtimeTimeoutError
from qai_realtime_sync.rest.checks import Credentials, is_loopback

if TYPE_CHECKING:
    import requests

__all__ = ["Answer", "Exchange"]

_LARGEST_ANSWER: Final = 1024 * 1024


@attrs.frozen
class Answer:
    """An HTTP answer: ``reason`` is the status in words, ``headers`` are found without case, ``content`` is never shown."""

    status: int
    reason: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    content: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Exchange:
    """How requests are sent: through which proxy, trusting whom, in whose `requests.Session` (``None`` = one for each request).

    It keeps nothing between two requests, so threads and forked processes may share it.
    """

    proxy: str | None = attrs.field(default=None, repr=False)
    verify: bool | str = True
    ssl_context: Any = attrs.field(default=None, repr=False)
    session: requests.Session | None = attrs.field(default=None, repr=False)
    clock: Callable[[], float] = time.monotonic

    def post(self, url: str, payload: bytes, headers: Mapping[str, str], credentials: Credentials, deadline: float) -> Answer:
        """Send once and return the answer, whatever its status.

        Raises: `RealtimeTimeoutError` at the ``deadline`` (of ``clock``), `ConnectError`; `ConfigError` for a bad CA bundle.
        """
        try:
            return self._post(url, payload, headers, credentials, max(deadline - self.clock(), 0.001))
        except RealtimeError:
            raise
        except Exception as foreign:  # _failure knows those of requests and of the socket, and raises the rest again
            error = _failure(foreign, urllib.parse.urlsplit(url).netloc, late=self.clock() >= deadline)
        # Raised outside the handler, with no context: the foreign error holds the request, and with it the key.
        raise error

    def _post(self, url: str, payload: bytes, headers: Mapping[str, str], credentials: Credentials, seconds: float) -> Answer:
        session = self.session or _new_session(self.ssl_context)
        mark = _DEADLINE.set(time.monotonic() + seconds)
        try:
            with session.post(
                url,
                data=payload,
                # A kept connection that the gateway has closed meanwhile would fail a call that may not be replayed.
                headers={"Accept-Encoding": "identity", "Connection": "close", **headers},
                auth=credentials,
                timeout=seconds,
                allow_redirects=False,
                proxies=self._proxies(url),
                verify=self._verification(),
                stream=True,
            ) as response:
                content = b""
                for piece in response.iter_content(65_536):
                    content += piece
                    if len(content) > _LARGEST_ANSWER:
                        raise ConnectError(
                            f"the answer is larger than {_LARGEST_ANSWER} bytes; check that base_url is the gateway's"
                        )
                return Answer(response.status_code, response.reason or "", response.headers, content)
        finally:
            _DEADLINE.reset(mark)
            if session is not self.session:
                session.close()

    def _proxies(self, url: str) -> dict[str, str]:
        if self.proxy:
            return {"http": self.proxy, "https": self.proxy}
        if self.proxy == "" or is_loopback(urllib.parse.urlsplit(url).hostname or ""):
            # None takes an entry away, also one that a session of the caller's would add from the environment.
            return {"http": None, "https": None, "all": None}  # type: ignore[dict-item]
        import requests.utils

        return dict(requests.utils.get_environ_proxies(url))

    def _verification(self) -> bool | str | None:
        if self.verify is not True or self.ssl_context is not None:
            return self.verify
        if self.session is not None:
            return self.session.verify  # told again: requests would let a bundle of the environment go before it
        return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True


# -- one deadline ------------------------------------------------------------------------------------------------------------

_DEADLINE: ContextVar[float] = ContextVar("deadline")  # of the attempt that runs in this thread, on the monotonic clock


@functools.cache
def _adapter() -> type[requests.adapters.HTTPAdapter]:
    """Return requests' adapter with one deadline over the whole answer; requests' own timeout starts anew with each byte."""
    import http.client

    import requests.adapters
    import urllib3

    class DeadlineReader(io.RawIOBase):
        def __init__(self, sock: Any) -> None:
            self._sock = sock
            self._file = sock.makefile("rb", buffering=0)  # keeps the socket open for as long as the answer is read

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int | None:
            remaining = _DEADLINE.get() - time.monotonic()
            if remaining <= 0:
                raise TimeoutError("timed out")
            self._sock.settimeout(remaining)
            read: int | None = self._file.readinto(buffer)
            return read

        def close(self) -> None:
            self._file.close()
            super().close()

    class Response(http.client.HTTPResponse):
        def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
            super().__init__(sock, *args, **kwargs)
            self.fp.close()
            self.fp = io.BufferedReader(DeadlineReader(sock))

    class PlainConnection(urllib3.connection.HTTPConnection):
        response_class = Response

    class TlsConnection(urllib3.connection.HTTPSConnection):
        response_class = Response

    class PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = PlainConnection

    class TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = TlsConnection

    class Adapter(requests.adapters.HTTPAdapter):
        def __init__(self, ssl_context: Any = None) -> None:
            self._ssl_context = None if ssl_context is None else _Lent(ssl_context)
            super().__init__()

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= self._tls()
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}

        def _tls(self) -> dict[str, Any]:
            # Whether the host's name counts is the context's to say; urllib3 would look at it once more.
            return {} if self._ssl_context is None else {"ssl_context": self._ssl_context, "assert_hostname": False}

        def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
            host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
            own: Any = {}
            return host, (pool if self._ssl_context is None else own)

        def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
            # A context of the caller's says whom to trust; requests would load its own bundle into it.
            if self._ssl_context is None:
                super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

        def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
            kwargs |= self._tls()
            manager = super().proxy_manager_for(proxy, **kwargs)
            if type(manager) is urllib3.ProxyManager:  # one for SOCKS has connections of its own
                manager.pool_classes_by_scheme = {"http": PlainPool, "https": TlsPool}
            return manager

    return Adapter


class _Lent:
    """The caller's TLS context as urllib3 may see it: used as it is, and changed by nobody (urllib3 sets ALPN and the verify mode)."""

    def __init__(self, context: Any) -> None:
        object.__setattr__(self, "_context", context)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_context"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Leave the context as it is."""

    def set_alpn_protocols(self, protocols: list[str]) -> None:
        """Leave the context as it is."""


def _new_session(ssl_context: Any) -> requests.Session:
    import http.cookiejar

    import requests

    session = requests.Session()
    session.trust_env = False
    session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("https://", "http://"):
        session.mount(scheme, _adapter()(ssl_context))
    return session


# -- what went wrong ---------------------------------------------------------------------------------------------------------


def _failure(error: Exception, host: str, *, late: bool) -> RealtimeError:
    """Return our error for one of requests; its text is left out where it could hold a credential of a proxy's address."""
    import requests
    import urllib3

    if late or isinstance(error, (requests.Timeout, TimeoutError)) or "ReadTimeoutError" in repr(error):
        return RealtimeTimeoutError(f"{host} did not answer in time; if it is slow today, raise timeout")
    if isinstance(error, requests.exceptions.SSLError):
        return ConnectError(
            f"TLS with {host} failed: {_reason(error)}; for a CA of your own pass verify='path'", code="tls_failed"
        )
    if isinstance(error, (requests.exceptions.ProxyError, requests.exceptions.InvalidProxyURL)):
        return ConnectError(
            f"the proxy on the way to {host} failed; check proxy=, or HTTPS_PROXY and NO_PROXY", code="proxy_failed"
        )
    if isinstance(error, requests.exceptions.InvalidSchema):
        return ConfigError("a SOCKS proxy needs PySocks: pip install 'qai-realtime-sync[proxy]'", code="missing_dependency")
    if isinstance(error, requests.ConnectionError) and "NewConnectionError" in repr(error) or "NameResolutionError" in repr(error):
        return ConnectError(f"no connection to {host}: {_reason(error)}", code="unreachable")  # nothing was sent: it may be tried again
    if isinstance(error, (requests.RequestException, urllib3.exceptions.HTTPError)):
        return ConnectError(f"no answer from {host}: {_reason(error)}")
    if isinstance(error, OSError) and "TLS CA certificate" in str(error):
        return ConfigError("the CA bundle cannot be read; check verify= and REQUESTS_CA_BUNDLE", code="invalid_ca_bundle")
    if isinstance(error, OSError):
        return ConnectError(f"no answer from {host}: {type(error).__name__}")
    raise error


def _reason(error: BaseException) -> str:
    """Return the innermost cause in words: urllib3 wraps it several times, in the arguments as well as in the chain."""
    seen: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in seen:
        seen.append(inner)
        nested = next((value for value in inner.args if isinstance(value, BaseException)), None)
        inner = nested or getattr(inner, "reason", None) or inner.__cause__ or inner.__context__
        inner = inner if isinstance(inner, BaseException) else None
    last = seen[-1]
    text = last.strerror if isinstance(last, OSError) and last.strerror else type(last).__name__
    return str(text)
