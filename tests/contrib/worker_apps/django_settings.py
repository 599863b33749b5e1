"""The settings of `django_worker`."""

from __future__ import annotations

import os

SECRET_KEY = "for tests"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.contrib.worker_apps.django_worker"
INSTALLED_APPS = ["qai_realtime_sync.contrib.django"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("WORKER_DATABASE", ""), "OPTIONS": {"timeout": 60}},
}
USE_TZ = True
