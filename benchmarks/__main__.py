"""``python -m benchmarks [--quick] [--rounds N] [--png PATH] [--markdown PATH] [--against TREE] [guard | scene …]``"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import environments, tables
from benchmarks.guard import guard
from benchmarks.rounds import Bench
from benchmarks.scenes import SCENES


def main() -> int:
    """Measure what was asked for; 1 if the guard found a regression."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside the peers, interleaved in one run.")
    parser.add_argument("only", nargs="*", metavar="scene", help=f"guard, or some of: {', '.join(SCENES)}")
    parser.add_argument("--quick", action="store_true", help="fewer events and rounds")
    parser.add_argument("--rounds", type=int, default=0, help="how often each is measured (5, quick 3)")
    parser.add_argument("--png", type=Path, default=Path("benchmarks.png"), help="where the picture goes")
    parser.add_argument("--markdown", type=Path, help="where a table for a page goes")
    parser.add_argument("--against", type=Path, help="another tree of ours to measure beside, as 'ours before'")
    asked = parser.parse_args()
    unknown = [name for name in asked.only if name not in (*SCENES, "guard")]
    if unknown:
        parser.error(f"no such scene: {', '.join(unknown)}")
    bench = Bench(asked.rounds or (3 if asked.quick else 5), asked.quick, asked.against)
    try:
        if "guard" in asked.only:
            return guard(bench)
        print(environments.versions())
        made = []
        for name in asked.only or SCENES:
            for table in SCENES[name](bench):
                tables.show(table)
                made.append(table)
    finally:
        bench.close()
    if asked.markdown:
        asked.markdown.write_text(tables.markdown(made), encoding="utf-8")
    if tables.draw(made, asked.png):
        print(f"\npicture: {asked.png}")
    return 0


sys.exit(main())
