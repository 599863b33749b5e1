"""Celery tasks that converse: each makes its own client, uses it and closes it, so nothing is left open whatever ends the task.

    python examples/celery_tasks.py                           # a local server, a worker, and a broker of files; nothing else is needed

With a broker and keys of yours, in the environment:

    CELERY_BROKER_URL=redis://… QAI_API_KEY=… celery --workdir examples -A celery_tasks worker --pool threads --concurrency 20

Needs: pip install 'qai-realtime-sync[serve]' celery
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from celery import Celery

from qai_realtime_sync import RealtimeClient, RealtimeConfig

app = Celery("celery_tasks")
app.conf.update(broker_connection_retry_on_startup=True, task_soft_time_limit=600)  # a call that forgets to end is ended by an exception
folder = os.environ.get("CELERY_FOLDER")  # instead of a broker: a folder, for the demonstration
if folder:
    files = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": folder, "polling_interval": 0.1}
    app.conf.update(broker_url="filesystem://", broker_transport_options=files, result_backend=f"file://{folder}")
    app.conf.update(worker_enable_remote_control=False)


@app.task
def ask(question: str) -> str:
    """A question, and its answer."""
    with RealtimeClient(mint=True) as client:
        return client.ask(question, timeout=60).text


@app.task
def interview(questions: list[str]) -> list[dict[str, Any]]:
    """One conversation, for as long as the questions last; its turns are the result."""
    with RealtimeClient(config=RealtimeConfig(instructions="Be brief."), mint=True) as client:
        for question in questions:
            client.ask(question, timeout=60)
        return [{"user": turn.user, "assistant": turn.assistant} for turn in client.conversation]


# -- a demonstration on one computer -------------------------------------------------------------------------------------------


def main() -> None:
    """Run a worker with two processes, give it tasks, and end it."""
    parser = argparse.ArgumentParser(description="Conversations in Celery tasks.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    parser.add_argument("--pool", default="prefork", choices=["prefork", "threads"], help="processes or threads")
    arguments = parser.parse_args()
    if arguments.url is not None and not os.environ.get("QAI_API_KEY"):
        sys.exit("no API key was given: put it into QAI_API_KEY")
    with contextlib.ExitStack() as stack:
        environment = {**os.environ, "CELERY_FOLDER": stack.enter_context(tempfile.TemporaryDirectory())}
        if arguments.url is None:
            from qai_realtime_sync.offline import RealtimeServer

            server = stack.enter_context(RealtimeServer(light=arguments.light))
            environment |= {"QAI_BASE_URL": server.url, "QAI_API_KEY": "any key"}
        else:
            environment["QAI_BASE_URL"] = arguments.url
        with worker(environment, arguments.pool):
            subprocess.run([sys.executable, __file__, "--send"], env=environment, check=True)
        print("the worker has ended")
        if arguments.url is None:
            print("sessions ended at the gateway:", sum(session["ended"] for session in server.ledger.sessions()))


@contextlib.contextmanager
def worker(environment: dict[str, str], pool: str) -> Iterator[None]:
    """A Celery worker, ended by SIGTERM as a server would: what runs is finished first."""
    options = ["--pool", pool, "--concurrency", "2", "--without-gossip", "--without-mingle"]
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "--workdir", str(pathlib.Path(__file__).parent), "-A", "celery_tasks", "worker", *options],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def send() -> None:
    """What a web application would do: give tasks to the worker, and see later what came of them."""
    answers = [ask.delay(question) for question in ("How are you?", "Tell me a joke.")]
    turns = interview.delay(["Hello!", "How are you?"])
    for answer in answers:
        print("answer:", answer.get(timeout=60))
    for turn in turns.get(timeout=60):
        print(f"user: {turn['user']}\nassistant: {turn['assistant']}")


if __name__ == "__main__":
    if sys.argv[1:] == ["--send"]:
        send()
    else:
        main()
