"""A report's pictures as PNG, drawn with matplotlib: the timeline, and how long each answer let the caller wait."""

from __future__ import annotations

import math
import pathlib
import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from qai_realtime_sync.cli.recorded import Recorded
from qai_realtime_sync.cli.report_drawing import clock
from qai_realtime_sync.cli.report_lines import Line
from qai_realtime_sync.cli.report_numbers import Delay
from qai_realtime_sync.errors import ConfigError

__all__ = ["latency_chart", "timeline_picture"]

_USER, _ASSISTANT, _TOOL, _BAD, _WAIT = "#1d5fd1", "#b4540a", "#0b7a5f", "#b3261e", "#6d4bd1"
_PARTS = (
    ("noticing", "#8b95a7", "until the end of speech was noticed"),
    ("answering", _WAIT, "until sound came"),
    ("playing", _TOOL, "until it was heard"),
)
_INK, _QUIET, _RULE = "#1a1f2b", "#5b6472", "#dfe3ea"
_ROW_SECONDS = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800)
_MOST_ROWS = 10
_PER_ROW = 1500  # columns of a waveform
_NAMED_BARS = 40
_LONGEST_LABEL = 28


def timeline_picture(found: Recorded, lines: Sequence[Line], delays: Sequence[Delay], path: pathlib.Path) -> None:
    """Draw both sides, tools, waits and interruptions over time, in as many rows as it needs. Raises: `ConfigError`."""
    duration = max(found.duration, 1.0)
    per_row = next((seconds for seconds in _ROW_SECONDS if duration / seconds <= _MOST_ROWS), math.ceil(duration / _MOST_ROWS))
    if duration < per_row:
        per_row = duration
    count = max(1, math.ceil(duration / per_row - 1e-6))
    figure = _figure(14, 1.0 + 2.3 * count)
    axes = figure.subplots(count, 1, squeeze=False)[:, 0]
    per_second = min(200.0, _PER_ROW / per_row)
    peaks = found.sound.peaks(per_second) if found.sound is not None else []
    for number, axis in enumerate(axes):
        _row(axis, number * per_row, per_row, peaks, per_second, lines, delays)
    title = f"{_drawable(found.folder.resolve().name)}: {clock(found.duration)} minutes"
    axes[0].set_title(title, loc="left", color=_INK, fontsize=13, parse_math=False)
    _save(figure, path)


def latency_chart(delays: Sequence[Delay], path: pathlib.Path) -> None:
    """Draw the silence before each answer, by what it was spent on. Raises: `ConfigError`."""
    figure = _figure(max(7.0, min(20.0, 2.5 + 0.45 * len(delays))), 4.6)
    axis = figure.subplots()
    places = range(len(delays))
    bottoms = [0.0] * len(delays)
    for name, colour, label in _PARTS:
        values = [getattr(delay, name) * 1000 for delay in delays]
        if any(values):
            axis.bar(places, values, bottom=bottoms, color=colour, label=label, width=0.62)
        bottoms = [below + value for below, value in zip(bottoms, values)]
    if len(delays) <= _NAMED_BARS:
        for place, top in zip(places, bottoms):
            axis.text(place, top, f"{top:.0f}", ha="center", va="bottom", color=_INK, fontsize=9)
    middle = statistics.median(bottoms)
    axis.axhline(middle, color=_QUIET, linewidth=1, linestyle="--")
    axis.text(1.005, middle, f"median\n{middle:.0f} ms", color=_QUIET, fontsize=9, va="center", transform=axis.get_yaxis_transform())
    step = max(1, len(delays) // _NAMED_BARS)
    axis.set_xticks(places[::step], [str(delay.number) for delay in delays][::step])
    axis.set_xlim(-0.7, len(delays) - 0.3)
    axis.set_ylim(0, max(bottoms) * 1.28 or 1)
    axis.set_xlabel("turn", color=_QUIET)
    axis.set_ylabel("milliseconds", color=_QUIET)
    axis.set_title("Silence before each answer", loc="left", color=_INK, fontsize=13)
    axis.legend(frameon=False, fontsize=9, ncols=3, loc="upper left")
    _plain(axis)
    axis.grid(axis="y", color=_RULE)
    axis.set_axisbelow(True)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    """A figure without any window. Raises: `ConfigError` where matplotlib is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError(
            f"pictures need matplotlib ({error}); pip install 'qai-realtime-sync[report]'", code="missing_dependency"
        ) from error
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: pathlib.Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a letter that its font does not have is drawn as a box
            figure.savefig(path, dpi=110, format="png")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written: {error.strerror or error}", code="invalid_path") from error


def _row(
    axis: Any,
    begins: float,
    seconds: float,
    peaks: Sequence[Sequence[float]],
    per_second: float,
    lines: Sequence[Line],
    delays: Sequence[Delay],
) -> None:
    ends = begins + seconds
    _plain(axis)
    axis.set_xlim(begins, ends)
    axis.set_ylim(-2.35, 2.35)
    axis.set_yticks([1.15, -1.15], ["caller", "assistant"] if len(peaks) != 1 or lines else ["sound", ""])
    step = next((step for step in _STEPS if seconds / step <= 15), _STEPS[-1])
    axis.set_xticks([number * step for number in range(math.ceil(begins / step), int(ends / step) + 1)])
    axis.xaxis.set_major_formatter(lambda value, _: clock(value))
    for (middle, colour), channel in zip(((1.15, _USER), (-1.15, _ASSISTANT)), peaks):
        shown = channel[int(begins * per_second) : int(ends * per_second) + 1]
        times = [begins + number / per_second for number in range(len(shown))]
        high = [peak**0.6 for peak in shown]
        axis.fill_between(times, [middle - one for one in high], [middle + one for one in high], color=colour, linewidth=0.3)
    for line in lines:
        if line.ends >= begins and line.begins <= ends:
            _line(axis, line, begins, ends)
    for delay in delays:
        if begins <= delay.begins + delay.whole and delay.begins <= ends:
            axis.plot([delay.begins, delay.begins + delay.whole], [-0.08, -0.08], color=_WAIT, linewidth=2.5, clip_on=True)
            _label(axis, delay.begins, -0.42, f"{delay.whole * 1000:.0f} ms", _WAIT, begins, ends)


def _line(axis: Any, line: Line, begins: float, ends: float) -> None:
    if line.who == "tool":
        axis.plot([line.begins, max(line.ends, line.begins + 0.02)], [0.08, 0.08], color=_TOOL, linewidth=5, solid_capstyle="butt")
        _label(axis, line.begins, 0.14, line.words.partition("(")[0], _TOOL, begins, ends)
        return
    middle, colour = (1.15, _USER) if line.who == "user" else (-1.15, _ASSISTANT)
    axis.axvspan(line.begins, line.ends, *((middle + 2.35 + side) / 4.7 for side in (-1.05, 1.05)), color=colour, alpha=0.10, linewidth=0)
    if line.begins >= begins:
        _label(axis, line.begins, middle + 0.8 if line.who == "user" else middle - 1.1, line.words, _INK, begins, ends)
    if line.interrupted:
        axis.axvline(line.ends, color=_BAD, linestyle="--", linewidth=1.2)
        _label(axis, line.ends, 2.1, "interrupted ", _BAD, begins, ends, left=True)


def _label(axis: Any, at: float, height: float, text: str, colour: str, begins: float, ends: float, *, left: bool = False) -> None:
    if begins <= at <= ends:
        short = " ".join(_drawable(text).split()) + " " * left
        short = short if len(short) <= _LONGEST_LABEL else short[: _LONGEST_LABEL - 1] + "…"
        late = left or at > begins + 0.93 * (ends - begins)
        axis.text(
            at, height, short, color=colour, fontsize=8, ha="right" if late else "left", va="bottom", clip_on=True, parse_math=False
        )


def _drawable(text: str) -> str:
    """The text without halves of characters, which JSON and names of files may have, and no font can draw."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _plain(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(_RULE)
    axis.tick_params(colors=_QUIET, labelsize=9)
