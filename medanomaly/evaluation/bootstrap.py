"""How far a pooled voxel metric would move with another draw of cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from medanomaly.errors import InputError
from medanomaly.evaluation.voxel_metrics import Labels, Scores, check_scores

Floats = npt.NDArray[np.float64]

_CHUNK = 50  # replicates at once, to bound the memory


def bootstrap_over_cases(
    scores: Sequence[npt.NDArray[Any]],
    labels: Sequence[npt.NDArray[Any]],
    n_replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    n_bins: int = 10_000,
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of the pooled voxel metrics, from drawing whole cases with replacement.

    The case is the unit, because the voxels of a case are not independent. Take the point value from `voxel_metrics`,
    which is exact. Here every score is binned once, at quantiles of the lesion voxels' and of the other voxels' scores
    (half of the bins each, so that rare lesions are resolved as well), and a replicate is a sum of the histograms of
    its cases. Scores within a bin count as tied. This moves the pooled AUROC by at most about 2 / n_bins. Average
    precision and best Dice stay exact up to n_bins / 2 lesion voxels; beyond, each bin holds about 2 / n_bins of them,
    and both move by about as little.

    Args:
        scores: for each case the voxel scores in its region (N_i,), finite.
        labels: for each case (N_i,), true for lesion.
        n_replicates: draws, at least 1.
        seed: of the draws.
        confidence: of the interval, in (0, 1).
        n_bins: the most bins, at least 4.

    Returns:
        (low, high) for ``auroc``, ``average_precision`` and ``best_dice``; None for each with fewer than 2 cases.
        Draws in which a metric is undefined, for want of a class, are left out; (nan, nan) when all are.

    Raises:
        InputError: when the numbers of cases differ, or as `voxel_metrics` for a case, or for a setting out of range.

    Examples:
        >>> labels = np.array([0, 0, 0, 1])
        >>> cases = [np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.1, 0.2, 0.3, 0.0])]  # found, and missed
        >>> bootstrap_over_cases(cases, [labels, labels])["auroc"]
        (0.0, 1.0)
    """
    if len(scores) != len(labels):
        raise InputError(f"{len(scores)} cases have scores and {len(labels)} labels. Give one array of each a case.")
    if n_replicates < 1 or not 0 < confidence < 1 or n_bins < 4:
        raise InputError(
            f"n_replicates={n_replicates}, confidence={confidence}, n_bins={n_bins}: these must be at least 1, between "
            "0 and 1, and at least 4. The defaults are 1000, 0.95 and 10000."
        )
    cases = [check_scores(*case) for case in zip(scores, labels, strict=True)]
    if len(cases) < 2:
        return dict.fromkeys(("auroc", "average_precision", "best_dice"))
    positives, negatives = _histograms(cases, n_bins)
    draws = draw_cases(len(cases), n_replicates, seed)
    times = np.stack([np.bincount(draw, minlength=len(cases)) for draw in draws]).astype(np.float64)
    parts = np.split(times, range(_CHUNK, len(times), _CHUNK))
    chunks = [_binned_metrics(part @ positives, part @ negatives) for part in parts]
    tail = (1 - confidence) / 2
    return {name: _interval(np.concatenate([chunk[name] for chunk in chunks]), tail) for name in chunks[0]}


def bootstrap_of_cases(
    scores: npt.NDArray[Any],
    abnormal: npt.NDArray[Any],
    threshold: float | None = None,
    n_replicates: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, tuple[float, float] | None]:
    """Percentile intervals of the figures of whole cases, from drawing cases with replacement, as above.

    Args:
        scores: (n_cases,) finite case scores.
        abnormal: (n_cases,) true for an abnormal case.
        threshold: fixed beforehand; None leaves out what needs one.
        n_replicates, seed, confidence: see :func:`bootstrap_over_cases`.

    Returns:
        (low, high) for each ratio of :func:`~medanomaly.evaluation.case_metrics.case_metrics`; None with fewer than 2
        cases. Draws in which one is undefined are left out of its interval.
    """
    abnormal = np.asarray(abnormal, dtype=bool)
    found = bootstrap_over_cases(list(scores[:, None]), list(abnormal[:, None]), n_replicates, seed, confidence)
    intervals = {key: found[key] for key in ("auroc", "average_precision")}
    if threshold is None:
        return intervals
    called = scores > threshold
    draws = draw_cases(len(scores), n_replicates, seed)
    tp, fp, fn, tn = (
        outcome[draws].sum(axis=1)
        for outcome in (called & abnormal, called & ~abnormal, ~called & abnormal, ~called & ~abnormal)
    )
    ratios = {
        "accuracy": (tp + tn, len(scores) + 0 * tp),
        "sensitivity": (tp, tp + fn),
        "specificity": (tn, tn + fp),
        "precision": (tp, tp + fp),
        "f1": (2 * tp, 2 * tp + fp + fn),
    }
    for key, (part, whole) in ratios.items():
        defined = part[whole > 0] / whole[whole > 0]
        intervals[key] = None if len(scores) < 2 else _interval(defined, (1 - confidence) / 2)
    return intervals


def draw_cases(n_cases: int, n_replicates: int, seed: int) -> npt.NDArray[np.int64]:
    """The cases (n_replicates, n_cases) of each replicate, drawn with replacement."""
    return np.random.default_rng(seed).integers(n_cases, size=(n_replicates, n_cases))


def _histograms(cases: Sequence[tuple[Scores, Labels]], n_bins: int) -> tuple[Floats, Floats]:
    """Counts (n_cases, bins) of lesion and of other voxels, in ascending bins of score."""
    classes = [[np.sort(scores[labels == lesion]) for scores, labels in cases] for lesion in (True, False)]
    edges = np.unique(np.concatenate([_quantiles(np.concatenate(ordered), n_bins // 2) for ordered in classes]))
    # voxels below each edge, and all of them last: the edges start at the lowest score
    below = [[np.append(np.searchsorted(case, edges), case.size) for case in ordered] for ordered in classes]
    positives, negatives = (np.diff(np.array(counts, dtype=np.float64)) for counts in below)
    return positives, negatives


def _quantiles(scores: Scores, n: int) -> Scores:
    """At most n values of the scores, at even ranks from the lowest to the highest."""
    ordered = np.sort(scores)
    if ordered.size > n:
        return ordered[np.linspace(0, ordered.size - 1, n).astype(np.int64)]
    return ordered


def _binned_metrics(positives: Floats, negatives: Floats) -> dict[str, Floats]:
    """Metrics (replicates,) of histograms (replicates, bins), each bin one threshold; nan where undefined."""
    positives, negatives = positives[:, ::-1], negatives[:, ::-1]
    tp, fp = positives.cumsum(axis=1), negatives.cumsum(axis=1)
    n_positives, n_negatives = tp[:, -1:], fp[:, -1:]
    wins = (positives * (n_negatives - fp + negatives / 2)).sum(axis=1)
    precision = tp / np.maximum(tp + fp, 1)
    dice = 2 * tp / np.maximum(n_positives + tp + fp, 1)
    with np.errstate(invalid="ignore"):  # 0 / 0 is nan: a draw without a class
        return {
            "auroc": wins / (n_positives * n_negatives)[:, 0],
            # without normals any order has a precision of 1, which tells nothing
            "average_precision": np.where(
                n_negatives[:, 0] > 0, (positives * precision).sum(axis=1) / n_positives[:, 0], np.nan
            ),
            "best_dice": np.where(n_positives[:, 0] > 0, dice.max(axis=1), np.nan),
        }


def _interval(replicates: Floats, tail: float) -> tuple[float, float]:
    defined = replicates[~np.isnan(replicates)]
    if defined.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)
