"""``qai-realtime demo``: a caller and the local server talk to each other, live, measured and recorded."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import sys
from typing import Any

from qai_realtime_sync.cli.address import check_address
from qai_realtime_sync.cli.demo_call import DemoCall
from qai_realtime_sync.cli.interruptions import Interruptions, TerminatedError
from qai_realtime_sync.cli.recording_folder import FILES, discard, recording_folder
from qai_realtime_sync.cli.terminal import json_line
from qai_realtime_sync.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "qai-realtime demo --out call; then: qai-realtime report call"
_DIALECTS = ("xai", "openai", "elevenlabs", "gemini")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    parser.add_argument("--out", metavar="FOLDER", help="where the recording goes (default: a new folder qai-demo)")
    parser.add_argument("--wav", metavar="FILE", help="your own recording as the caller; it may be misheard")
    parser.add_argument("--fast", action="store_true", help="the first two turns only, as fast as it goes")
    parser.add_argument("--light", action="store_true", help="tones instead of voices; recognises no words")
    parser.add_argument("--tls", action="store_true", help="over wss, with a certificate made on the fly")
    parser.add_argument(
        "--dialect", metavar="NAME", choices=_DIALECTS, default="xai", help="whose wire: xai (default), openai, elevenlabs, gemini"
    )
    parser.add_argument("--url", help="talk to this address instead of a local server")
    parser.add_argument("--key", help="the key for --url (default: QAI_API_KEY)")
    parser.add_argument("--json", action="store_true", help="the result as a line of JSON, the rest to stderr")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if everything that must happen did, 130 after Ctrl-C, 143 after SIGTERM."""
    if not arguments.json:
        return _run(arguments)[0]
    with contextlib.redirect_stdout(sys.stderr):
        code, told = _run(arguments)
    json_line({"name": "result", "command": "demo", "ok": code == 0, "exit_code": code, **told})
    return code


def _run(arguments: argparse.Namespace) -> tuple[int, dict[str, Any]]:
    print("qai-realtime demo: a caller and a voice service talk to each other over a real WebSocket.", flush=True)
    if arguments.url and (arguments.tls or arguments.light or arguments.dialect != "xai"):
        raise ConfigError("--tls, --light and --dialect are for the local server; they do not go with --url")
    if arguments.wav and arguments.fast:
        raise ConfigError("--fast plays the first two scripted turns; it does not go with --wav")
    check_address(arguments.url)
    call: DemoCall | None = None
    folder: pathlib.Path | None = None
    stopped, is_new = 0, False
    try:
        with Interruptions() as interruptions:
            call = DemoCall(arguments)
            with interruptions.held():
                is_new = arguments.out is None or not os.path.exists(arguments.out)
                folder = _folder(arguments.out)
            print(f"recording to {folder}{os.sep} ({', '.join(FILES)})", flush=True)
            call.talk(folder, interruptions)
    except KeyboardInterrupt:
        stopped = 130
    except TerminatedError:
        stopped = 143
    finally:
        recorded = call is not None and call.connected
        if folder is not None and is_new and not recorded:
            discard(folder)
    if stopped:
        print("\nstopped; " + (f"what was recorded until now is in {folder}{os.sep}" if recorded else "nothing was recorded"), flush=True)
        return stopped, {"folder": str(folder) if recorded else None}
    assert call is not None
    code, told = call.report()
    return code, {"folder": str(folder), **told}


def _folder(wanted: str | None) -> pathlib.Path:
    """Make the folder for the recording; see `recording_folder`."""
    return recording_folder(wanted, "qai-demo", lambda line: print(line, flush=True))
