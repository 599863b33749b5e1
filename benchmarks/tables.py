"""Tables for reading, and one picture."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environments
from benchmarks.scenes import OPENAI, Table


def show(table: Table) -> None:
    """Print one table: the number compared, its ratio to ours, and the rest."""
    key = table.key
    print(f"\n{table.title}  [{table.unit}]")
    ours = table.rows.get("ours", {}).get(key, 0.0)
    for name, row in table.rows.items():
        if not row:
            print(f"  {name:<26} –")
            continue
        ratio = f"{row[key] / ours:6.2f}x" if ours else ""
        rest = "  ".join(f"{k} {_number(v)}" for k, v in row.items() if k not in (key, "bytes", "wall_us"))
        print(f"  {name:<26} {_number(row[key]):>10}  {ratio:>8}  {rest}")
    for words, reached, kept in verdicts(table):
        print(f"    {'met   ' if kept else 'MISSED'}  {words}: {reached:.2f}")
    print(end="", flush=True)


def verdicts(table: Table) -> list[tuple[str, float, bool]]:
    """Each promise, what was reached, and whether it is kept."""
    found = []
    for words, above, below, limit in table.targets:
        top = table.rows.get(above, {}).get(table.key)
        bottom = table.rows.get(below, {}).get(table.key) if below else 1.0
        if top is None or bottom is None:
            continue
        reached = top / bottom if bottom > 0 else float("inf")  # nothing can be told from the floor any more
        found.append((words, reached, _keeps(reached, limit)))
    ours = table.rows.get("ours", {})
    return found + [(words, ours[key], _keeps(ours[key], limit)) for words, key, limit in table.promises if key in ours]


def _keeps(reached: float, limit: float) -> bool:
    return reached >= limit if limit > 0 else reached <= -limit


def markdown(tables: Sequence[Table]) -> str:
    """All that was measured as one table for a page: a row per scene, hits and misses alike."""
    lines = [
        "| | unit | floor | ours | ours, no extra | openai-python sync | ratio | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for table in tables:
        values = {name: row.get(table.key) for name, row in table.rows.items() if row}
        cells = ["–" if (value := values.get(name)) is None else _number(value) for name in ("floor", "ours", "ours, no extra", OPENAI)]
        ours, peer = values.get("ours"), values.get(OPENAI)
        cells.append(f"{peer / ours:.1f}" if ours and peer else "–")
        said = "; ".join(f"{words}: {_number(reached)} {'met' if kept else '**missed**'}" for words, reached, kept in verdicts(table))
        lines.append(f"| {table.title} | {table.unit} | {' | '.join(cells)} | {said} |")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


_DRAW = """
import json, sys
import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
import matplotlib.ticker
bars = json.load(sys.stdin)
colours = {"ours": "#1f6f54", "ours, no extra": "#7fb8a4"}
figure, panes = plt.subplots((len(bars) + 2) // 3, 3, figsize=(15, 3 * ((len(bars) + 2) // 3)), squeeze=False)
for pane in panes.flat[len(bars):]:
    pane.axis("off")
for pane, bar in zip(panes.flat, bars):
    names = list(bar["values"])[::-1]
    values = [bar["values"][name] for name in names]
    drawn = pane.barh(names, values, color=[colours.get(name, "#c9c9c9") for name in names])
    pane.bar_label(drawn, fmt=lambda v: f"{v:,.1f}", padding=3, fontsize=8)
    pane.set_xscale("log")
    pane.set_xlim(left=min(values) / 4)
    pane.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    pane.margins(x=0.25)
    pane.set_title(bar["title"] + "\\n" + bar["unit"], fontsize=9)
    pane.tick_params(labelsize=8)
    for side in ("top", "right"):
        pane.spines[side].set_visible(False)
figure.tight_layout()
figure.savefig(sys.argv[1], dpi=110)
"""


def draw(tables: Sequence[Table], path: Path) -> bool:
    """Write bar charts of the tables in which a peer stands; false if they could not be drawn."""
    bars = []
    for table in tables:
        values = {name: row[table.key] for name, row in table.rows.items() if row and row[table.key] > 0}
        if OPENAI in values and "ours" in values:
            bars.append({"title": table.title, "unit": table.unit, "values": values})
    if not bars:
        return False
    done = subprocess.run([environments.python("peers"), "-c", _DRAW, str(path)], input=json.dumps(bars), text=True, capture_output=True)
    if done.returncode:
        print(f"no picture: {done.stderr.strip().splitlines()[-1]}")
    return not done.returncode
