"""Two gunicorn workers and Redis: a call of one is watched and commanded through the other, and no kill -9 leaves it running."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.cli.running import Running
from tests.contrib.redis_server import RedisServer, free_port

for name in ("redis", "flask", "gunicorn", "werkzeug", "simple_websocket"):
    pytest.importorskip(name, reason=f"{name} is not installed")

ROOT = pathlib.Path(__file__).parents[2]
WAIT = 30.0


class Site:
    """The example's app under gunicorn with two workers, a gateway in a process of its own, and Redis."""

    def __init__(self, folder: pathlib.Path, ttl: float, grace: float) -> None:
        self.folder = folder
        self.redis = RedisServer(folder)
        self.gateway = Running(["serve", "--light", "--pace", "1"], folder, [])
        self.port = free_port()
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("QAI_")} | {
            "PYTHONPATH": str(ROOT), "QAI_API_KEY": "any key", "CALL_TTL": str(ttl), "CALL_GRACE": str(grace),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.log = (folder / "gunicorn.log").open("wb")

    def __enter__(self) -> Site:
        try:
            self.redis.start()
            self.gateway_url = self.gateway.read_until("listening on ", within=WAIT).split()[-1]
            options = ["--workers", "2", "--worker-class", "gthread", "--threads", "16", "--graceful-timeout", "3"]
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{self.port}", "many_machines:create_app()"],
                cwd=ROOT / "examples",
                env=self.environment | {"QAI_BASE_URL": self.gateway_url, "REDIS_URL": self.redis.url},
                stdin=subprocess.DEVNULL,
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )
            deadline, pause = time.monotonic() + WAIT, threading.Event()
            while not self.answers():
                assert time.monotonic() < deadline, (self.folder / "gunicorn.log").read_text()
                pause.wait(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(10)
        self.gateway.process.terminate()
        self.gateway.finish(10)
        self.gateway.kill()
        self.redis.stop()
        self.log.close()

    def answers(self) -> bool:
        """Whether the app serves."""
        try:
            self.request(None, "GET", "/calls")
        except OSError:
            return False
        return True

    # -- requests ----------------------------------------------------------------------------------------------------------

    def request(
        self, worker: int | None, method: str, path: str, body: Any = None, unlike: int | None = None, user: str = "anna"
    ) -> tuple[int, int, Any]:
        """One request, to the worker that is wanted, or to another than ``unlike``: (worker, status, value)."""
        connection = self.connection(worker, unlike)
        try:
            connection.request(method, path, json.dumps(body or {}), {"X-User": user, "Content-Type": "application/json"})
            answer = connection.getresponse()
            return int(answer.headers["X-Worker"]), answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def connection(self, worker: int | None, unlike: int | None) -> http.client.HTTPConnection:
        """A connection that this worker has: it keeps what it has accepted for a few requests."""
        deadline = time.monotonic() + WAIT
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
            try:
                connection.request("GET", "/calls", headers={"X-User": "nobody"})
                answer = connection.getresponse()
                answer.read()
                found = int(answer.headers["X-Worker"])
            except (OSError, http.client.HTTPException):
                found = 0  # that worker was just killed
            if found and (worker is None or found == worker) and found != unlike:
                return connection
            connection.close()
            assert time.monotonic() < deadline, f"no connection to {worker or f'another than {unlike}'}"

    def sessions(self) -> dict[str, dict[str, Any]]:
        """The gateway's ledger."""
        with urllib.request.urlopen(f"{self.gateway_url}/ledger", timeout=WAIT) as answer:
            return {session["id"]: session for session in json.load(answer)["sessions"]}


class Browser:
    """Follows the events of a call as a browser does: when the stream breaks it comes back with the last id."""

    def __init__(self, site: Site, call: str, worker: int | None, unlike: int | None = None) -> None:
        self.site, self.call = site, call
        self.seen: list[tuple[int, dict[str, Any]]] = []
        self.missed = 0
        self.workers: list[int] = []
        self.closed_at = 0.0
        self.changed = threading.Condition()
        self.next = (worker, unlike)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        """Come back until the end."""
        try:
            while not self.closed_at:
                self.follow()
        except BaseException as error:
            self.error = error
        with self.changed:
            self.changed.notify_all()

    def follow(self) -> None:
        """One stream, until it breaks or ends."""
        connection = self.site.connection(*self.next)
        headers = {"X-User": "anna"} | ({"Last-Event-ID": f"{self.seen[-1][0]}-0"} if self.seen else {})
        try:
            connection.request("GET", f"/calls/{self.call}/events", headers=headers)
            answer = connection.getresponse()
            assert answer.status == 200
            with self.changed:
                self.workers.append(int(answer.headers["X-Worker"]))
                self.changed.notify_all()
            number = 0
            while line := answer.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name == "id":
                    number = int(value.partition("-")[0])
                elif name == "event":
                    self.missed += 1
                elif name == "data" and value.startswith("{"):
                    with self.changed:
                        self.seen.append((number, json.loads(value)))
                        if self.seen[-1][1]["name"] == "closed":
                            self.closed_at = time.monotonic()
                        self.changed.notify_all()
        except (OSError, http.client.HTTPException):
            pass  # the worker was killed: a browser comes back
        finally:
            connection.close()

    def wait(self, condition: Any) -> None:
        """Wait until what was seen is enough."""
        with self.changed:
            enough = self.changed.wait_for(lambda: self.error or condition(), WAIT)
            assert enough, f"that did not happen; {self.seen[-3:]}"
            assert self.error is None, self.error

    def count(self, name: str) -> int:
        """How many of these were seen."""
        return sum(value["name"] == name for _, value in self.seen)

    def whole(self, site: Site, call: str) -> None:
        """Check that what was seen over all streams is what one stream tells from the beginning."""
        self.thread.join(WAIT)
        assert self.error is None, self.error
        again = Browser(site, call, None)
        again.thread.join(WAIT)
        assert again.error is None, again.error
        assert self.seen == again.seen
        assert (self.missed, again.missed) == (0, 0)
        numbers = [number for number, _ in self.seen]
        assert numbers == sorted(set(numbers))


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Site]:
    """The site, with the times that the test wants."""
    with Site(tmp_path, *getattr(request, "param", (3.0, 1.0))) as running:
        yield running


def begin(site: Site, worker: int | None = None) -> tuple[str, int]:
    """Begin a call: its id and the worker that owns it."""
    owner, status, value = site.request(worker, "POST", "/calls")
    assert status == 200, value
    assert value["worker"] == owner
    return value["id"], owner


@pytest.mark.parametrize(
    ("site", "limit"),
    [pytest.param((3.0, 1.0), 15.0, id="short"), pytest.param((6.0, 3.0), 15.0, id="as usual", marks=pytest.mark.long)],
    indirect=["site"],
)
def test_two_workers_and_kill_nine(site: Site, limit: float) -> None:
    """What worker A owns is watched, interrupted and ended through B; B is killed and the watcher goes on at A; A is killed and
    the call is ended and billed within 15 s; no event is lost or doubled in any of it."""
    # a call of A, through B
    call, a = begin(site)
    browser = Browser(site, call, None, unlike=a)
    browser.wait(lambda: browser.workers)
    b = browser.workers[0]
    assert b != a
    said = site.request(b, "POST", f"/calls/{call}/say", {"text": "Please tell me a long story"})
    assert said == (b, 200, {"outcome": "done", "error": ""})
    browser.wait(lambda: browser.count("audio_delta") >= 2)
    assert site.request(b, "POST", f"/calls/{call}/interrupt")[2]["outcome"] == "done"
    browser.wait(lambda: any(value["name"] == "response_done" and value.get("status") == "cancelled" for _, value in browser.seen))
    assert [one["id"] for one in site.request(b, "GET", "/calls")[2]] == [call]
    assert site.request(b, "POST", f"/calls/{call}/end")[2] == {"outcome": "done", "error": ""}
    browser.whole(site, call)
    assert browser.workers == [b]
    assert [session["ended"] for session in site.sessions().values()] == [1]

    # another call of A, watched through B, which is killed in mid-stream
    call, _ = begin(site, a)
    browser = Browser(site, call, b)
    browser.wait(lambda: browser.workers)
    site.request(a, "POST", f"/calls/{call}/say", {"text": "Please tell me a long story"})
    browser.wait(lambda: browser.count("audio_delta") >= 2)
    seen, browser.next = len(browser.seen), (a, None)
    os.kill(b, signal.SIGKILL)
    browser.wait(lambda: len(browser.workers) == 2 and len(browser.seen) > seen)
    assert browser.workers == [b, a]

    # A is killed
    browser.next = (None, a)
    os.kill(a, signal.SIGKILL)
    killed_at = time.monotonic()
    browser.wait(lambda: browser.closed_at)
    assert browser.closed_at - killed_at < limit
    assert "died" in browser.seen[-1][1]["reason"]
    browser.whole(site, call)
    assert [session["ended"] for session in site.sessions().values()] == [1, 1]
    assert all(session["duration_seconds"] >= 1 for session in site.sessions().values())
    print(f"ended and billed {browser.closed_at - killed_at:.1f} s after kill -9")  # noqa: T201


def test_a_worker_that_is_told_to_end_ends_its_calls(site: Site) -> None:
    """SIGTERM of gunicorn closes the calls of its workers in order: billed, and watchers are told by the owner itself."""
    call, a = begin(site)
    browser = Browser(site, call, None, unlike=a)
    browser.wait(lambda: browser.count("state_changed") >= 2)
    os.kill(a, signal.SIGTERM)
    browser.wait(lambda: browser.closed_at)
    assert browser.seen[-1][1]["by"] == "client"
    browser.whole(site, call)
    assert [session["ended"] for session in site.sessions().values()] == [1]


def test_nobody_touches_the_call_of_another(site: Site) -> None:
    """The app's rule holds through every worker, and what is unknown or wrong has its status."""
    call, _ = begin(site)
    path = f"/calls/{call}"
    assert site.request(None, "GET", "/calls", user="eve")[2] == []
    assert [site.request(None, "POST", f"{path}/{what}", {"text": "x"}, user="eve")[1] for what in ("say", "interrupt", "end")] == [403] * 3
    assert site.request(None, "GET", f"{path}/events", user="eve")[1] == 403
    assert site.request(None, "POST", "/calls/no-such-call/end")[1] == 404
    assert site.request(None, "POST", "/calls/a%20b/end")[1] == 400
    refused = site.request(None, "POST", f"{path}/say", {"text": " "})[2]
    assert refused["outcome"] == "refused"
    assert "not empty" in refused["error"]
    assert site.request(None, "POST", f"{path}/end")[2]["outcome"] == "done"


# -- the page ------------------------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "many_machines.md"


def blocks() -> list[str]:
    """The Python of the page."""
    if not PAGE.is_file():
        pytest.skip("the docs are not here")
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_page_has_no_block_that_is_not_run() -> None:
    """The page's Python is the program and the app that the next two tests run."""
    program, app = blocks()
    assert "redis_server = subprocess.Popen" in program
    assert "def create_app" in app


def test_the_program_of_the_page_runs(tmp_path: pathlib.Path) -> None:
    """It runs as it stands, and prints what was said, the end, and that it was billed."""
    RedisServer(tmp_path)  # skips where there is none
    program, _ = blocks()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("QAI_")} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", program],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    # On a busy machine a handler may be slow for once, and the client says so.
    complaints = [line for line in done.stderr.splitlines() if "held up the conversation" not in line]
    assert (done.returncode, complaints) == (0, [])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("True {'user': 'anna'}")
    assert lines[1] == "done"
    assert any(line.startswith("said: ") for line in lines)
    assert lines[-2].endswith(" closed")
    assert lines[-1] == "ended at the gateway: [1]"


def test_the_app_of_the_page_runs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app watches and commands a conversation, and asks for the user's right to."""
    from qai_realtime_sync.contrib.redis import NotAllowedError, share
    from tests.servers import service

    (tmp_path / "app_of_the_page.py").write_text(blocks()[1])
    spec = importlib.util.spec_from_file_location("app_of_the_page", tmp_path / "app_of_the_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: list[Any] = []

    def kept(make: Any) -> Any:
        return lambda *args, **options: made.append(make(*args, **options)) or made[-1]

    monkeypatch.setitem(sys.modules, "app_of_the_page", module)  # where Flask looks for it
    module.Cleaner, module.Conversations = kept(module.Cleaner), kept(module.Conversations)  # to be closed here
    with RedisServer(tmp_path) as redis, service() as gateway:
        client = gateway.client()
        with share(client, redis.url, labels={"user": "anna"}) as owner:
            client.connect()
            app = module.create_app(redis.url, lambda request: request.headers["X-User"])
            app.testing = True
            browser = app.test_client()
            path = f"/calls/{owner.conversation_id}"
            assert browser.post(f"{path}/interrupt", headers={"X-User": "anna"}).get_json() == {"outcome": "done", "error": ""}
            with pytest.raises(NotAllowedError):
                browser.post(f"{path}/interrupt", headers={"X-User": "eve"})
            client.close()
        whole = browser.get(f"{path}/events", headers={"X-User": "anna"})
        assert whole.mimetype == "text/event-stream"
        last = re.findall(r"^id: (.*)$", whole.get_data(as_text=True), re.MULTILINE)[-1]
        assert browser.get(f"{path}/events", headers={"X-User": "anna", "Last-Event-ID": last}).status_code == 204
        for one in made:
            one.close()
