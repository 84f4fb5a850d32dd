"""Lesion by lesion: how many are found at a threshold, and how many findings are of none."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected

SIZES_ML = (0.0, 0.1, 1.0, np.inf)  # between which lesions count as small, of middle size, large
LEAST_ML = 0.01  # of a finding: one that is smaller is noise to a reader


def lesion_metrics(
    heatmap: NDArray[Any], lesions: NDArray[np.bool_], threshold: float, spacing: Sequence[float]
) -> dict[str, Any]:
    """What a reader would say who looks at what lies above ``threshold``, one lesion after the other.

    Lesions and findings are voxels that touch, if only by a corner. A lesion is found if any of its voxels is called; a
    finding of at least 0.01 ml that touches no lesion is false.

    Args:
        heatmap: scores (H, W, D), NaN outside the region; lesions there are no one's to find, and do not count.
        lesions: (H, W, D).
        threshold: called is what scores above it.
        spacing: voxel size in mm.

    Returns:
        ``lesions`` (how many), ``sensitivity`` (share that is found), ``false_positives`` (findings of none), and for
        each class of size ``by_size``: ``ml`` (from, to), ``lesions``, ``found``. NaN where there is no lesion.
    """
    voxel_ml = float(np.prod(spacing)) / 1000
    inside = np.isfinite(heatmap)
    called = np.nan_to_num(heatmap, nan=-np.inf) > threshold
    numbered = connected(lesions & inside, connectivity=3)
    count = int(numbered.max())
    volumes = np.bincount(numbered.ravel(), minlength=count + 1)[1:] * voxel_ml
    found = np.zeros(count + 1, bool)
    found[np.unique(numbered[called])] = True
    found = found[1:]
    findings = connected(called, connectivity=3)
    sizes = np.bincount(findings.ravel()) * voxel_ml
    true = np.zeros(len(sizes), bool)
    true[np.unique(findings[lesions & inside])] = True
    by_size = [
        {
            "ml": [low, None if high == np.inf else high],
            "lesions": int(np.count_nonzero(here)),
            "found": int(np.count_nonzero(found & here)),
        }
        for low, high in pairwise(SIZES_ML)
        for here in [(volumes > low) & (volumes <= high)]
    ]
    return {
        "lesions": count,
        "sensitivity": float(found.mean()) if count else float("nan"),
        "false_positives": int(np.count_nonzero(~true[1:] & (sizes[1:] >= LEAST_ML))),
        "by_size": by_size,
    }
