"""The Flask app, and a library that is imported with it: with --preload before gunicorn patches the worker for gevent."""

from __future__ import annotations

import requests

from tests.contrib.worker_apps.flask_worker import app

__all__ = ["app", "requests"]
