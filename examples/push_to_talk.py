"""Push to talk: send a recording as one turn, say that it is over, and keep the answer as a WAV file.

    python examples/push_to_talk.py question.wav answer.wav   # with a local server of its own
    python examples/push_to_talk.py                           # asks with a synthetic voice, or a tone
    QAI_API_KEY=… python examples/push_to_talk.py question.wav answer.wav --url https://api.quantumencoding.ai
"""

from __future__ import annotations

import argparse
import contextlib
import math
import wave
from array import array

from qai_realtime_sync import ConfigError, RealtimeClient, RealtimeConfig, TranscriptDone


def question(path: str | None) -> tuple[bytes, int]:
    """The sound of the question, PCM16 of one channel, and its rate in Hz."""
    if path is not None:
        with wave.open(path, "rb") as file:
            if file.getsampwidth() != 2 or file.getnchannels() != 1:
                raise SystemExit(f"{path} must have 16 bits and one channel")
            return file.readframes(file.getnframes()), file.getframerate()
    try:
        from qai_realtime_sync.offline import caller_voice

        return caller_voice("What time is it now, please?")
    except ConfigError:  # no voice is installed
        return array("h", (round(9000 * math.sin(n * 0.06)) for n in range(24000))).tobytes(), 24000


def main() -> None:
    """Ask, and print what was heard and answered."""
    parser = argparse.ArgumentParser(description="Send a recording as one turn.")
    parser.add_argument("question", nargs="?", help="a WAV file, 16 bit, mono")
    parser.add_argument("answer", nargs="?", help="where the answer goes, as a WAV file")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server answers in tones; starts faster")
    arguments = parser.parse_args()
    pcm, rate = question(arguments.question)

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        # Manual turns: nothing is answered until the program says that the user has finished.
        client = RealtimeClient(key, RealtimeConfig(sample_rate=rate, turn_detection=None), base_url=url)
        sound = bytearray()
        client.on_audio_delta(lambda event: sound.extend(event.audio))

        @client.on_transcript_done
        def show(event: TranscriptDone) -> None:
            print(f"{'heard' if event.source == 'input' else 'answer'}: {event.transcript}")

        with client:
            for start in range(0, len(pcm), rate):  # half a second at a time, as fast as the network takes it
                client.send_audio(pcm[start : start + rate])
                client.drain()
            client.commit_audio()
            client.create_response()
            done = client.wait_for("response_done", timeout=30)

    if done.status == "failed":
        raise SystemExit(f"the service could not answer: {done.error_message or done.error_code or done.reason}")
    if done.status != "completed":
        print(f"the answer is not whole: {done.status} {done.reason}".rstrip())

    if arguments.answer is not None:
        with wave.open(arguments.answer, "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(rate)
            file.writeframes(sound)
        print(f"{len(sound) / 2 / rate:.1f} s of sound in {arguments.answer}")


if __name__ == "__main__":
    main()
