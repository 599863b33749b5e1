"""``manage.py realtime_demo``: a conversation that asks the project's own database something, with a local server or the real service."""

from __future__ import annotations

import contextlib
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from qai_realtime_sync.client.client import RealtimeClient
from qai_realtime_sync.contrib.django import new_client
from qai_realtime_sync.errors import RealtimeError
from qai_realtime_sync.events import HandlerFailed, TranscriptDone

__all__ = ["Command"]

_QUESTION = "How many tables are there? Please count tables."


class Command(BaseCommand):  # type: ignore[misc]
    """Asks a question that the model answers with a tool which reads the database."""

    help = "Ask something in a realtime conversation that can read this project's database: with a local server, or --live."

    def add_arguments(self, parser: Any) -> None:
        """Add the question, and where to ask it."""
        parser.add_argument("question", nargs="?", default=_QUESTION)
        parser.add_argument("--live", action="store_true", help="ask the service that the settings name, instead of a local server")
        parser.add_argument("--timeout", type=float, default=30.0, help="seconds to wait for the answer")

    def handle(self, *args: Any, **options: Any) -> None:
        """Raises: `CommandError` with what went wrong."""
        try:
            with contextlib.ExitStack() as stack:
                given: dict[str, Any] = {}
                if not options["live"]:
                    from qai_realtime_sync.offline import RealtimeServer

                    given = {"api_key": "any key", "base_url": stack.enter_context(RealtimeServer(light=True)).url}
                self._converse(new_client(**given), options["question"], options["timeout"])
        except RealtimeError as error:
            raise CommandError(str(error)) from error

    def _converse(self, client: RealtimeClient, question: str, timeout: float) -> None:
        @client.tool
        def count_tables() -> int:
            """Count the tables of the database."""
            return len(connection.introspection.table_names())

        @client.on_transcript_done
        def say(event: TranscriptDone) -> None:
            self.stdout.write(f"{'assistant' if event.source == 'output' else 'you'}: {event.transcript}")

        @client.on_handler_failed
        def complain(event: HandlerFailed) -> None:
            self.stderr.write(f"{event.handler} failed: {event.error}")

        with client:
            self.stdout.write(f"you: {question}")
            answer = client.ask(question, timeout=timeout)
        self.stdout.write(f"{len(answer.audio) / client.config.output_audio.bytes_per_second:.1f} s of sound")
