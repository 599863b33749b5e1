"""A light watch over the hot paths: ratios to the floor of the same run, against limits that stand here."""

from __future__ import annotations

from benchmarks.rounds import Bench

# (scene, query, events): who -> most that its CPU may be of the floor's, about a third above what was measured
_LIMITS: list[tuple[str, dict[str, object], int, dict[str, float]]] = [
    ("receive", {"flow": "text"}, 30_000, {"ours": 24.0}),
    ("receive", {"flow": "audio6"}, 12_000, {"transport": 2.5, "ours": 6.5}),
    ("receive", {"flow": "audio27"}, 5_000, {"transport": 2.1, "ours": 3.7}),
    ("send", {"sink": 1}, 8_000, {"ours": 13.0}),
]


def guard(bench: Bench) -> int:
    """Measure, print, and return 1 if a limit is broken twice in a row, else 0."""
    broken = 0
    for scene, query, count, limits in _LIMITS:
        for attempt in (1, 2):
            failed = _measure(bench, scene, query, count, limits)
            if not failed:
                break
            print("  again: one disturbed run is no verdict" if attempt == 1 else "  BROKEN")
        broken += failed
    return 1 if broken else 0


def _measure(bench: Bench, scene: str, query: dict[str, object], count: int, limits: dict[str, float]) -> bool:
    warm = count // 10
    if "flow" in query:
        query = {**query, "count": count + warm + 5}
    job = {"scene": scene, "url": bench.url(query), "count": count, "warm": warm}
    rows = bench.interleaved(["floor", *limits], lambda name: job, rounds=5)
    failed = False
    for name, limit in limits.items():
        ratio = rows[name]["cpu_us"] / rows["floor"]["cpu_us"]
        failed |= ratio > limit
        print(f"{scene} {query.get('flow', '20 ms'):<8} {name:<15} {ratio:6.2f} times the floor, limit {limit:g}", flush=True)
    return failed
