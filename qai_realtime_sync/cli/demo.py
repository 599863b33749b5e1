"""``qai-realtime demo``: a caller and the local server talk to each other, live, measured and recorded."""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
import tempfile

from qai_realtime_sync.cli.demo_call import DemoCall
from qai_realtime_sync.cli.interruptions import Interruptions, TerminatedError
from qai_realtime_sync.errors import ConfigError

__all__ = ["add_arguments", "run"]

_FILES = ("conversation.wav", "transcript.json", "events.jsonl")
_MOST_FOLDERS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the demo."""
    parser.add_argument("--out", metavar="FOLDER", help="where the recording goes (default: a new folder qai-demo, qai-demo-2 … here)")
    parser.add_argument("--wav", metavar="FILE", help="your own recording as the caller; the small recogniser may mishear it")
    parser.add_argument("--fast", action="store_true", help="the first two turns only, without waiting for what is spoken")
    parser.add_argument("--light", action="store_true", help="tones instead of voices; needs much less, recognises no words")
    parser.add_argument("--tls", action="store_true", help="over wss, with a certificate made on the fly")
    parser.add_argument(
        "--dialect",
        choices=("xai", "openai", "elevenlabs", "gemini"),
        default="xai",
        help="whose wire the local server speaks; the conversation is the same (default: %(default)s)",
    )
    parser.add_argument("--url", help="talk to this address instead of a local server, like https://api.quantumencoding.ai")
    parser.add_argument("--key", help="the key for --url (default: the environment variable QAI_API_KEY)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if everything that must happen did, 130 after Ctrl-C, 143 after SIGTERM."""
    print("qai-realtime demo: a caller and a voice service talk to each other over a real WebSocket.", flush=True)
    if arguments.url and (arguments.tls or arguments.light or arguments.dialect != "xai"):
        raise ConfigError("--tls, --light and --dialect are for the local server; they do not go with --url")
    if arguments.wav and arguments.fast:
        raise ConfigError("--fast plays the first two scripted turns; it does not go with --wav")
    call: DemoCall | None = None
    folder: pathlib.Path | None = None
    stopped, is_new = 0, False
    try:
        with Interruptions() as interruptions:
            call = DemoCall(arguments)
            with interruptions.held():
                is_new = arguments.out is None or not os.path.exists(arguments.out)
                folder = _folder(arguments.out)
            print(f"recording to {folder}{os.sep} ({', '.join(_FILES)})", flush=True)
            call.talk(folder, interruptions)
    except KeyboardInterrupt:
        stopped = 130
    except TerminatedError:
        stopped = 143
    finally:
        recorded = call is not None and call.connected
        if folder is not None and is_new and not recorded:
            _discard(folder)
    if stopped:
        print("\nstopped; " + (f"what was recorded until now is in {folder}{os.sep}" if recorded else "nothing was recorded"), flush=True)
        return stopped
    assert call is not None
    return call.report()


def _discard(folder: pathlib.Path) -> None:
    """Remove a folder of ours that has no conversation; whatever else is in it stays."""
    with contextlib.suppress(OSError):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def _folder(wanted: str | None) -> pathlib.Path:
    """Make the folder for the recording and return it; one that was not asked for by name is always a new one.

    Raises: `ConfigError` if nothing can be written to the one that was asked for.
    """
    if wanted is not None:
        folder = pathlib.Path(wanted)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise ConfigError(f"--out {wanted}: nothing can be written there: {error.strerror or error}", code="invalid_path") from error
        if any((folder / name).exists() for name in _FILES):
            print(f"replacing the recording that is in {folder}{os.sep}", flush=True)
        return folder
    for number in range(1, _MOST_FOLDERS):
        folder = pathlib.Path("qai-demo" if number == 1 else f"qai-demo-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            continue
        except OSError:  # not our folder, or a disk that cannot be written to
            break
    return pathlib.Path(tempfile.mkdtemp(prefix="qai-demo-"))
