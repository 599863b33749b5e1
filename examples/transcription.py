"""Write down what is said in recordings, and keep it in a database.

    python examples/transcription.py call.wav                 # with a local server of its own
    python examples/transcription.py                          # a synthetic voice says two sentences
    QAI_API_KEY=… python examples/transcription.py call.wav --url https://api.quantumencoding.ai

The handler that writes is registered with ``background=True``: a database may be slow, and the conversation must not wait for it.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3

from qai_realtime_sync import ConfigError, RealtimeClient, RealtimeConfig, TranscriptDone
from qai_realtime_sync.audio import AudioFormat, silence

SENTENCES = ("Good morning, how are you today?", "What is the weather like in London?")


def sentences() -> list[bytes]:
    """What is said if no recording is given, PCM16 at 24 kHz: sentences, or, where no voice is installed, two beeps."""
    try:
        from qai_realtime_sync.offline import caller_voice

        return [caller_voice(text)[0] for text in SENTENCES]
    except ConfigError:
        beep = (b"\x00\x30" * 50 + b"\x00\xd0" * 50) * 240
        return [beep, beep]


def main() -> None:
    """Send the sound, and read back from the database what was heard in it."""
    parser = argparse.ArgumentParser(description="Write down what is said in recordings.")
    parser.add_argument("recording", nargs="*", help="WAV files, one turn each")
    parser.add_argument("--database", default="transcripts.sqlite", help="an SQLite file (default: %(default)s)")
    parser.add_argument("--url", help="talk to this address, with the key in QAI_API_KEY, instead of a local server")
    parser.add_argument("--light", action="store_true", help="the local server recognises no words; starts faster")
    arguments = parser.parse_args()

    with contextlib.ExitStack() as stack:
        url, key = arguments.url, None
        if url is None:
            from qai_realtime_sync.offline import RealtimeServer

            url, key = stack.enter_context(RealtimeServer(light=arguments.light)).url, "any key"

        # One connection for all threads that use it in turn: the background lane writes, this one reads at the end.
        database = stack.enter_context(contextlib.closing(sqlite3.connect(arguments.database, check_same_thread=False)))
        database.execute("create table if not exists said (item text primary key, words text)")

        # Manual turns: what is between two commits is one entry, whatever pauses it has.
        client = RealtimeClient(key, RealtimeConfig(turn_detection=None), base_url=url)

        def write(event: TranscriptDone) -> None:
            if event.source == "input":
                with database:
                    database.execute("insert or replace into said values (?, ?)", (event.item_id, event.transcript))

        client.on(TranscriptDone, write, background=True)

        with client:
            for sound in arguments.recording or sentences():
                client.send_audio_from(sound)
                client.send_audio(silence(0.5, AudioFormat()))
                client.commit_audio()
                client.wait_for(TranscriptDone, timeout=30, where=lambda event: event.source == "input")
        # Closed: what was queued for the background is written.

        for item, words in database.execute("select item, words from said order by rowid"):
            print(f"{item}: {words}")


if __name__ == "__main__":
    main()
