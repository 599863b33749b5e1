"""A Django project with SQLite that converses in whatever worker runs it; every answer is stored by a handler."""

from __future__ import annotations

import os
from typing import Any

from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from qai_realtime_sync import ResponseDone
from qai_realtime_sync.contrib.django import new_client
from tests.contrib.worker_apps.census import census

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.contrib.worker_apps.django_settings")


def _rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT COUNT(*) FROM answers")
        return int(cursor.fetchone()[0])


@csrf_exempt  # type: ignore[untyped-decorator]
def ask(request: HttpRequest) -> Any:
    """Open, talk, close; view, handler and tool use the database, each in its own thread."""
    client = new_client(mint=True)

    @client.tool
    def count_answers() -> str:
        """Count answers."""
        return f"There are {_rows()} answers."

    @client.on_response_done
    def store(event: ResponseDone) -> None:
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO answers VALUES (%s)", [event.status])

    _rows()
    return JsonResponse({"text": client.connect().ask("How many answers are there? Please count answers.", timeout=90).text})


def count(request: HttpRequest) -> Any:
    """What this process holds; opens no connection itself."""
    return JsonResponse(census())


urlpatterns = [path("ask", ask), path("census", count)]
app = get_wsgi_application()
