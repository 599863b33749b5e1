"""Two assistants talk to each other: what the one says is what the other hears.

    python examples/two_assistants.py                         # with a local server of its own
    python examples/two_assistants.py --turns 4 --out talk    # and keep it: talk/conversation.wav
    QAI_API_KEY=… python examples/two_assistants.py --url https://api.quantumencoding.ai

Two clients in one process, each with its own threads. Turns are manual, so nobody interrupts: when an answer is complete, its sound goes
to the other one, who is then asked to answer it.
"""

from __future__ import annotations

import argparse
import contextlib

from qai_realtime_sync import RealtimeClient, RealtimeConfig, Recorder


class Assistant:
    """One of the two: its conversation, and the sound of its last answer."""

    def __init__(self, name: str, instructions: str, voice: str, url: str, key: str | None) -> None:
        self.name = name
        self.sound = bytearray()
        self.client = RealtimeClient(
            key, RealtimeConfig(instructions=instructions, voice=voice, turn_detection=None), base_url=url
        )
        self.client.on_audio_delta(lambda event: self.sound.extend(event.audio))
        self.client.on_transcript_done(lambda event: print(f"{self.name} {event.source}: {event.transcript}"))

    def answer(self, heard: bytes) -> bytes:
        """Hear something and return the sound of the whole answer."""
        self.sound.clear()
        self.client.send_audio_from(heard)
        self.client.commit_audio()
        self.client.create_response()
        self.client.wait_for("response_done", timeout=60)
        return bytes(self.sound)


def main() -> None:
    """Let the first one begin, and pass the sound to and fro."""
    parser = argparse.ArgumentParser(description="Two assistants talk to each other.")
    parser.add_argument("--turns", type=int, default=2, help="how many answers are given (default: %(default)s)")
    parser.add_argument("--out", help="a folder that keeps the second one's side of it")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        anna = Assistant("Anna", "You are a customer who wants to book a table.", "Eve", url, key)
        bruno = Assistant("Bruno", "You take bookings for a restaurant.", "Rex", url, key)
        if arguments.out is not None:
            bruno.client.record_to(Recorder(arguments.out))
        stack.enter_context(anna.client)
        stack.enter_context(bruno.client)

        anna.client.send_text("Begin: greet the restaurant and ask what time it is there.")
        anna.client.wait_for("response_done", timeout=60)
        sound = bytes(anna.sound)
        for turn in range(arguments.turns):
            sound = (bruno, anna)[turn % 2].answer(sound)
        print(f"{arguments.turns} answers were given")


if __name__ == "__main__":
    main()
