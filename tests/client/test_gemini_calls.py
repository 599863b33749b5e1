"""Calls of a service that gives them no ids, over a connection that is lost."""

from __future__ import annotations

import json
import queue
from typing import Any

from qai_realtime_sync import RealtimeClient, RealtimeConfig
from qai_realtime_sync.client.lifecycle import ReconnectPolicy
from tests.servers import Talk, service
from tests.transport.peer import frame

CITIES = ("Oslo", "Bergen")


def test_a_call_without_an_id_is_answered_on_the_next_connection_too() -> None:
    """The first call of each connection runs its tool and gets its result: the ids that are made up here never meet."""
    results: queue.Queue[Any] = queue.Queue()

    def opening(talk: Talk) -> None:
        def say(value: Any) -> None:
            talk.raw(frame(1, json.dumps(value).encode()))

        def hear(member: str) -> Any:
            while True:
                opcode, payload = talk.peer.read_frame()
                if opcode in (1, 2) and member in (value := json.loads(payload)):
                    return value[member]

        talk.peer.upgrade()
        hear("setup")
        say({"setupComplete": {}})
        call = {"name": "weather", "args": {"city": CITIES[talk.number - 1]}}
        say({"toolCall": {"functionCalls": [call]}})
        results.put(hear("toolResponse"))
        if talk.number == 1:
            say({"serverContent": {"turnComplete": True}})
            talk.drop()

    with service(opening) as peer:
        client = RealtimeClient.direct(
            peer.base_url.replace("http", "ws"),
            "token",
            RealtimeConfig(model="gemini-2.5-flash"),
            dialect="gemini",
            allow_insecure=True,
            reconnect=ReconnectPolicy(base=0.01, cap=0.01),
        )
        ids: list[str] = []
        client.on_function_call(lambda event: ids.append(event.call_id))

        @client.tool
        def weather(city: str) -> str:
            """Look out of the window."""
            return f"rain in {city}"

        with client:
            given = [results.get(timeout=20.0)["functionResponses"] for _ in CITIES]
        assert given == [[{"name": "weather", "response": {"output": f"rain in {city}"}}] for city in CITIES]
        assert len(set(ids)) == 2
