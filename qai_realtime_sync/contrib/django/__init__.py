"""Django: clients made from the settings, handlers that leave no database connection behind, events for a browser.

    INSTALLED_APPS = [..., "qai_realtime_sync.contrib.django"]

    def ask(request):
        client = new_client()                 # closed with this request, whatever happens
        return HttpResponse(client.connect().ask(request.POST["question"]).text)

Raises on import: `ConfigError` without Django (``pip install 'qai-realtime-sync[django]'``).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.contrib import sse
from qai_realtime_sync.contrib.web_client import SETTINGS, Kept, WebClient, worker_problem
from qai_realtime_sync.errors import ConfigError

try:
    from django.apps import apps as installed_apps  # our own `apps` is a module
    from django.conf import settings
    from django.db import connections, transaction
    from django.http import Http404, HttpResponse, StreamingHttpResponse
except ImportError as error:
    raise ConfigError(
        f"the Django adapter needs Django ({error}); pip install 'qai-realtime-sync[django]'", code="missing_dependency"
    ) from error

__all__ = ["connect_on_commit", "event_stream", "find", "keep", "new_client", "own_connections"]

_log = logging.getLogger("qai_realtime_sync")
_kept = Kept()
_request = threading.local()  # .clients: those that were made in the request of this thread


def new_client(config: RealtimeConfig | None = None, **arguments: Any) -> RealtimeClient:
    """A client by the settings; ``config`` and further arguments of `RealtimeClient` go before them.

    | setting | default | meaning |
    |---|---|---|
    | ``QAI_API_KEY``, ``QAI_BASE_URL`` | the environment | the gateway's key and address |
    | ``REALTIME_CONFIG`` | | a `RealtimeConfig`, or a dict of its fields |
    | ``REALTIME_CLIENT`` | | a dict of further arguments of `RealtimeClient`; with ``url`` and ``token`` those of `RealtimeClient.direct` |
    | ``REALTIME_CLOSE_ON_SIGTERM`` | ``False`` | the app calls `install_signal_handlers` when it is ready; in the main thread |

    Each of its handlers and tools runs in `own_connections`. Made while a request is served, it is closed when that is over (with a
    stream: when that has ended), unless it is given to `keep`. Elsewhere use ``with client:``.

    Raises: `ConfigError` for a wrong setting or argument, or if the app is not installed.
    """
    if not installed_apps.is_installed(__name__):
        raise ConfigError(f'add "{__name__}" to INSTALLED_APPS: it closes the clients of a request, and checks the settings')
    client = WebClient.from_settings(realtime_settings(), own_connections, config, arguments)
    made_here: list[RealtimeClient] | None = getattr(_request, "clients", None)
    if made_here is not None:
        made_here.append(client)
    return client


def realtime_settings() -> Mapping[str, Any]:
    """Return our part of the project's settings, with the defaults of what is not set."""
    return {key: getattr(settings, key, default) for key, default in SETTINGS.items()}


@contextlib.contextmanager
def own_connections() -> Iterator[None]:
    """Begin with database connections that work, and leave none behind in this thread; a transaction that is open is left alone.

    Connections belong to threads. Those of a conversation live as long as it does and see no request end, so nobody else would close
    theirs. Django's own `close_old_connections` would end a transaction that is open here, as in a test, or in a replay.
    """
    for connection in _idle_connections():
        connection.close_if_unusable_or_obsolete()
    try:
        yield
    finally:
        for connection in _idle_connections():
            connection.close()


def _idle_connections() -> list[Any]:
    return [connection for connection in connections.all(initialized_only=True) if not connection.in_atomic_block]


def connect_on_commit(client: RealtimeClient, using: str | None = None) -> None:
    """Connect when the current transaction is committed, at once without one, and never if it is rolled back.

    Handlers and tools have connections of their own: they cannot see what a transaction has not committed yet, such as the row that
    stands for this call.
    """
    transaction.on_commit(lambda: client.connect(), using=using)


def keep(client: RealtimeClient) -> str:
    """Let a client outlive the request that made it; return a name, not to be guessed, by which `find` knows it.

    It is forgotten a minute after its end; who ends it is up to the program.
    """
    made_here: list[RealtimeClient] = getattr(_request, "clients", None) or []
    made_here[:] = [other for other in made_here if other is not client]
    return _kept.add(client)


def find(name: str) -> RealtimeClient:
    """Return a client that was kept, in this process. Raises: `django.http.Http404` where there is none."""
    client = _kept.get(name)
    if client is None:
        raise Http404("no such conversation in this process")
    return client


def event_stream(
    request: Any,
    client: RealtimeClient,
    *,
    events: Collection[str] | Literal["all"] | None = None,
    audio: bool = False,
    heartbeat: float = 5.0,
) -> HttpResponse | StreamingHttpResponse:
    """Answer a request with a conversation's events as Server-Sent Events, until it is over or the browser goes.

    For a client of `new_client` from its beginning, at most the last thousand; for others from the first watcher on. A browser that lost
    its connection goes on where it was. The arguments are those of `sse.follow`. No database connection is held while it lasts.

    Raises: `ConfigError` for a name that no event has, and under ASGI, where Django would collect the stream before it sends it.
    """
    if hasattr(request, "scope"):
        raise ConfigError("event_stream needs a WSGI server (gunicorn, uWSGI, waitress): under ASGI nothing would be sent until the end")
    problem = worker_problem()
    if problem:
        _log.warning("an event stream lasts as long as its conversation, and %s", problem)
    journal, after = sse.journal_of(client), sse.last_seen(request.headers.get("Last-Event-ID"))
    stream = sse.follow(journal, after=after, events=events, audio=audio, heartbeat=heartbeat)
    if not journal.has_more(after):
        return HttpResponse(status=204)  # tells a browser not to come back
    # The encoding keeps GZipMiddleware away, which would hold events back until they fill a buffer.
    headers = {**sse.HEADERS, "Content-Encoding": "identity"}
    return StreamingHttpResponse(_without_connections(stream), content_type="text/event-stream", headers=headers)


def _without_connections(stream: Iterator[bytes]) -> Iterator[bytes]:
    with own_connections():
        pass  # what the view has opened
    yield from stream


def request_began(**_: object) -> None:
    """A request is served in this thread: what is made from now on belongs to it."""
    _request.clients = []


def request_ended(**_: object) -> None:
    """Close what the request has made and not kept."""
    clients: list[RealtimeClient] = getattr(_request, "clients", None) or []
    _request.clients = None
    for client in clients:
        client.close()
