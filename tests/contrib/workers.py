"""Real web servers with a worker that converses, and what is tried in each; ``python -m tests.contrib.workers`` prints it as a table.

The local gateway runs in the process of the tests; the web server and its workers are processes of their own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.web import Stream, free_port, get, post, python_path

__all__ = ["PATIENCE", "WORKERS", "Worker", "gateway", "program", "until"]

PATIENCE = 60.0
FLASK_APP = "tests.contrib.worker_apps.flask_worker:app"
# Called by gunicorn in each worker, after its own handlers have been installed.
HOOK = """
from qai_realtime_sync import install_signal_handlers


def post_worker_init(worker):
    install_signal_handlers()
"""
# Before anything is imported in the master, whose modules the workers inherit.
PATCHING_HOOK = f"""
from gevent import monkey

monkey.patch_all()
{HOOK}"""
SIGTERM = {"REALTIME_CLOSE_ON_SIGTERM": True}
GUNICORN = ["gunicorn", "--graceful-timeout", "20"]
GTHREAD = [*GUNICORN, "--worker-class", "gthread", "--threads", "8"]
GEVENT = [*GUNICORN, "--worker-class", "gevent"]
UWSGI = ["uwsgi", "--enable-threads", "--threads", "8", "--die-on-term"]
WAITRESS = ["waitress", "--threads", "8"]
# name -> (command, settings of the app)
WORKERS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "gunicorn gthread": (GTHREAD, SIGTERM),
    "gunicorn gthread --preload": ([*GTHREAD, "--preload", "--config", "hook.py"], {}),
    "gunicorn gevent": (GEVENT, SIGTERM),
    "gunicorn gevent --preload": ([*GEVENT, "--preload", "--config", "patching_hook.py"], {}),
    "gunicorn sync": ([*GUNICORN, "--worker-class", "sync"], SIGTERM),
    "uwsgi": (UWSGI, {}),
    "uwsgi --lazy-apps": ([*UWSGI, "--lazy-apps"], {}),
    "waitress": (WAITRESS, SIGTERM),
}
FORKS = ("gunicorn gthread --preload", "gunicorn gevent --preload", "uwsgi")  # the app is made before the worker


@contextlib.contextmanager
def gateway(tls: bool = False) -> Iterator[RealtimeServer]:
    """The local gateway, for the key that workers have."""
    with RealtimeServer(light=True, key="worker key", tls=tls) as server:
        yield server


def program(name: str) -> str:
    """Where a program is, beside this Python first; ``""`` if it is not installed."""
    return shutil.which(name, path=os.path.dirname(sys.executable)) or shutil.which(name) or ""


def until(true: Callable[[], Any], what: str) -> Any:
    """Wait until something is true, and return it; for what another process does and nobody tells."""
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not (found := true()):
        assert time.monotonic() < deadline, f"{what} did not happen within {PATIENCE:g} s"
        pause.wait(0.05)
    return found


class Worker:
    """A web server with one worker, in a folder of its own; its log is `log`."""

    def __init__(
        self, server: RealtimeServer, folder: pathlib.Path, arguments: list[str], settings: dict[str, Any], app: str = FLASK_APP
    ) -> None:
        self.server, self.folder, self.port = server, folder, free_port()
        address = f"127.0.0.1:{self.port}"
        # Starting gunicorn by its module lets it be run by this Python, wherever its script is.
        self._command = {
            "gunicorn": [sys.executable, "-m", "gunicorn", "--bind", address, *arguments[1:], app],
            "uwsgi": [
                program("uwsgi"),
                "--http-socket",
                address,
                "--master",
                "--need-app",
                "-H",
                sys.prefix,
                "--wsgi",
                app,
                *arguments[1:],
            ],
            "waitress": [sys.executable, "-m", "waitress", f"--listen={address}", *arguments[1:], app],
        }[arguments[0]]
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(("QAI_", "DJANGO_", "GUNICORN_"))} | {
            "PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", "HOME": str(folder), "WORKER_SETTINGS": json.dumps(settings),
            "QAI_API_KEY": "worker key", "QAI_BASE_URL": server.url, "WORKER_DATABASE": str(folder / "answers.sqlite3"),
        }  # fmt: skip
        if server.certificate:
            (folder / "trusted.pem").write_text(server.certificate)
            self._environment["REQUESTS_CA_BUNDLE"] = str(folder / "trusted.pem")
        (folder / "hook.py").write_text(HOOK)
        (folder / "patching_hook.py").write_text(PATCHING_HOOK)

    def __enter__(self) -> Worker:
        with (self.folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(self._answers, "the first answer of the web server")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"the web server has ended:\n{self.log}"
        try:
            return get(self.port, "/census")[0] == 200
        except OSError:
            return False

    @property
    def log(self) -> str:
        """What the web server and its worker have written so far."""
        return (self.folder / "log").read_text(errors="replace")

    def get(self, path: str) -> Any:
        """The value of a page."""
        return json.loads(get(self.port, path)[1])

    def post(self, path: str, body: str = "") -> Any:
        """The value that a form is answered with."""
        return json.loads(post(self.port, path, body)[1])

    def terminate(self) -> float:
        """Ask the web server to end, by SIGTERM; return how many seconds that took."""
        began = time.monotonic()
        self.process.terminate()
        self.process.wait(PATIENCE)
        return time.monotonic() - began

    def bills(self) -> list[int]:
        """How often each minted session was ended, in the order of their minting."""
        return [session["ended"] for session in self.server.ledger.sessions()]

    # -- what is tried in each ----------------------------------------------------------------------------------------------

    def ask(self) -> str:
        """One conversation within a request: the answer, in which a tool had its part."""
        return str(self.post("/ask", "question=What is the name? Please get name.")["text"])

    def use_old(self) -> str:
        """Use the client that was made when the app was imported: the answer, or the error."""
        answer = self.post("/old")
        return str(answer["text"] if "error" not in answer else f"{answer['error']}: {answer['text']}")

    def holds_nothing(self) -> bool:
        """Whether all threads of conversations have ended."""
        return set(self.get("/census")["threads"]) <= {"qai-signals"}

    def end_idle(self) -> tuple[float, list[int]]:
        """Leave a billed conversation open, with no request, and end the web server: (seconds, how often each session was ended)."""
        name = self.post("/calls")["name"]
        assert self.post(f"/calls/{name}/say")["text"]
        asleep = 0

        def is_at_rest() -> bool:
            nonlocal asleep
            asleep = asleep + 1 if self._sleeps() else 0
            return asleep >= 5

        until(is_at_rest, "the end of what the web server does after a request")
        return self.terminate(), self._settled()

    def _sleeps(self) -> bool:
        """Whether no thread of the web server's processes, which have a session of their own, runs at this moment."""
        states = set()
        for file in pathlib.Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(file.read_text().rpartition(")")[2].split()[3]) == self.process.pid:
                    states |= {one.read_text().rpartition(")")[2].split()[0] for one in file.parent.glob("task/*/stat")}
        return states == {"S"}

    def end_watched(self) -> tuple[float, list[int]]:
        """The same, while a browser watches the conversation."""
        name = self.post("/calls")["name"]
        with Stream(self.port, f"/calls/{name}/events") as stream:
            stream.until("state_changed")
            return self.terminate(), self._settled()

    def _settled(self) -> list[int]:
        """Once the gateway has seen the last conversation end."""
        until(lambda: self.server.journal[-1]["name"] == "closed", "the end of the conversation")
        return self.bills()


def main() -> None:
    """Print which worker does what."""
    _say(f"{'worker':28}{'a call':>10}{'old client':>20}{'SIGTERM, idle':>20}{'SIGTERM, watched':>20}")
    for name, (arguments, settings) in WORKERS.items():
        row = [_told(lambda worker: worker.ask() and "answered", arguments, settings)]
        row.append(_told(lambda worker: worker.use_old().partition(":")[0].partition("!")[0], arguments, settings))
        row += [_told(lambda worker, end=end: _bill(*end(worker)), arguments, settings) for end in (Worker.end_idle, Worker.end_watched)]
        _say(f"{name:28}{row[0]:>10}{row[1]:>20}{row[2]:>20}{row[3]:>20}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _told(case: Callable[[Worker], Any], arguments: list[str], settings: dict[str, Any]) -> str:
    with gateway() as server, tempfile.TemporaryDirectory() as folder, Worker(server, pathlib.Path(folder), arguments, settings) as worker:
        return str(case(worker))


def _bill(seconds: float, bills: list[int]) -> str:
    return f"{'settled' if bills == [1] else 'not settled'}, {seconds:.1f} s"


if __name__ == "__main__":
    main()
