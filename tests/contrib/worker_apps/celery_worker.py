"""Tasks that converse, in whatever pool runs them; each writes what came of it into the folder ``WORKER_FOLDER``."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.exceptions import SoftTimeLimitExceeded

from qai_realtime_sync import RealtimeClient, RealtimeError, RealtimeTimeoutError

app = Celery("worker", broker=os.environ["WORKER_BROKER"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
made_on_import = RealtimeClient()  # in a prefork pool this is before the fork
kept: list[RealtimeClient] = []


def _tell(name: str, **values: Any) -> None:
    folder = pathlib.Path(os.environ["WORKER_FOLDER"])
    (folder / f"{name}.part").write_text(json.dumps({"pid": os.getpid(), **values}))
    (folder / f"{name}.part").rename(folder / f"{name}.json")


def _task(function: Callable[[], None]) -> Any:
    return app.task(name=function.__name__)(function)


@_task
def ask() -> None:
    """One conversation: a question and its answer."""
    with RealtimeClient(mint=True) as client:
        _tell("ask", text=client.ask("Hello!", timeout=60).text)


@_task
def old() -> None:
    """Use the client that was made when this module was imported."""
    try:
        with made_on_import as client:
            _tell("old", text=client.ask("Hello!", timeout=60).text)
    except RealtimeError as error:
        _tell("old", text=f"{type(error).__name__}: {error}")


@_task
def keep() -> None:
    """A conversation that outlives its task."""
    client = RealtimeClient(mint=True).connect()
    kept.append(client)
    _tell("keep", session=client.session.session_id)


@_task
def talk() -> None:
    """A conversation until the file ``enough`` is there, or the task's time is over."""
    enough = pathlib.Path(os.environ["WORKER_FOLDER"], "enough")
    with RealtimeClient(mint=True) as client:
        _tell("began", session=client.session.session_id)
        try:
            while not enough.exists():
                with contextlib.suppress(RealtimeTimeoutError):
                    client.wait(0.2)
        except SoftTimeLimitExceeded:
            _tell("over_time", state=client.state)
            raise


@signals.worker_process_shutdown.connect  # type: ignore[untyped-decorator]
def end_kept(**_: object) -> None:
    """Processes of a prefork pool end without what Python does at its exit."""
    for client in kept:
        client.close()
