"""Interrupt a long answer by speaking, and see what the service remembers of it.

    python examples/interruption.py                           # with a local server of its own
    QAI_API_KEY=… python examples/interruption.py --url https://api.quantumencoding.ai

The user is a loud tone of one second, which a service without voice detection by meaning takes for speech; a program would send
what its microphone gives. The loudspeaker is a `PacedSink`, which plays nothing but takes as long as a real one.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import threading
import time
from array import array

from qai_realtime_sync import AudioDelta, ItemTruncated, PacedSink, PlaybackStopped, RealtimeClient

RATE = 24000
PIECE = RATE // 50  # samples in 20 ms


def tone(seconds: float) -> bytes:
    """A tone that swells and fades five times a second, like syllables, as PCM16."""
    return array(
        "h",
        (
            round(9000 * abs(math.sin(math.pi * 5 * n / RATE)) * math.sin(2 * math.pi * 220 * n / RATE))
            for n in range(round(seconds * RATE))
        ),
    ).tobytes()


def speak(client: RealtimeClient, pcm: bytes, stop: threading.Event) -> None:
    """Send sound as a microphone does: 20 ms at a time, and silence when nobody speaks."""
    due, at = time.monotonic(), 0
    while not stop.wait(max(0.0, due - time.monotonic())):
        piece = pcm[at : at + 2 * PIECE]
        client.send_audio(piece + bytes(2 * PIECE - len(piece)))
        at, due = at + 2 * PIECE, due + 0.02


def main() -> None:
    """Ask for a story, listen for a second, and speak."""
    parser = argparse.ArgumentParser(description="Interrupt a long answer by speaking.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            # Light: its ear takes the tone for speech, which one that knows voices would not.
            url, key = stack.enter_context(RealtimeServer(light=True)).url, "any key"

        client = RealtimeClient(key, base_url=url)
        client.play_to(PacedSink())
        client.on_speech_started(lambda event: print("the user speaks"))

        @client.on_playback_stopped
        def stopped(event: PlaybackStopped) -> None:
            print(f"{event.heard_ms} ms of the answer were heard ({event.reason})")

        with client:
            client.send_text("Tell me a long story, please.")
            client.wait_for(AudioDelta, timeout=30)
            print("the story begins")
            silence_then_tone = bytes(2 * RATE) + tone(1.0)
            stop = threading.Event()
            microphone = threading.Thread(target=speak, args=(client, silence_then_tone, stop))
            microphone.start()
            try:
                truncated = client.wait_for(ItemTruncated, timeout=30)
                print(f"the service keeps {truncated.audio_end_ms} ms of it: {truncated.transcript!r}")
            finally:
                stop.set()
                microphone.join()


if __name__ == "__main__":
    main()
