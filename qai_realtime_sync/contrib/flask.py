"""Flask: clients made from the app's configuration, handlers and tools in its contexts, events for a browser.

    realtime = Realtime(app)

    @app.post("/ask")
    def ask():
        client = realtime.new_client()        # closed with this request, whatever happens
        return client.connect().ask(request.form["question"]).text

Raises on import: `ConfigError` without Flask (``pip install 'qai-realtime-sync[flask]'``).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection
from typing import Any, Literal

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.client.signals import install_signal_handlers
from qai_realtime_sync.config import RealtimeConfig
from qai_realtime_sync.contrib import sse
from qai_realtime_sync.contrib.web_client import SETTINGS, Around, Kept, WebClient, worker_problem
from qai_realtime_sync.errors import ConfigError

try:
    import flask
    from flask.globals import request_ctx
except ImportError as error:
    raise ConfigError(
        f"the Flask extension needs Flask ({error}); pip install 'qai-realtime-sync[flask]'", code="missing_dependency"
    ) from error

__all__ = ["Realtime", "event_stream"]

_log = logging.getLogger("qai_realtime_sync")
_NAME = "qai_realtime"
_STREAMS = "qai_realtime_streams"


class Realtime:
    """The extension: ``Realtime(app)``, or ``Realtime()`` and ``init_app(app)``, for any number of apps.

    | key of ``app.config`` | default | meaning |
    |---|---|---|
    | ``QAI_API_KEY``, ``QAI_BASE_URL`` | the environment | the gateway's key and address |
    | ``REALTIME_CONFIG`` | | a `RealtimeConfig`, or a dict of its fields |
    | ``REALTIME_CLIENT`` | | a dict of further arguments of `RealtimeClient`; with ``url`` and ``token`` those of `RealtimeClient.direct` |
    | ``REALTIME_CLOSE_ON_SIGTERM`` | ``False`` | ``init_app`` calls `install_signal_handlers`; in the main thread |

    It is also ``app.extensions["qai_realtime"]``.
    """

    def __init__(self, app: flask.Flask | None = None) -> None:
        self._app = app
        self._kept = Kept()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: flask.Flask) -> None:
        """Read the app's configuration from now on, and close its clients when their context ends.

        Raises: `ConfigError` if it is to handle SIGTERM outside the main thread.
        """
        for key, default in SETTINGS.items():
            app.config.setdefault(key, default)
        app.extensions[_NAME] = self
        app.teardown_appcontext(_close_clients)
        flask.request_finished.connect(_hand_over, app)
        if app.config["REALTIME_CLOSE_ON_SIGTERM"]:
            install_signal_handlers()

    def new_client(self, config: RealtimeConfig | None = None, *, request_context: bool = False, **arguments: Any) -> RealtimeClient:
        """A client by the app's configuration; ``config`` and further arguments of `RealtimeClient` go before it.

        Its handlers and tools run inside the app's context, each in one of its own, so that ``current_app``, ``g`` and what extensions tie
        to them (database sessions) work and are cleaned up after each. With ``request_context=True`` they see a copy of the current
        request too, also when it is over; changes to the session are lost there.

        Made in an app context (every request has one), it is closed when that ends (with a stream: when that has ended), unless it is
        given to `keep`. Elsewhere use ``with client:``.

        Raises: `ConfigError` for a wrong setting or argument; without an app; without a request to copy.
        """
        app: flask.Flask | None = flask.current_app._get_current_object() if flask.current_app else self._app  # type: ignore[attr-defined]
        if app is None or _NAME not in app.extensions:
            raise ConfigError("new_client needs an app: call it in an app context, of an app that init_app was called with")
        around = _copied_request() if request_context else app.app_context
        client = WebClient.from_settings(app.config, around, config, arguments)
        if flask.has_app_context():
            flask.g.setdefault(_NAME, []).append(client)
        return client

    def keep(self, client: RealtimeClient) -> str:
        """Let a client outlive the request that made it; return a name, not to be guessed, by which `find` knows it.

        It is forgotten a minute after its end; who ends it is up to the program.
        """
        _release(client)
        return self._kept.add(client)

    def find(self, name: str) -> RealtimeClient:
        """Return a client that was kept, in this process; where there is none, the request ends with 404."""
        client = self._kept.get(name)
        if client is None:
            flask.abort(404, "no such conversation in this process")
        return client

    @staticmethod
    def event_stream(
        client: RealtimeClient, *, events: Collection[str] | Literal["all"] | None = None, audio: bool = False, heartbeat: float = 5.0
    ) -> flask.Response:
        """See `event_stream`."""
        return event_stream(client, events=events, audio=audio, heartbeat=heartbeat)


def event_stream(
    client: RealtimeClient, *, events: Collection[str] | Literal["all"] | None = None, audio: bool = False, heartbeat: float = 5.0
) -> flask.Response:
    """Answer a request with a conversation's events as Server-Sent Events, until it is over or the browser goes.

    For a client of `Realtime.new_client` from its beginning, at most the last thousand; for others from the first watcher on. A browser
    that lost its connection goes on where it was. A client that this request has made is closed when the stream has ended. The arguments
    are those of `sse.follow`.

    Raises: `ConfigError` for a name that no event has.
    """
    problem = worker_problem()
    if problem:
        _log.warning("an event stream lasts as long as its conversation, and %s", problem)
    journal, after = sse.journal_of(client), sse.last_seen(flask.request.headers.get("Last-Event-ID"))
    stream = sse.follow(journal, after=after, events=events, audio=audio, heartbeat=heartbeat)
    if not journal.has_more(after):
        return flask.Response(status=204)  # tells a browser not to come back
    response = flask.Response(stream, mimetype="text/event-stream", headers=sse.HEADERS)
    flask.g.setdefault(_STREAMS, []).append(client)
    return response


def _hand_over(_: flask.Flask, *, response: flask.Response, **__: object) -> None:
    """Leave a client to the stream that is sent, also where a view or a hook has wrapped it in one of its own.

    One whose view failed after `event_stream`, or answered something else, ends with the request, or with that answer.
    """
    for client in flask.g.pop(_STREAMS, []):
        if response.is_streamed and _release(client):
            response.call_on_close(client.close)


def _release(client: RealtimeClient) -> bool:
    """Let a client outlive the context; tell whether it was made in it."""
    made_here: list[RealtimeClient] = flask.g.get(_NAME, []) if flask.has_app_context() else []
    others = [other for other in made_here if other is not client]
    was_here = len(others) < len(made_here)
    made_here[:] = others
    return was_here


def _close_clients(_: BaseException | None) -> None:
    for client in flask.g.pop(_NAME, []):
        client.close()


def _copied_request() -> Around:
    """Return what makes a context of the current request for one call in another thread."""
    if not flask.has_request_context():
        raise ConfigError("request_context=True needs a request to copy: make the client in a view")
    flask.request.get_data(parse_form_data=True)  # the body cannot be read any more when the request is over
    context: Any = request_ctx._get_current_object()  # type: ignore[attr-defined]

    def copied() -> Any:
        one = context.copy()
        one.request = copy.copy(context.request)  # so that no two threads write to one
        one.request.close = lambda: None  # its files are the view's
        return one

    return copied
