"""Say hello and listen to the answer.

    python examples/hello.py                                  # with a local server of its own
    QAI_API_KEY=… python examples/hello.py --url https://api.quantumencoding.ai
"""

from __future__ import annotations

import argparse
import contextlib

from qai_realtime_sync import AudioDelta, RealtimeClient, TranscriptDelta


def main() -> None:
    """Print the answer's words as they come, and how much sound came with them."""
    parser = argparse.ArgumentParser(description="Say hello and listen to the answer.")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        client = RealtimeClient(key, base_url=url)
        sound = bytearray()

        @client.on_audio_delta
        def keep(event: AudioDelta) -> None:
            sound.extend(event.audio)

        @client.on_transcript_delta
        def show(event: TranscriptDelta) -> None:
            print(event.delta, end="", flush=True)

        with client:
            client.send_text("Hello! My name is Anna.")
            done = client.wait_for("response_done", timeout=30)

        seconds = len(sound) / client.config.output_audio.bytes_per_second
        print(f"\n{done.status}: {seconds:.1f} s of sound")


if __name__ == "__main__":
    main()
