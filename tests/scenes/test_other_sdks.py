"""Clients of other makers against the local server: the gateway's own Python SDK, and openai-python for client secrets.

They are installed beside the tests, in a folder of their own, and run in processes of their own.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytest.importorskip("werkzeug", reason="the local server needs werkzeug")
pytest.importorskip("simple_websocket", reason="the local server needs simple-websocket")

from qai_realtime_sync.offline import RealtimeServer

pytestmark = pytest.mark.long  # it installs the packages of others

KEY = "qai_other"
# The gateway's SDK names a newer Python than it needs, so pip must be told to look away: for it alone, or it would do so for all.
GATEWAYS_OWN = ("quantum-ai-sdk==0.9.0",)
OTHERS = ("httpx==0.28.1", "openai==3.51.0", "websockets==15.0.1")
PACKAGES = (*GATEWAYS_OWN, *OTHERS)
_PATIENCE = 120.0


@pytest.fixture(scope="session")
def sdks(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the SDKs; it is kept in pytest's cache, where there is one."""
    cache = getattr(pytestconfig, "cache", None)
    base = pathlib.Path(cache.mkdir("sdks")) if cache is not None else tmp_path_factory.mktemp("sdks")
    folder = base / f"{sys.implementation.cache_tag}-{'-'.join(PACKAGES).replace('==', '_')}"
    complete = folder / "complete"
    if complete.exists():
        return folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--upgrade"]
    steps = [
        [*pip, "--target", str(folder), "--no-deps", "--ignore-requires-python", *GATEWAYS_OWN],
        [*pip, "--target", str(folder), *OTHERS],
    ]
    for step in steps:
        if problem := _attempt(step):
            pytest.skip(f"{', '.join(PACKAGES)} cannot be installed: {problem}")
    complete.touch()
    return folder


def _attempt(command: list[str]) -> str:
    """Run pip, twice if need be, because a registry may be busy for a moment; return what went wrong."""
    problem = ""
    for _ in range(2):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            problem = f"pip took more than {_PATIENCE:g} s"
            continue
        if done.returncode == 0:
            return ""
        problem = (done.stderr.strip() or "pip failed").splitlines()[-1]
    return problem


def run(sdks: pathlib.Path, program: str, *arguments: str) -> dict[str, Any]:
    """Run a program that has the SDKs; return the JSON that it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**environment, "PYTHONPATH": str(sdks), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


QUANTUM = """
    import asyncio, json, sys
    from quantum_sdk import AsyncClient
    from quantum_sdk.realtime import (
        RealtimeConfig, realtime_connect, realtime_connect_direct_to, realtime_end, realtime_refresh, realtime_session,
        realtime_session_for,
    )

    async def talk(pair):
        sender, receiver = pair
        await sender.send_text("Hello")
        told = []
        async for event in receiver:
            told.append(event["type"])
            if event["type"] == "response_done":
                break
        await sender.close()
        return told

    async def main():
        client = AsyncClient(sys.argv[2], base_url=sys.argv[1])
        config = RealtimeConfig(voice="Sal", instructions="Be brief.")
        proxied = await talk(await realtime_connect(client, config))
        session = await realtime_session(client)
        token = await realtime_refresh(client, session.session_id)
        direct = await talk(await realtime_connect_direct_to(session.ws_url(), token, config))
        await realtime_end(client, session.session_id, 7)
        signed = await realtime_session_for(client, "elevenlabs")
        await realtime_end(client, signed.session_id, 0)
        print(json.dumps({
            "proxied": proxied, "direct": direct, "session": session.session_id, "new token": token != session.ephemeral_token,
            "signed": signed.ws_url().split("?")[0], "provider": signed.provider,
        }))

    asyncio.run(main())
"""


def test_the_gateways_own_sdk(sdks: pathlib.Path) -> None:
    """Through the proxy, and with a minted and refreshed token straight: it hears an answer, and ends what it minted."""
    with RealtimeServer(light=True, key=KEY) as server:
        told = run(sdks, QUANTUM, server.url, KEY)
        sessions = server.ledger.sessions()
        assert told["signed"] == server.base_ws_url + "/v1/convai/conversation"
    for way in ("proxied", "direct"):
        assert told[way][-1] == "response_done"
        assert {"session_ready", "audio_delta", "transcript_done"} <= set(told[way]), way
    assert told["new token"] is True
    assert told["provider"] == "elevenlabs"
    assert sessions[0]["id"] == told["session"]
    assert [(one["refreshed"], one["connections"], one["ended"], one["duration_seconds"]) for one in sessions] == [
        (1, 1, 1, 7),
        (0, 0, 1, 0),
    ]


QUANTUM_REFUSED = """
    import asyncio, json, sys
    import httpx
    from quantum_sdk import AsyncClient
    from quantum_sdk.realtime import realtime_session

    async def main():
        try:
            await realtime_session(AsyncClient(sys.argv[2], base_url=sys.argv[1]))
        except httpx.HTTPStatusError as error:
            print(json.dumps({"status": error.response.status_code, "body": error.response.json()}))

    asyncio.run(main())
"""


@pytest.mark.parametrize(("key", "status", "code"), [("qai_wrong", 401, "invalid_key"), (KEY, 402, "INSUFFICIENT_BALANCE")])
def test_the_gateways_own_sdk_is_refused_as_by_the_gateway(sdks: pathlib.Path, key: str, status: int, code: str) -> None:
    """Status and envelope are what that SDK meets at the gateway."""
    with RealtimeServer(light=True, key=KEY, balance_ticks=1) as server:
        told = run(sdks, QUANTUM_REFUSED, server.url, key)
    assert told["status"] == status
    assert told["body"]["error"]["code"] == code


OPENAI = """
    import json, sys
    from openai import OpenAI

    url, key = sys.argv[1:3]
    secret = OpenAI(api_key=key, base_url=url + "/v1").realtime.client_secrets.create(
        expires_after={"anchor": "created_at", "seconds": 60},
        session={"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."},
    )
    client = OpenAI(api_key=secret.value, base_url=url + "/v1", websocket_base_url=url.replace("http", "ws", 1) + "/v1")
    told = []
    with client.realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "instructions": "Be brief."})
        hello = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
        connection.conversation.item.create(item=hello)
        connection.response.create()
        for event in connection:
            told.append(event.type)
            if event.type in ("response.done", "error"):
                break
    print(json.dumps({
        "value": secret.value[:3], "expires_at": secret.expires_at, "session": secret.session.type, "model": secret.session.model,
        "instructions": secret.session.instructions, "told": told,
    }))
"""


def test_openai_python_and_its_client_secrets(sdks: pathlib.Path) -> None:
    """It mints a secret, reads every field it has a type for, and talks with it over a WebSocket."""
    with RealtimeServer(light=True, key=KEY, dialect="openai") as server:
        told = run(sdks, OPENAI, server.url, KEY)
    assert told["value"] == "ek_"
    assert type(told["expires_at"]) is int
    assert (told["session"], told["model"], told["instructions"]) == ("realtime", "gpt-realtime", "Be brief.")
    assert told["told"][0] == "session.created"
    assert told["told"][-1] == "response.done"
    assert "response.output_audio.delta" in told["told"]
