"""A page that talks: the browser's microphone, a WebSocket, the service, and back to the browser's loudspeaker; the transcript live.

    python examples/flask_app.py                              # with a local server of its own; open the address it prints
    QAI_API_KEY=… python examples/flask_app.py --url https://api.quantumencoding.ai

The page is `flask_app.html`. Interrupt the assistant by speaking. Needs: pip install 'qai-realtime-sync[flask,offline]'
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import queue
import threading
from urllib.parse import urlsplit

import flask
from flask_sock import Sock
from simple_websocket import ConnectionClosed, Server
from werkzeug.serving import make_server

from qai_realtime_sync import NotConnectedError, RealtimeConfig, RealtimeError, install_signal_handlers
from qai_realtime_sync.contrib.flask import Realtime

PAGE = pathlib.Path(__file__).with_suffix(".html")
PATIENCE = 20  # seconds without any sound of the microphone, after which the browser is gone and the conversation need not be paid for
realtime = Realtime()
sock = Sock()
site = flask.Blueprint("site", __name__)


class Loudspeaker:
    """The page as the client's loudspeaker. What it gets waits in a queue, so that a slow browser holds nobody up."""

    def __init__(self, ws: Server) -> None:
        self.played_ms = 0.0  # the page says it
        self._ws = ws
        self._queue: queue.SimpleQueue[bytes | str | None] = queue.SimpleQueue()
        self._stopped = False

    def write(self, audio: bytes) -> None:
        """Play this behind what still plays."""
        self._queue.put(audio)

    def clear(self) -> None:
        """Stop playing at once: forget what has not left yet, and tell the page to forget what it has."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put("clear")

    def run(self) -> None:
        """Send until `stop`, in a thread of its own."""
        with contextlib.suppress(ConnectionClosed, OSError):
            while (message := self._queue.get()) is not None and not self._stopped:
                self._ws.send(message)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True  # for `clear` may take away what wakes it, but puts something in its place
        self._queue.put(None)


@site.before_request
def only_our_page() -> None:
    """A browser lets every page open a WebSocket to any site: without this, others would talk at your expense."""
    origin = flask.request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != flask.request.host:
        flask.abort(403, "not from this page")


@site.get("/")
def page() -> flask.Response:
    """Show the page."""
    return flask.send_file(PAGE)


@sock.route("/talk", bp=site)
def talk(ws: Server) -> None:
    """Hold one conversation: binary messages are sound, text is what the page has played, in milliseconds."""
    try:
        rate = flask.request.args.get("rate", default=24000, type=int)
        client = realtime.new_client(RealtimeConfig(sample_rate=rate, instructions="You are a friendly voice on a web page. Be brief."))
        loudspeaker = Loudspeaker(ws)
        client.play_to(loudspeaker)
        over = threading.Event()
        client.on_closed(lambda event: over.set())
        name = realtime.keep(client)  # so that /events finds it
        with client:
            ws.send(name)
            sender = threading.Thread(target=loudspeaker.run, name="loudspeaker", daemon=True)
            sender.start()
            try:
                silence = 0
                while not over.is_set() and silence < PATIENCE:
                    message = ws.receive(timeout=1.0)
                    silence = 0 if message is not None else silence + 1
                    if isinstance(message, bytes):
                        with contextlib.suppress(NotConnectedError):  # the service has hung up just now
                            client.send_audio(message)
                    elif message is not None:
                        loudspeaker.played_ms = float(message)
            finally:
                loudspeaker.stop()
                sender.join(1.0)
    except RealtimeError as error:
        ws.close(1011, str(error)[:100])


@site.get("/events/<name>")
def events(name: str) -> flask.Response:
    """Tell the page what is said; it ends with the conversation."""
    return realtime.event_stream(realtime.find(name))


def create_app(key: str | None = None, base_url: str | None = None) -> flask.Flask:
    """Make the app, as a web server would: ``gunicorn -k gthread --threads 20 'flask_app:create_app()'``."""
    app = flask.Flask(__name__)
    app.config.from_mapping(QAI_API_KEY=key, QAI_BASE_URL=base_url)
    realtime.init_app(app)
    app.register_blueprint(site)
    return app


def main() -> None:
    """Serve the page until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve a page that talks.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--port", type=int, default=5000, help="0 for any free one")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()
    install_signal_handlers()  # SIGTERM ends the conversations, and their bills

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"
        server = make_server("127.0.0.1", arguments.port, create_app(key, url), threaded=True)
        print(f"open http://127.0.0.1:{server.port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
