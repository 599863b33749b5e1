"""A Django project in one file: a page to write to, answers by Server-Sent Events, and every line of the conversation in the database.

    python examples/django_app.py                             # with a local server of its own; open the address it prints
    QAI_API_KEY=… python examples/django_app.py --url https://api.quantumencoding.ai

Needs: pip install 'qai-realtime-sync[django,serve]'
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile

import django
from django.conf import settings

# What is settings.py in a project of the usual size.
settings.configure(
    DEBUG=True,
    SECRET_KEY="only for this example",
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    INSTALLED_APPS=["qai_realtime_sync.contrib.django"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
    REALTIME_CONFIG={"instructions": "You are a friendly voice. Be brief."},
)
django.setup()

from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, models  # noqa: E402
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views.decorators.csrf import ensure_csrf_cookie  # noqa: E402
from django.views.decorators.http import require_POST  # noqa: E402

from qai_realtime_sync import TranscriptDone  # noqa: E402
from qai_realtime_sync.contrib.django import event_stream, find, keep, new_client  # noqa: E402


class Line(models.Model):  # type: ignore[misc]
    """Something that was said."""

    call = models.CharField(max_length=40)
    speaker = models.CharField(max_length=10)
    words = models.TextField()

    class Meta:
        app_label = "calls"


# -- the views -----------------------------------------------------------------------------------------------------------------


@ensure_csrf_cookie
def page(request: HttpRequest) -> HttpResponse:
    """Show the page."""
    return HttpResponse(pathlib.Path(__file__).with_suffix(".html").read_bytes())


@require_POST
def begin(request: HttpRequest) -> JsonResponse:
    """Begin a conversation that outlives this request."""
    client = new_client()
    call = keep(client)

    @client.tool
    def count_lines() -> int:
        """Count the lines that were stored so far."""
        return int(Line.objects.count())

    def store(event: TranscriptDone) -> None:
        Line.objects.create(call=call, speaker="assistant", words=event.transcript)

    client.on_transcript_done(store, background=True)  # a database may be slow
    client.connect()
    return JsonResponse({"call": call})


@require_POST
def say(request: HttpRequest, call: str) -> JsonResponse:
    """Say something in it."""
    words = request.POST["words"]
    Line.objects.create(call=call, speaker="you", words=words)
    find(call).send_text(words)
    return JsonResponse({})


@require_POST
def end(request: HttpRequest, call: str) -> JsonResponse:
    """End it, and show what was stored."""
    find(call).close()
    return JsonResponse({"lines": list(Line.objects.filter(call=call).order_by("id").values("speaker", "words"))})


def events(request: HttpRequest, call: str) -> HttpResponseBase:
    """Tell the page what is said, until the end."""
    return event_stream(request, find(call))


urlpatterns = [
    path("", page),
    path("calls", begin),
    path("calls/<call>/say", say),
    path("calls/<call>/end", end),
    path("calls/<call>/events", events),
]


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="A conversation in a Django project.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        settings.QAI_BASE_URL = arguments.url
        if arguments.url is None:
            from qai_realtime_sync.offline import RealtimeServer

            settings.QAI_API_KEY, settings.QAI_BASE_URL = "any key", stack.enter_context(RealtimeServer(light=True)).url
        settings.DATABASES["default"]["NAME"] = f"{stack.enter_context(tempfile.TemporaryDirectory())}/calls.sqlite3"
        with connection.schema_editor() as editor:  # what migrate does
            editor.create_model(Line)
        stack.callback(connection.close)
        server = stack.enter_context(ThreadedWSGIServer(("127.0.0.1", arguments.port), WSGIRequestHandler))
        server.set_app(get_wsgi_application())
        print(f"open http://127.0.0.1:{server.server_port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
