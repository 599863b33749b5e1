"""Record a conversation, then tell it again to the same handlers, without a network.

    python examples/replay.py                                 # with a local server of its own
    python examples/replay.py --folder my_call                # retell a recording that exists

Whatever a program does with events can be tried on a recording: as fast as it goes, at its own pace, or slower.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import tempfile

from qai_realtime_sync import RealtimeClient, Recorder, ResponseDone, TranscriptDone


def listen(client: RealtimeClient) -> list[str]:
    """Register the handlers of this program; they do not know whether they hear a recording."""
    lines: list[str] = []

    @client.on_transcript_done
    def said(event: TranscriptDone) -> None:
        lines.append(f"{event.source}: {event.transcript}")

    @client.on_response_done
    def answered(event: ResponseDone) -> None:
        lines.append(f"answer {event.status}")

    return lines


def main() -> None:
    """Record, retell, and compare what the handlers were told."""
    parser = argparse.ArgumentParser(description="Record a conversation and tell it again.")
    parser.add_argument("--folder", help="retell this recording instead of making one")
    parser.add_argument("--speed", type=float, help="1 = as it happened, 2 = twice as fast (default: at once)")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        folder, live = arguments.folder, None
        if folder is None:
            folder = str(pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "recording")
            url, key = arguments.url, None
            if url is None:
                from qai_realtime_sync.offline import RealtimeServer

                url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"
            client = RealtimeClient(key, base_url=url)
            live = listen(client)
            client.record_to(Recorder(folder))
            with client:
                client.ask("What time is it?", timeout=30)
                client.ask("Thank you!", timeout=30)

        again = RealtimeClient("no key is needed")
        retold = listen(again)
        again.replay(folder, speed=arguments.speed)
        print("\n".join(retold))
        if live is not None:
            print("the handlers were told the same" if retold == live else f"live it was different: {live}")


if __name__ == "__main__":
    main()
