"""Seconds against patches scored, log-log, with the arithmetic floor drawn."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, log10
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.ticker import LogFormatterMathtext, LogLocator, NullFormatter

from benchmarks.tables import Point, Section

# a hue and a marker each, the same in all panels
STYLES = {
    "one patch at a time": ("#7f7f7f", "X"),
    "sliding_window_inference, window batch 4": ("#e69f00", "v"),
    "sliding_window_inference, best window batch": ("#d55e00", "^"),
    "the same, network channels_last": ("#000000", "+"),
    "PatchInferer, best batch": ("#cc79a7", "D"),
    "PatchInferer with a filter, best batch": ("#882255", "d"),
    "PatchScoreInferer": ("#0072b2", "o"),
    "PatchScoreInferer, bf16": ("#56b4e9", "s"),
    "PatchScoreInferer, whole volumes": ("#009e73", "."),
}
HOLLOW = ("PatchInferer, best batch", "PatchInferer with a filter, best batch")  # they lie on MONAI's others


def draw(sections: Sequence[Section], path: Path, title: str) -> bool:
    """Write the plot; False if no section has points."""
    points = [point for section in sections for point in section.points]
    floors = {panel: floor for section in reversed(sections) for panel, floor in section.floors.items()}
    panels = list(dict.fromkeys(point.panel for point in points))
    if not panels:
        return False
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels) + 0.4, 5.6), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        _draw_panel(axis, panel, [point for point in points if point.panel == panel], floors[panel])
    axes[0, 0].set_ylabel("seconds")
    handles = {label: h for axis in axes[0] for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="lower center", ncols=3, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout(rect=(0, 0.19, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True


def _draw_panel(axis: plt.Axes, panel: str, points: Sequence[Point], floors: dict[str, float]) -> None:
    low, high = _decades([p.patches for p in points])
    fewest = min(p.patches for p in points)
    bottom, top = _decades([p.seconds for p in points] + [fewest * seconds for seconds in floors.values()])
    for (kind, seconds), line in zip(floors.items(), ("-", "--", ":"), strict=False):
        label = f"arithmetic floor, {kind}"
        axis.plot((low, high), (low * seconds, high * seconds), color="black", linewidth=1, linestyle=line, label=label)
    for way, (colour, marker) in STYLES.items():
        at = sorted((p.patches, p.seconds) for p in points if p.way == way)
        if at:
            x, y = zip(*at, strict=True)
            line = "-" if way.endswith("whole volumes") else ""
            fill = {"markerfacecolor": "none"} if way in HOLLOW else {}
            axis.plot(x, y, marker, color=colour, linestyle=line, linewidth=0.8, markersize=7, label=way, **fill)
    axis.set(xscale="log", yscale="log", title=panel, xlabel="patches scored", xlim=(low, high), ylim=(bottom, top))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(LogLocator(10, numticks=12))
        side.set_major_formatter(LogFormatterMathtext(10))
        side.set_minor_formatter(NullFormatter())
    axis.grid(True, which="major", linewidth=0.4, alpha=0.6)


def _decades(values: Sequence[float]) -> tuple[float, float]:
    """The powers of ten around the values."""
    return 10.0 ** floor(log10(min(values))), 10.0 ** ceil(log10(max(values)))
