"""The still pictures of a case report: slices through what scores highest, and how its scores compare with normals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medanomaly.evaluation import Calibration
from medanomaly.evaluation.regions import FPR
from medanomaly.report.figures import axial_picture, canonical, spread_slices
from medanomaly.report.pages import heat_colours

Floats = NDArray[np.floating[Any]]

SHOWN_FROM, SHOWN_TO = 1.0, 4.0  # rarity at the ends of the colours: one normal voxel of 10, one of 10,000
COLUMNS, PAIRS = 4, 2
MARGIN = 12.0  # mm around what was scored
GREY, HOT, NORMAL = "0.45", "#b3261e", "#3b6ea5"


def window(scan: Floats, scored: NDArray[np.bool_]) -> tuple[float, float]:
    """Black and white of a scan: what 1 % and 99.5 % of its scored voxels lie below."""
    low, high = np.percentile(scan[scored] if scored.any() else scan, [1, 99.5])
    return float(low), float(high) if high > low else float(low) + 1


def mosaic(scan: Floats, rarity: Floats, affine: Floats) -> Figure:
    """Axial slices through what scores highest, each alone and with the heatmap; the patient's right is on the left.

    Args:
        scan, rarity: (H, W, D) on one grid; rarity is NaN where nothing was scored.
        affine: of the grid, voxel to world (RAS, mm).
    """
    grey, grid = canonical(scan, affine)
    heat = canonical(rarity, affine)[0]
    low, high = window(grey, np.isfinite(heat))
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    first, last = _scored_box(np.isfinite(heat), np.ceil(MARGIN / spacing).astype(int))
    grey, heat = (volume[first[0] : last[0], first[1] : last[1]] for volume in (grey, heat))
    grid = grid @ nib.affines.from_matvec(np.eye(3), [first[0], first[1], 0])
    threshold = -np.log10(FPR)
    slices = spread_slices(np.clip(np.nan_to_num(heat) - threshold, 0, None).sum(axis=(0, 1)), COLUMNS * PAIRS)
    height = 3.0 * grey.shape[1] * spacing[1] / (grey.shape[0] * spacing[0])
    pairs = -(-len(slices) // COLUMNS)
    figure = Figure(figsize=(3.0 * COLUMNS, 2 * pairs * height), facecolor="black")
    axes = figure.subplots(2 * pairs, COLUMNS, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.01, hspace=0.01)
    style: dict[str, Any] = {"aspect": spacing[1] / spacing[0], "origin": "lower"}
    colours: dict[str, Any] = {"cmap": heat_colours(), "vmin": SHOWN_FROM, "vmax": SHOWN_TO, "alpha": 0.85}
    for axis in axes.flat:
        axis.set_axis_off()
    for number, z in enumerate(reversed(slices)):  # from the top of the head down
        row, column = divmod(number, COLUMNS)
        plain, hot = axes[2 * row, column], axes[2 * row + 1, column]
        for axis in (plain, hot):
            axis.imshow(axial_picture(grey, z), cmap="gray", vmin=low, vmax=high, **style)
        hot.imshow(np.ma.masked_less(axial_picture(np.nan_to_num(heat), z), threshold), **colours, **style)
        words: dict[str, Any] = {"transform": plain.transAxes, "color": "white", "fontsize": 9}
        middle = grid @ [(grey.shape[0] - 1) / 2, (grey.shape[1] - 1) / 2, z, 1]
        plain.text(0.5, 0.02, f"{'S' if middle[2] >= 0 else 'I'} {abs(middle[2]):.0f} mm", ha="center", **words)
        plain.text(0.02, 0.5, "R", va="center", **words)
        plain.text(0.98, 0.5, "L", va="center", ha="right", **words)
    return figure


def _scored_box(scored: NDArray[np.bool_], margin: NDArray[Any]) -> tuple[list[int], list[int]]:
    """First voxel of a box around what was scored, with a margin, and the first behind it; all if nothing was."""
    places = np.argwhere(scored) if scored.any() else np.argwhere(np.ones_like(scored))
    first = np.maximum(places.min(axis=0) - margin, 0)
    return first.tolist(), np.minimum(places.max(axis=0) + 1 + margin, scored.shape).tolist()


def still(scan: Floats, rarity: Floats, affine: Floats, lesion: NDArray[np.bool_] | None = None) -> Figure:
    """A slice alone, and with the heatmap: the axial one with most lesion, or else with the highest scores.

    An image of one slice is shown in its own plane, the front or the patient's right on the left.

    Args:
        scan, rarity: (H, W, D) on one grid; rarity is NaN where nothing was scored.
        affine: of the grid, voxel to world (RAS, mm).
        lesion: (H, W, D), outlined in green; None if it is not known.
    """
    grey, grid = canonical(scan, affine)
    heat = np.nan_to_num(canonical(rarity, affine)[0], nan=-1)
    drawn = None if lesion is None else canonical(lesion.astype(np.uint8), affine)[0] > 0
    threshold = -np.log10(FPR)
    weight = drawn if drawn is not None and drawn.any() else np.clip(heat - threshold, 0, None)
    flat = grey.shape.index(1) if 1 in grey.shape else 2
    across, down = (axis for axis in range(3) if axis != flat)
    (place,) = spread_slices(weight.sum(axis=(across, down)), 1)
    low, high = window(grey, heat >= 0)
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    style: dict[str, Any] = {"aspect": spacing[down] / spacing[across], "origin": "lower"}
    height = 2.1 * grey.shape[down] * spacing[down] / (grey.shape[across] * spacing[across])
    figure = Figure(figsize=(4.2, height), facecolor="black")
    plain, hot = figure.subplots(1, 2)
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.01)

    def seen(volume: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.take(volume, place, axis=flat)[::-1].T)

    for axis in (plain, hot):
        axis.imshow(seen(grey), cmap="gray", vmin=low, vmax=high, **style)
        axis.set_axis_off()
    shown = np.ma.masked_less(seen(heat), threshold)
    hot.imshow(shown, cmap=heat_colours(), vmin=SHOWN_FROM, vmax=SHOWN_TO, alpha=0.85, **style)
    if drawn is not None and drawn.take(place, axis=flat).any():
        hot.contour(seen(drawn), levels=[0.5], colors="lime", linewidths=0.8)
    return figure


def score_histogram(scores: Floats, calibration: Calibration) -> Figure:
    """How often which score is found: in this case, and in held-out normal tissue; with the voxel threshold.

    Args:
        scores: (n_voxels,) of the region.
        calibration: of the model.
    """
    quantiles, probabilities = np.array(calibration.quantiles), np.array(calibration.probabilities)
    edges = np.linspace(min(quantiles[0], scores.min()), max(quantiles[-1], scores.max()), 81)
    normal = np.diff(np.interp(edges, quantiles, probabilities))
    own = np.histogram(scores, edges)[0] / scores.size
    figure = Figure(figsize=(6.2, 3.4), layout="constrained")
    axis = figure.subplots()
    axis.stairs(normal, edges, fill=True, color=NORMAL, alpha=0.35, label="normal cases", baseline=1e-9)
    axis.stairs(own, edges, color=HOT, linewidth=1.6, label="this case", baseline=None)
    line = calibration.voxel_threshold(FPR)
    axis.axvline(line, color=GREY, linestyle="--", linewidth=1, label=f"{100 * FPR:g} % of normal voxels above")
    axis.set(xlabel="score of a voxel", ylabel="share of voxels", yscale="log", xlim=(edges[0], edges[-1]))
    axis.set_ylim(bottom=max(min(own[own > 0].min(), 1e-4), 1e-7))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    return figure


def case_scores(summary: Mapping[str, Any], calibration: Calibration) -> Figure:
    """The score of this case among those of the normal cases, and the threshold.

    Args:
        summary: of :func:`medanomaly.report.summaries.summarise_case`.
        calibration: of the model.
    """
    figure = Figure(figsize=(6.2, 2.1), layout="constrained")
    axis = figure.subplots()
    normals = np.sort(calibration.case_scores)
    axis.plot(normals, np.zeros(len(normals)), "o", color=NORMAL, alpha=0.5, label="normal cases", markersize=7)
    axis.plot(summary["case_score"], 0, "D", color=HOT, label="this case", markersize=9)
    axis.axvline(summary["case_threshold"], color=GREY, linestyle="--", linewidth=1, label="threshold")
    axis.set(xlabel="score of a case: mean of its highest 1 % of voxels", yticks=[], ylim=(-1, 2.4))
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.margins(x=0.08)
    axis.legend(frameon=False, fontsize=9, loc="upper center", ncols=3)
    return figure
