"""Conversations that any worker of any machine can watch, speak in, interrupt and end; those of a worker that dies are ended and billed.

    python examples/many_machines.py                          # everything on this computer: two gunicorn workers, and one is killed

Needs redis-server on this computer, or REDIS_URL. As a web app of yours, with QAI_API_KEY and REDIS_URL in the environment:

    gunicorn --workers 2 --threads 32 --chdir examples 'many_machines:create_app()'
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request

from qai_realtime_sync import ConnectError, NotConnectedError, RealtimeClient, RealtimeError, RestClient
from qai_realtime_sync.contrib.redis import About, Cleaner, Conversations, NotAllowedError, Outcome, share
from qai_realtime_sync.contrib.sse import HEADERS

STATUS = {NotAllowedError: 403, NotConnectedError: 404, ConnectError: 503}


def may(user: str, about: About, action: str) -> bool:
    """Everybody may do everything with the conversations they began, and nothing with those of others."""
    return about.labels["user"] == user


def create_app() -> Flask:
    """The app; call it in each worker, after the fork, for it starts a thread."""
    logging.basicConfig(stream=sys.stdout)
    app = Flask(__name__)
    redis_url = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")
    seconds = {name: float(os.environ.get(f"CALL_{name.upper()}", default)) for name, default in (("ttl", 6), ("grace", 3))}
    calls = Conversations(redis_url, authorise=may)
    Cleaner(redis_url, RestClient(), grace=seconds["grace"]).start()

    def user() -> str:
        return request.headers.get("X-User", "")  # stands for your login

    def told(outcome: Outcome) -> Response:
        return jsonify(outcome=outcome.state, error=str(outcome.error or ""))

    @app.after_request
    def tell_worker(response: Response) -> Response:
        response.headers["X-Worker"] = str(os.getpid())
        return response

    @app.errorhandler(RealtimeError)
    def refused(error: RealtimeError) -> tuple[Response, int]:
        return jsonify(error=str(error), code=error.code), next((code for cls, code in STATUS.items() if isinstance(error, cls)), 400)

    @app.post("/calls")
    def begin() -> Response:
        client = RealtimeClient(mint=True)
        owner = share(client, redis_url, labels={"user": user()}, ttl=seconds["ttl"])
        try:
            client.connect()  # its threads keep it until it is ended
            owner.drain()  # from now on it is ended and billed whatever happens to this process
        except RealtimeError:
            owner.close()
            raise
        return jsonify(id=owner.conversation_id, worker=os.getpid())

    @app.get("/calls")
    def calls_of_user() -> Response:
        return jsonify([{"id": about.conversation_id, "owner": about.owner, "since": about.started} for about in calls.list(user())])

    @app.get("/calls/<call>/events")
    def events(call: str) -> Response:
        last, remote = request.headers.get("Last-Event-ID"), calls.get(call, user())
        if remote.is_over(last):
            return Response(status=204)  # a browser does not come back after this
        return Response(remote.sse(last), mimetype="text/event-stream", headers=HEADERS)

    @app.post("/calls/<call>/say")
    def say(call: str) -> Response:
        return told(calls.get(call, user()).send_text(request.get_json()["text"]))

    @app.post("/calls/<call>/interrupt")
    def interrupt(call: str) -> Response:
        return told(calls.get(call, user()).interrupt())

    @app.post("/calls/<call>/end")
    def end(call: str) -> Response:
        return told(calls.get(call, user()).end("ended by its user"))

    return app


# -- a demonstration on one computer -------------------------------------------------------------------------------------------


def main() -> None:
    """Begin a call in one worker, talk through the other, and kill the first."""
    parser = argparse.ArgumentParser(description="One conversation, many workers.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        environment = {**os.environ, "CALL_TTL": "1", "CALL_GRACE": "0.5"}
        if arguments.url is None:
            from qai_realtime_sync.offline import RealtimeServer

            server = stack.enter_context(RealtimeServer(light=arguments.light))
            environment |= {"QAI_BASE_URL": server.url, "QAI_API_KEY": "any key"}
        elif not os.environ.get("QAI_API_KEY"):
            sys.exit("no API key was given: put it into QAI_API_KEY")
        else:
            environment["QAI_BASE_URL"] = arguments.url
        environment["REDIS_URL"] = os.environ.get("REDIS_URL") or stack.enter_context(redis_server())
        address = stack.enter_context(gunicorn(environment))
        story(address)
        if arguments.url is None:
            print("sessions ended at the gateway:", sum(session["ended"] for session in server.ledger.sessions()))


def story(address: str) -> None:
    """What two workers and a browser would do."""
    call = ask(address, "POST", "/calls")
    print("a call begins in one of the workers")
    while (watching := open_events(address, call["id"])).headers["X-Worker"] == str(call["worker"]):
        watching.close()  # whoever is free answers: ask until it is the other one
    print("the other worker watches it")
    ask(address, "POST", f"/calls/{call['id']}/say", {"text": "What can you do?"})
    for value in read_events(watching):
        name = value["name"]
        if name == "transcript_done":
            print(f"  {value.get('source', 'output')}: {value['transcript']}")
        if name == "response_done":
            print("the worker that owns it is killed")
            os.kill(call["worker"], signal.SIGKILL)
        if name == "closed":
            print(f"  closed: {value['reason'].split(' (')[0]}")


def ask(address: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request, as JSON."""
    headers = {"X-User": "anna", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers, method=method), timeout=30) as answer:
        value: dict[str, Any] = json.load(answer)
        return value


def open_events(address: str, call: str) -> Any:
    """The stream of a call's events, as a browser opens it."""
    return urllib.request.urlopen(urllib.request.Request(f"{address}/calls/{call}/events", headers={"X-User": "anna"}), timeout=30)


def read_events(stream: Any) -> Iterator[dict[str, Any]]:
    """The conversation's events out of server-sent ones."""
    with stream:
        for line in stream:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


def free_port() -> int:
    """A port that nobody uses just now."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port: int = bound.getsockname()[1]
        return port


def wait_for_port(port: int) -> None:
    """Wait until somebody listens there."""
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        threading.Event().wait(0.1)
    sys.exit("a program that was started does not listen")


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """A program that is ended afterwards."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def redis_server() -> Iterator[str]:
    """A Redis server without files, on a free port."""
    program = shutil.which("redis-server")
    if program is None:
        sys.exit("redis-server is not installed; install it, or put the address of one into REDIS_URL")
    port = free_port()
    with running([program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]):
        wait_for_port(port)
        yield f"redis://127.0.0.1:{port}/0"


@contextlib.contextmanager
def gunicorn(environment: dict[str, str]) -> Iterator[str]:
    """This file as a web app with two workers, on a free port."""
    port = free_port()
    options = ["--workers", "2", "--threads", "16", "--bind", f"127.0.0.1:{port}", "--log-level", "critical", "--graceful-timeout", "1"]
    command = [sys.executable, "-m", "gunicorn", *options, "--chdir", os.path.dirname(os.path.abspath(__file__))]
    with running([*command, "many_machines:create_app()"], environment):
        wait_for_port(port)
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    main()
