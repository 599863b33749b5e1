"""The vendors' own Python clients against the local server's ElevenLabs and Gemini wire; in processes and a folder of their own."""

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

pytestmark = pytest.mark.long

PACKAGES = ("google-genai==3.3.0", "elevenlabs==2.78.0")
_PATIENCE = 240.0


@pytest.fixture(scope="module")
def sdks(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with the vendors' packages; it is kept in pytest's cache, where there is one."""
    cache = getattr(pytestconfig, "cache", None)
    base = pathlib.Path(cache.mkdir("sdks")) if cache is not None else tmp_path_factory.mktemp("sdks")
    folder = base / f"{sys.implementation.cache_tag}-{'-'.join(PACKAGES).replace('==', '_')}"
    if not (folder / "complete").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--upgrade", "--target", str(folder), *PACKAGES]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            pytest.skip(f"{', '.join(PACKAGES)} could not be installed within {_PATIENCE:g} s")
        if done.returncode:
            pytest.skip(f"{', '.join(PACKAGES)} cannot be installed: {(done.stderr.strip() or 'pip failed').splitlines()[-1]}")
        (folder / "complete").touch()
    return folder


def run(sdks: pathlib.Path, program: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a program that has the packages; return the JSON of its last line."""
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env={**ours, "PYTHONPATH": str(sdks), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


GEMINI = """
    import asyncio, json, sys
    from google import genai
    from google.genai import types

    WEATHER = types.FunctionDeclaration(
        name="get_weather",
        parameters=types.Schema(type="OBJECT", properties={"city": types.Schema(type="STRING")}, required=["city"]),
    )

    async def turn(session, text):
        words, sound, handles = "", 0, 0
        content = types.Content(role="user", parts=[types.Part(text=text)])
        await session.send_client_content(turns=content, turn_complete=True)
        async for message in session.receive():
            content = message.server_content
            sound += len(message.data or b"")
            if content and content.output_transcription:
                words += content.output_transcription.text or ""
            if message.tool_call:
                await session.send_tool_response(function_responses=[
                    types.FunctionResponse(id=call.id, name=call.name, response={"output": f"Sunny in {call.args['city']}."})
                    for call in message.tool_call.function_calls
                ])
            handles += bool(message.session_resumption_update and message.session_resumption_update.new_handle)
        return {"words": words, "sound": sound, "handles": handles}

    async def main():
        client = genai.Client(api_key="right", http_options={"base_url": sys.argv[1], "api_version": "v1beta"})
        config = types.LiveConnectConfig(
            response_modalities=["AUDIO"], output_audio_transcription={}, tools=[types.Tool(function_declarations=[WEATHER])],
            session_resumption=types.SessionResumptionConfig(),
        )
        async with client.aio.live.connect(model="gemini-3.8-live", config=config) as session:
            turns = [await turn(session, text) for text in ("Hello there", "What is the weather in Oslo?")]
        print(json.dumps({"turns": turns}))

    asyncio.run(main())
"""

ELEVENLABS = """
    import json, queue, sys
    from elevenlabs.client import ElevenLabs
    from elevenlabs.conversational_ai.conversation import AudioInterface, ClientTools, Conversation

    class Sound(AudioInterface):
        heard = 0

        def start(self, input_callback):
            input_callback(bytes(8000))

        def stop(self):
            pass

        def output(self, audio):
            self.heard += len(audio)

        def interrupt(self):
            pass

    sound, said, tools = Sound(), queue.Queue(), ClientTools()
    tools.register("get_weather", lambda parameters: f"Sunny in {parameters['city']}.")
    talk = Conversation(
        ElevenLabs(api_key="right", base_url=sys.argv[1]), "agent_7", requires_auth=True, audio_interface=sound, client_tools=tools,
        callback_agent_response=said.put,
    )
    talk.start_session()
    words = []
    while talk._ws is None or not talk._conversation_id:
        talk._should_stop.wait(0.05)
    for question in ("Hello there", "What is the weather in Oslo?"):
        talk.send_user_message(question)
        words.append(said.get(timeout=10))
    talk.end_session()
    print(json.dumps({"words": words, "id": talk.wait_for_session_end()}))
"""


def test_google_genai(sdks: pathlib.Path) -> None:
    """Google's client holds a conversation with a tool over TLS, and is given resumption handles."""
    pytest.importorskip("trustme", reason="Google's client wants TLS, and a certificate made on the fly needs trustme")
    with RealtimeServer(light=True, dialect="gemini", key="right", tls=True) as server:
        authority = sdks / "authority.pem"
        authority.write_text(str(server.certificate))
        told = run(sdks, GEMINI, server.url, SSL_CERT_FILE=str(authority))
    assert [turn["words"] for turn in told["turns"]] == ["Hello! How can I help you today?", "Sunny in Oslo."]
    assert all(turn["sound"] > 24000 for turn in told["turns"])


def test_elevenlabs_python(sdks: pathlib.Path) -> None:
    """ElevenLabs' client fetches a signed URL, talks, and answers the agent's tool."""
    with RealtimeServer(light=True, dialect="elevenlabs", key="right") as server:
        told = run(sdks, ELEVENLABS, server.url)
        assert told["words"] == ["Hello! How can I help you today?", "Sunny in Oslo."]
        assert told["id"] == server.conversations[0]["id"]
