"""Let the model call Python functions: one that runs by itself, and one that the program answers by hand.

    python examples/tools.py                                  # with a local server of its own
    QAI_API_KEY=… python examples/tools.py --url https://api.quantumencoding.ai
"""

from __future__ import annotations

import argparse
import contextlib
import json

from qai_realtime_sync import FunctionCall, RealtimeClient, RealtimeConfig

OPEN_ORDERS = {42: "on its way", 7: "waiting for payment"}

# Answered by hand, in `answer` below: the program may need a moment, or a person.
ORDER_TOOL = {
    "type": "function",
    "name": "find_order",
    "description": "The state of an order.",
    "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
}


def main() -> None:
    """Ask two questions that need two different tools."""
    parser = argparse.ArgumentParser(description="Let the model call Python functions.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        client = RealtimeClient(key, RealtimeConfig(tools=[ORDER_TOOL]), base_url=url)

        @client.tool
        def get_weather(city: str) -> dict[str, object]:
            """Current weather in a city."""
            print(f"  get_weather({city!r}) runs")
            return {"weather": "light rain", "degrees": 14}

        @client.on_function_call
        def answer(event: FunctionCall) -> None:
            if event.name != "find_order":
                return  # the other tool answers for itself
            number = json.loads(event.arguments)["number"]
            print(f"  find_order({number}) was asked for")
            client.send_function_result(event.call_id, {"state": OPEN_ORDERS.get(number, "unknown")})

        with client:
            for question in ("What is the weather like in London?", "Please find order number 42."):
                print(question)
                print(" ", client.ask(question, timeout=30).text)


if __name__ == "__main__":
    main()
