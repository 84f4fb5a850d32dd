"""Regions: what hangs together above a threshold of a heatmap, one row each, in the patient's millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from skimage.measure import label

from medanomaly.errors import InputError
from medanomaly.evaluation.calibration import Calibration

FPR = 0.005  # share of normal voxels above the threshold, if none is asked for
MIN_ML = 0.05  # smallest region, if none is asked for: a ball of 4.6 mm in diameter
MIDLINE_MM = 5.0  # a centroid that is nearer to the middle of the scored voxels is on neither side
SIGNS = {"bright": "brighter", "dark": "darker"}
COLUMNS = (
    *("region", "volume_ml", "voxels", "peak", "mean", "normals_above"),
    *("centroid_r", "centroid_a", "centroid_s", "centroid_l", "centroid_p"),
    *("peak_r", "peak_a", "peak_s", "peak_i", "peak_j", "peak_k"),
    *("box_min_r", "box_min_a", "box_min_s", "box_max_r", "box_max_a", "box_max_s"),
    *("side", "sign"),
)


@dataclass(frozen=True)
class Regions:
    """The regions of a heatmap.

    Attributes:
        table: a row each, by falling peak, with the columns ``COLUMNS``. ``region`` is its number in ``labels``, from
            1. ``peak`` and ``mean`` are raw scores, ``normals_above`` the share of normal voxels that score at least as
            high as the peak. Places are in mm in the world of the scan's affine: ``_r``, ``_a``, ``_s`` rise to the
            patient's right, front and top; ``centroid_l`` and ``centroid_p``, to the left and back, are the same point
            as DICOM and ITK say it. A box holds whole voxels. ``peak_i``, ``_j``, ``_k`` is the voxel of the highest
            score. ``side`` is left, right or midline: where the centroid lies against ``middle_r``, midline within
            5 mm of it; empty for an image of one slice. ``sign`` is brighter or darker where the scores are of what is
            brighter, or darker, than expected alone, else empty.
        labels: (H, W, D) int32 on the grid of the heatmap: 0, or the number of a region.
        threshold: the raw score above which a voxel belongs to a region.
        fpr: the share of normal voxels above it.
        min_ml: the smallest region, in ml. Of an image of one slice, which has no volume (``volume_ml`` is NaN), a
            pixel counts as 0.001 ml.
        middle_r: the mean r coordinate of all scored voxels, in mm: half a brain on either side of it, as far as the
            head is not turned. NaN if no voxel was scored.
    """

    table: pd.DataFrame
    labels: NDArray[np.int32]
    threshold: float
    fpr: float
    min_ml: float
    middle_r: float


def find_regions(
    heatmap: NDArray[Any],
    affine: NDArray[np.floating[Any]],
    calibration: Calibration,
    fpr: float = FPR,
    min_ml: float = MIN_ML,
) -> Regions:
    """Voxels above a calibrated threshold that touch, if only by a corner, and are together large enough.

    Args:
        heatmap: raw scores (H, W, D), NaN where nothing was scored.
        affine: (4, 4), voxel to world, RAS, mm.
        calibration: of the model, which says what the scores mean.
        fpr: the share of normal voxels above the threshold, in (0, 1).
        min_ml: smaller regions are left out, in ml; 0 keeps every voxel.

    Raises:
        InputError: if ``fpr`` or ``min_ml`` cannot be used.
    """
    if not 0 <= min_ml < np.inf:
        raise InputError(f"the smallest region is {min_ml} ml, but 0 or more is needed, such as 0.05.")
    threshold = calibration.voxel_threshold(fpr)
    is_flat = 1 in heatmap.shape
    voxel_ml = 0.001 if is_flat else abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    found: NDArray[np.int32] = label(np.nan_to_num(heatmap, nan=-np.inf) > threshold, connectivity=3).astype(np.int32)
    voxels = np.argwhere(found)
    points = pd.DataFrame(voxels @ affine[:3, :3].T + affine[:3, 3], columns=["r", "a", "s"])
    points[["i", "j", "k"]] = voxels
    points["score"] = heatmap[found > 0].astype(np.float64)
    points["found"] = found[found > 0]
    size = points.groupby("found")["score"].transform("size")
    points = points[size * voxel_ml >= min_ml - 1e-9].sort_values("score", ascending=False, kind="stable")
    groups = points.groupby("found", sort=False)  # in the order of their peaks
    peaks, centre = groups.first(), groups[["r", "a", "s"]].mean()
    half = np.abs(affine[:3, :3]).sum(axis=1) / 2  # of a voxel, along r, a, s
    low, high = groups[["r", "a", "s"]].min() - half, groups[["r", "a", "s"]].max() + half
    middle = _middle(heatmap, affine)
    count = len(peaks)
    table = pd.DataFrame(
        {
            "region": np.arange(1, count + 1),
            "volume_ml": np.nan if is_flat else groups.size() * voxel_ml,
            "voxels": groups.size(),
            "peak": peaks["score"],
            "mean": groups["score"].mean(),
            "normals_above": 1 - calibration.percentile(peaks["score"].to_numpy()) / 100,
            **{f"centroid_{axis}": centre[axis] for axis in "ras"},
            "centroid_l": -centre["r"],
            "centroid_p": -centre["a"],
            **{f"peak_{axis}": peaks[axis] for axis in "rasijk"},
            **{f"box_min_{axis}": low[axis] for axis in "ras"},
            **{f"box_max_{axis}": high[axis] for axis in "ras"},
            "side": "" if is_flat else [_side(r - middle) for r in centre["r"]],
            "sign": SIGNS.get(str(calibration.settings.get("sign")), ""),
        },
        index=peaks.index,
        columns=list(COLUMNS),
    )
    numbers = np.zeros(found.max() + 1, np.int32)
    numbers[table.index] = table["region"]
    return Regions(table.reset_index(drop=True), numbers[found], threshold, fpr, min_ml, middle)


def _middle(heatmap: NDArray[Any], affine: NDArray[np.floating[Any]]) -> float:
    """The mean r coordinate of the scored voxels, in mm."""
    scored = np.isfinite(heatmap)
    if not scored.any():
        return np.nan
    places = [
        np.average(np.arange(n), weights=scored.sum(axis=tuple({0, 1, 2} - {axis})))
        for axis, n in enumerate(heatmap.shape)
    ]
    return float(affine[0, :3] @ places + affine[0, 3])


def _side(offset: float) -> str:
    """Of a centroid that lies ``offset`` mm to the patient's right of the middle."""
    if abs(offset) <= MIDLINE_MM:
        return "midline"
    return "right" if offset > 0 else "left"
