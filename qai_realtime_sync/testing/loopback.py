"""What every server for tests has: an address, a key, clients that are closed at the end, and a report of what went wrong."""

from __future__ import annotations

import contextlib
import ssl
import sys
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.offline.server import RealtimeServer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["KEY", "Loopback", "ServerClient"]

KEY = "qai_test_key"


class ServerClient(RealtimeClient):
    """A client that may have been connected already when a ``with`` statement begins."""

    def __enter__(self) -> RealtimeClient:
        return super().__enter__() if self.state == "idle" else self


class Loopback:
    """A server of one test on loopback; a context manager. ``must_complete``: its end calls `assert_complete`."""

    must_complete = True

    def __init__(self, server: RealtimeServer, key: str | None) -> None:
        self.key = key or ""
        self._loopback = server
        self._clients: list[RealtimeClient] = []

    def report(self) -> str:
        """Return in words what did not go as the test expects, ``""`` if all went well."""
        raise AssertionError("every server for tests has a report of its own")

    def assert_complete(self, timeout: float = 2.0) -> None:
        """Raise AssertionError with the report if there is one, after waiting a moment for what is under way."""
        report = self.report()
        if report:
            raise AssertionError(report)

    # -- life -----------------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen; raises `ConfigError` when it was started before."""
        self._loopback.start()
        return self

    def stop(self) -> None:
        """Close the clients that `client` made, and the server; at most a few seconds."""
        for client in self._clients:
            with contextlib.suppress(RealtimeError):
                client.close()
        self._clients.clear()
        self._loopback.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if error is None and self.must_complete:
                self.assert_complete()
            elif error is not None and sys.version_info >= (3, 11) and (report := self.report()):
                error.add_note(report)
        finally:
            self.stop()

    # -- where it is ----------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Its address, for ``base_url`` or ``QAI_BASE_URL``."""
        return self._loopback.url

    @property
    def ws_url(self) -> str:
        """The address of its WebSocket, for `RealtimeClient.direct`."""
        return self._loopback.ws_url

    @property
    def environ(self) -> dict[str, str]:
        """What a program that reads its environment needs: ``QAI_BASE_URL`` and ``QAI_API_KEY``."""
        return {"QAI_BASE_URL": self.url, "QAI_API_KEY": self.key or KEY}

    @property
    def certificate(self) -> str:
        """With ``tls=True``: the PEM text of the authority that clients must trust; `client` does. Else ``""``."""
        return self._loopback.certificate

    def client(
        self,
        config: RealtimeConfig | None = None,
        *,
        tools: Iterable[Callable[..., Any]] = (),
        connect: bool = True,
        **options: Any,
    ) -> RealtimeClient:
        """Return a client of this server, connected unless ``connect=False`` (to register handlers first); it is closed at the end.

        ``tools`` are registered before it connects; ``options`` are those of `RealtimeClient`. Raises: as `RealtimeClient.connect`.
        """
        key = options.pop("api_key", self.key or KEY)
        if self.certificate:
            options.setdefault("ssl_context", ssl.create_default_context(cadata=self.certificate))
        if self._loopback.dialect == "xai":
            client: RealtimeClient = ServerClient(key, config, base_url=self.url, **options)
        else:
            client = ServerClient.direct(self.ws_url, key, config, **{"dialect": self._loopback.dialect, **options})
        self._clients.append(client)
        for tool in tools:
            client.tool(tool)
        return client.connect() if connect else client

    @property
    def clients(self) -> list[RealtimeClient]:
        """The clients that `client` made."""
        return list(self._clients)
