"""docs/telephone.md: its app in a real gunicorn, started by its own line, called by its own caller, and ended in the middle of a call."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator

import pytest

from qai_realtime_sync import ApiError
from qai_realtime_sync.testing.telephone import FakeCaller

pytest.importorskip("flask_sock", reason="the page's program needs flask-sock")
pytest.importorskip("gunicorn", reason="the page's program needs gunicorn")

from qai_realtime_sync.offline import RealtimeServer
from tests.contrib.web import free_port

ROOT = pathlib.Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "telephone.md").read_text(encoding="utf-8")
PHONE, CALLER = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
(COMMAND,) = re.findall(r"^```sh\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
PATIENCE = 30.0


def until(condition: Callable[[], bool], within: float) -> bool:
    """Look ten times a second whether something outside this process has happened."""
    deadline, pause = time.monotonic() + within, threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            return False
        pause.wait(0.1)
    return True


class Gunicorn:
    """The page's app, run by the page's command."""

    def __init__(self, folder: pathlib.Path, server: RealtimeServer, phone: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        (folder / "phone.py").write_text(phone)
        words = shlex.split(COMMAND.replace("127.0.0.1:5000", self.address).replace("http://127.0.0.1:8765", server.url))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("QAI_", "TWILIO_"))}
        environment |= dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
        program = [word for word in words if not re.match(r"[A-Z_]+=", word)]
        self._output = folder / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *program],
                cwd=folder,
                env=environment | {"PYTHONPATH": str(ROOT), "PUBLIC_URL": f"http://{self.address}"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        assert until(lambda: self.answers() or self.process.poll() is not None, PATIENCE)
        assert self.process.poll() is None, self.output

    def answers(self) -> bool:
        """Whether it listens and has begun to work."""
        if "Booting worker" not in self.output:
            return False
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", int(self.address.rpartition(":")[2]))) == 0

    @property
    def output(self) -> str:
        """What it has written so far."""
        return self._output.read_text()

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def server() -> Iterator[RealtimeServer]:
    with RealtimeServer(light=True) as running:
        yield running


@pytest.fixture
def gunicorn(tmp_path: pathlib.Path, server: RealtimeServer) -> Iterator[Callable[[str], Gunicorn]]:
    """Give a function that runs such a program; what still runs at the end is killed."""
    started: list[Gunicorn] = []

    def start(phone: str) -> Gunicorn:
        started.append(Gunicorn(tmp_path, server, phone))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def test_the_page_works(gunicorn: Callable[[str], Gunicorn], tmp_path: pathlib.Path) -> None:
    """Its caller is greeted by its app and answered without a gap, and the sound is in its file."""
    running = gunicorn(PHONE)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CALLER.replace("127.0.0.1:5000", running.address)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    # On a busy machine a handler may be slow for once, and the client says so.
    complaints = [line for line in done.stderr.splitlines() if "held up the conversation" not in line]
    assert (done.returncode, complaints) == (0, []), done.stderr
    assert "complaints: []" in done.stdout
    assert (tmp_path / "heard.wav").stat().st_size > 30_000
    assert until(lambda: " after " in running.output, PATIENCE), running.output
    assert "hung_up after" in running.output, running.output[-600:]
    assert "call from +15550100" in running.output
    assert running.end() == 0
    assert "Traceback" not in running.output


def test_sigterm_ends_a_call_and_its_bill(gunicorn: Callable[[str], Gunicorn], server: RealtimeServer) -> None:
    """A worker that is told to end while somebody talks closes the call and settles it, and does not wait for the caller."""
    running = gunicorn(PHONE.replace("config=CONFIG)", 'config=CONFIG, mint=True, provider="xai")'))
    with FakeCaller(f"ws://{running.address}/media", parameters={"caller": "Anna"}) as caller:
        caller.wait_for_sound()
        assert [session["ended"] for session in server.ledger.sessions()] == [0]
        assert running.end() == 0
        caller.wait_for_end()
    assert [session["ended"] for session in server.ledger.sessions()] == [1]
    assert "Traceback" not in running.output


def test_only_twilio_gets_in(server: RealtimeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an auth token the example refuses a form and an upgrade that are not signed, or signed with another token."""
    spec = importlib.util.spec_from_file_location("flask_phone", ROOT / "examples" / "flask_phone.py")
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "the account's")
    monkeypatch.delenv("PUBLIC_URL", raising=False)
    with example.serving(example.create_app(server.url, "any key"), 0) as address:
        for token in ("", "another"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                FakeCaller.ring(f"{address}/voice", auth_token=token)
            assert refused.value.code == 403
            refused.value.close()
            with pytest.raises(ApiError) as closed:
                FakeCaller(address.replace("http", "ws") + "/media", auth_token=token).dial()
            assert closed.value.status_code == 403
        assert server.conversations == []
        with FakeCaller.ring(f"{address}/voice?language=en", auth_token="the account's") as caller:
            caller.wait_for_sound()
