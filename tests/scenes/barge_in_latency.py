"""``python -m tests.scenes.barge_in_latency [rounds]``: how fast an interruption by voice is, in milliseconds, in every dialect."""

from __future__ import annotations

import statistics
import sys

from tests.scenes.barge_in import STORY, interrupted_by_voice
from tests.scenes.stage import DIALECT_NAMES, stage

PROMISED_MS, PROMISED_CUT_MS = 40, 100


def main(rounds: int) -> int:
    """Measure and print; 1 if a promise was broken."""
    broken = False
    sys.stdout.write("dialect      rounds   to silence p50 / max   to truncate p50 / max   kept - heard, worst\n")
    for dialect in DIALECT_NAMES:
        with stage(dialect, lambda script: script.on_text("story").say(STORY)) as one:
            if not has_speech_events(dialect):
                continue
            measured = [interrupted_by_voice(one, 0.4 + 0.1 * number) for number in range(rounds)]
        silent, cut = ([1000 * getattr(m, name) for m in measured] for name in ("silence", "cut"))
        off = max((m.kept_ms - m.heard_ms for m in measured), key=abs)
        broken |= max(silent) > PROMISED_MS or max(cut) > PROMISED_MS or abs(off) > PROMISED_CUT_MS
        sys.stdout.write(
            f"{dialect:<12} {rounds:>6}   {statistics.median(silent):>8.2f} / {max(silent):.2f} ms"
            f"   {statistics.median(cut):>9.2f} / {max(cut):.2f} ms   {off:>12.1f} ms\n"
        )
    return int(broken)


def has_speech_events(dialect: str) -> bool:
    """Tell whether the service says when the user speaks, and can be told what was heard."""
    from qai_realtime_sync.commands import TruncateItem
    from qai_realtime_sync.dialects import choose

    traits = choose(dialect, "", "", "").traits
    return traits.speech_events and TruncateItem not in traits.unsupported


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5))
