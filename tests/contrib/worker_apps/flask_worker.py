"""A Flask app that converses in whatever worker runs it; the address and the settings come from the environment."""

from __future__ import annotations

import json
import os
from typing import Any

import flask

from qai_realtime_sync import RealtimeClient, RealtimeError
from qai_realtime_sync.contrib.flask import Realtime
from qai_realtime_sync.contrib.web_client import worker_problem
from tests.contrib.worker_apps.census import census

app = flask.Flask("worker")
app.config.from_mapping(json.loads(os.environ.get("WORKER_SETTINGS", "{}")))
realtime = Realtime(app)
made_on_import = RealtimeClient()  # with --preload, and in uWSGI without lazy-apps, this is before the fork


@app.errorhandler(RealtimeError)
def failed(error: RealtimeError) -> tuple[dict[str, Any], int]:
    """Tell which error it was."""
    return {"error": type(error).__name__, "text": str(error)}, 500


@app.post("/ask")
def ask() -> dict[str, Any]:
    """One conversation: a question that a tool answers, in the app's context, and the end."""
    client = realtime.new_client()

    @client.tool
    def get_name() -> str:
        """Get the name."""
        return f"The name is {flask.current_app.name}."

    return {"text": client.connect().ask("What is the name? Please get name.", timeout=30).text}


@app.post("/old")
def old() -> dict[str, Any]:
    """Use the client that was made when this module was imported."""
    with made_on_import as client:
        return {"text": client.ask("Hello!", timeout=30).text}


@app.post("/calls")
def begin() -> dict[str, Any]:
    """Begin a conversation that is billed, and outlives this request."""
    client = realtime.new_client(mint=True)
    name = realtime.keep(client)
    client.connect()
    return {"name": name}


@app.post("/calls/<name>/say")
def say(name: str) -> dict[str, Any]:
    """Speak in it."""
    return {"text": realtime.find(name).ask("Hello!", timeout=30).text}


@app.get("/calls/<name>/events")
def events(name: str) -> flask.Response:
    """Watch it."""
    return realtime.event_stream(realtime.find(name), heartbeat=0.5)


@app.get("/census")
def count() -> dict[str, Any]:
    """What this process holds, and what is known against it."""
    return {**census(), "problem": worker_problem()}
