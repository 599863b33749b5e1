"""The app: ends clients with their request, SIGTERM if asked, and registers the checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks
from django.core.signals import request_finished, request_started

from qai_realtime_sync.client.signals import install_signal_handlers
from qai_realtime_sync.contrib.django import realtime_settings, request_began, request_ended
from qai_realtime_sync.contrib.django.checks import check_key, check_settings, check_worker

__all__ = ["RealtimeAppConfig"]


class RealtimeAppConfig(AppConfig):  # type: ignore[misc]
    """``"qai_realtime_sync.contrib.django"`` in INSTALLED_APPS."""

    name = "qai_realtime_sync.contrib.django"
    label = "qai_realtime"
    verbose_name = "Realtime voice"

    def ready(self) -> None:
        """Raises: `ConfigError` if it is to handle SIGTERM outside the main thread."""
        request_started.connect(request_began, dispatch_uid="qai_realtime.began")
        request_finished.connect(request_ended, dispatch_uid="qai_realtime.ended")
        for check in (check_settings, check_key, check_worker):
            checks.register(check, "qai_realtime")
        if realtime_settings()["REALTIME_CLOSE_ON_SIGTERM"]:
            install_signal_handlers()
