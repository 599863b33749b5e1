"""A telephone number that is answered by voice: a Flask app for Twilio, and a caller to try it without a telephone.

    python examples/flask_phone.py --call                     # everything on this computer: a caller asks, and hears an answer
    python examples/flask_phone.py                            # wait for calls, with a local voice server
    QAI_API_KEY=… python examples/flask_phone.py --url https://api.quantumencoding.ai

Give Twilio the address https://YOUR-HOST/voice for the calls of a number. With TWILIO_AUTH_TOKEN in the environment only Twilio's own
requests are answered; PUBLIC_URL is the address as Twilio calls it, when a proxy stands before this program.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator

from flask import Flask, Response, abort, request
from flask_sock import Sock
from werkzeug.serving import make_server

from qai_realtime_sync import RealtimeClient, RealtimeConfig, install_signal_handlers
from qai_realtime_sync.contrib.twilio import CallStart, Socket, bridge, is_from_twilio, stream_twiml

QUESTION = "What can you do for me this morning?"


def create_app(url: str | None, key: str | None) -> Flask:
    """The app: ``/voice`` says that a call is to be connected, ``/media`` is its sound."""
    app = Flask(__name__)
    sock = Sock(app)
    auth_token = os.environ.get("TWILIO_AUTH_TOKEN", "")

    def public(path: str, scheme: str) -> str:
        base = os.environ.get("PUBLIC_URL", request.host_url).rstrip("/")
        return base.replace("http", scheme, 1) + path

    @app.before_request
    def only_twilio() -> None:
        address = public(request.full_path.rstrip("?"), "ws" if request.path == "/media" else "http")
        if auth_token and not is_from_twilio(auth_token, address, request.headers.get("X-Twilio-Signature"), request.form):
            abort(403)

    @app.post("/voice")
    def voice() -> Response:
        twiml = stream_twiml(public("/media", "ws"), {"caller": request.form.get("From", "")})
        return Response(twiml, mimetype="text/xml")

    @sock.route("/media")  # type: ignore[untyped-decorator]
    def media(ws: Socket) -> None:
        config = RealtimeConfig(
            input_format="g711_ulaw", output_format="g711_ulaw", instructions="You answer a telephone. Be brief and friendly."
        )
        client = RealtimeClient(key, config, base_url=url)
        client.on("transcript_done", lambda event: print(f"{'caller' if event.source == 'input' else 'answer'}: {event.transcript}"))
        client.on("playback_stopped", lambda event: print(f"{event.heard_ms} ms of the answer were heard: {event.reason}"))

        def begun(start: CallStart) -> None:
            print(f"call from {start.parameters.get('caller', 'somebody')}")
            client.create_response(instructions="Say: Hello, how can I help you?")

        end = bridge(ws, client, on_start=begun, tell_digits=True)
        print(f"the call ended after {end.seconds:.1f} s: {end.reason}")

    return app


@contextlib.contextmanager
def serving(app: Flask, port: int, *, to_the_end: bool = False) -> Iterator[str]:
    """Serve the app in threads of this process; gives its address. In production: gunicorn with --threads, see docs/telephone.md.

    ``to_the_end``: the calls that still run are waited for, and each says how it ended.
    """
    server = make_server("127.0.0.1", port, app, threaded=True)
    server.daemon_threads = not to_the_end  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, name="flask")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def call(address: str, light: bool) -> None:
    """Ring, listen to the greeting, ask the question, and listen to the answer."""
    from qai_realtime_sync.testing.telephone import FakeCaller

    print(f"calling {address}/voice: a greeting, a question, an answer, in their own time")
    with FakeCaller.ring(f"{address}/voice", auth_token=os.environ.get("TWILIO_AUTH_TOKEN", "")) as caller:
        caller.wait_for_sound()
        caller.wait_for_silence(0.5)
        said = question(light)
        caller.say(*said)
        done = caller.wait_until_said()
        answer = caller.wait_for_sound(after=done)
        print(f"the answer began {answer.at - done:.2f} s after the question")
        caller.wait_for_silence(0.5)
        print(f"{caller.heard_seconds:.1f} s of sound were heard, {len(caller.gaps)} gaps")


def question(light: bool) -> tuple[bytes, int]:
    """The question as PCM16 and its rate: spoken, or a tone for a server that knows no words."""
    from qai_realtime_sync.offline import caller_voice

    if not light:
        return caller_voice(QUESTION)
    import math
    from array import array

    return array("h", (round(9000 * math.sin(n * 0.4) * abs(math.sin(n * 0.002))) for n in range(8000))).tobytes(), 8000


def main() -> None:
    """Serve, and with ``--call`` let a caller try it."""
    parser = argparse.ArgumentParser(description="A telephone number that is answered by voice.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    parser.add_argument("--port", type=int, default=0, help="where to wait for calls; any free port if not given")
    parser.add_argument("--call", action="store_true", help="let a caller on this computer call, and end")
    arguments = parser.parse_args()

    if arguments.url and not os.environ.get("QAI_API_KEY"):
        sys.exit("no API key was given: set QAI_API_KEY")  # now, not when somebody calls
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    install_signal_handlers()  # SIGTERM ends the calls, and their bills

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        address = stack.enter_context(serving(create_app(url, key), arguments.port, to_the_end=arguments.call))
        if arguments.call:
            call(address, arguments.light)
            return
        print(f"waiting for calls: {address}/voice (Ctrl-C ends it)")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
