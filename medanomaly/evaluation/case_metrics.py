"""How well whole cases are told apart: one score a case, higher is more abnormal."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from medanomaly.errors import InputError
from medanomaly.evaluation.voxel_metrics import voxel_metrics

RANKED = ("auroc", "average_precision")


def case_score(scores: npt.NDArray[Any], top_fraction: float = 0.01) -> float:
    """The mean of the highest voxel scores of a case, robust to a stray voxel and alert to a small lesion.

    One rule for all: of a detector that gives a whole image one score, the heatmap is constant, and this is that score;
    of plain intensity, it is the mean of the brightest of the image.

    Args:
        scores: voxel scores in the region of one case, of any shape, all finite.
        top_fraction: the share of voxels that count, in (0, 1]; at least one voxel does.

    Raises:
        InputError: when there is no score, one is NaN or infinite, or the fraction lies outside (0, 1].

    Examples:
        >>> case_score(np.arange(1000.0))  # the mean of 990 to 999
        994.5
    """
    scores = np.ravel(scores)
    if scores.size == 0 or not np.isfinite(scores).all():
        raise InputError(
            f"{np.count_nonzero(np.isfinite(scores))} of {scores.size} voxel scores of the case are finite; all of at "
            "least one must be. Take the finite voxels of the heatmap, which are those in the region."
        )
    if not 0 < top_fraction <= 1:
        raise InputError(f"top_fraction is {top_fraction}; it must lie in (0, 1]. The default is 0.01.")
    n_top = max(1, round(top_fraction * scores.size))
    return float(np.partition(scores, scores.size - n_top)[-n_top:].mean(dtype=np.float64))


def case_ranking(scores: npt.NDArray[Any], abnormal: npt.NDArray[Any]) -> dict[str, float]:
    """``auroc`` and ``average_precision`` of cases, for which no threshold is needed; see :func:`case_metrics`."""
    abnormal = np.asarray(abnormal, dtype=bool)
    found = voxel_metrics(scores, abnormal)  # a ranking is a ranking; this checks the input, too
    both = bool(abnormal.any() and not abnormal.all())  # without a normal case any order would have a precision of 1
    return {key: found[key] if both else float("nan") for key in RANKED}


def case_metrics(scores: npt.NDArray[Any], abnormal: npt.NDArray[Any], threshold: float) -> dict[str, float]:
    """Metrics of cases at a threshold that was fixed beforehand, on normal cases, never on these.

    Args:
        scores: (n_cases,) finite case scores.
        abnormal: (n_cases,) true for an abnormal case.
        threshold: a case is called abnormal when its score is greater than this.

    Returns:
        ``auroc``, ``average_precision``, ``accuracy``, ``sensitivity``, ``specificity``, ``precision``, ``f1`` in 0..1,
        ``threshold``, and the counts ``tp``, ``fp``, ``tn``, ``fn``. AUROC and average precision are nan when one class
        is missing. So is a ratio whose denominator is 0: sensitivity without abnormal cases, specificity without normal
        ones, precision when nothing is called, and f1 only when nothing is abnormal and nothing is called.

    Raises:
        InputError: when the shapes differ, there is no case, or a score or the threshold is NaN or a score infinite.

    Examples:
        >>> metrics = case_metrics(np.array([0.2, 0.9, 0.7]), np.array([0, 1, 1]), threshold=0.8)
        >>> metrics["auroc"], metrics["sensitivity"], metrics["specificity"]
        (1.0, 0.5, 1.0)
    """
    scores, abnormal = np.asarray(scores), np.asarray(abnormal, dtype=bool)
    if math.isnan(threshold):
        raise InputError("The threshold of the cases is NaN; it must be a number. Take Calibration.case_threshold().")
    ranked = case_ranking(scores, abnormal)
    called = scores > threshold
    tp, fp = int(np.sum(called & abnormal)), int(np.sum(called & ~abnormal))
    fn, tn = int(np.sum(~called & abnormal)), int(np.sum(~called & ~abnormal))
    return {
        **ranked,
        "accuracy": _ratio(tp + tn, scores.size),
        "sensitivity": _ratio(tp, tp + fn),
        "specificity": _ratio(tn, tn + fp),
        "precision": _ratio(tp, tp + fp),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "threshold": float(threshold),
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
    }


def _ratio(numerator: int, denominator: int) -> float:
    return numerator / denominator if denominator else float("nan")
