"""How well a heatmap separates lesion voxels from the rest of the region, the brain of a head or all of a film.

Everything here is measured inside the region: background is trivially normal, and counting it inflates every figure.
A higher score is more abnormal, and a voxel is called abnormal when its score is greater than the threshold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.metric import CumulativeIterationMetric
from monai.utils.dist import evenly_divisible_all_gather

from medanomaly.errors import InputError

Scores = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.bool_]

METRICS = ("auroc", "average_precision", "best_dice", "best_dice_threshold", "prevalence", "n_voxels")


def in_region(heatmap: npt.NDArray[Any], label: npt.NDArray[Any]) -> tuple[Scores, Labels]:
    """Scores and labels of the voxels inside the region, which are the finite voxels of a raw heatmap.

    Args:
        heatmap: anomaly scores of any shape, NaN outside the region.
        label: lesion mask of the same shape; above 0 is lesion.

    Returns:
        Scores (N,) and labels (N,), in the order of the voxels.

    Raises:
        InputError: when the shapes differ, or no voxel of the heatmap is finite.

    Examples:
        >>> in_region(np.array([[np.nan, 0.2], [0.9, np.nan]]), np.array([[0, 0], [1, 1]]))
        (array([0.2, 0.9]), array([False,  True]))
    """
    if heatmap.shape != label.shape:
        raise InputError(
            f"The heatmap has shape {heatmap.shape} and the label {label.shape}; they must be equal. "
            "Bring both to the same grid and give them the same number of dimensions."
        )
    region = np.isfinite(heatmap)
    if not region.any():
        raise InputError(
            f"None of the {heatmap.size} voxels of the heatmap is finite; at least one must lie in the region. "
            "Check the mask that the case was scored with."
        )
    return check_scores(heatmap[region], label[region] > 0)


def check_scores(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> tuple[Scores, Labels]:
    """Give back scores (N,) as floats and labels (N,) as bools, or raise InputError for what no metric can use."""
    if scores.ndim != 1 or scores.shape != labels.shape or scores.size == 0:
        raise InputError(
            f"Scores have shape {scores.shape} and labels {labels.shape}; both must be (N,) with the same N > 0. "
            "Take them from in_region(heatmap, label)."
        )
    if not np.isfinite(scores).all():
        raise InputError(
            f"{np.count_nonzero(~np.isfinite(scores))} of {scores.size} scores are NaN or infinite; all must be "
            "finite. Leave out the voxels outside the region with in_region(heatmap, label)."
        )
    if not np.issubdtype(scores.dtype, np.floating):
        scores = scores.astype(np.float64)
    return scores, labels.astype(bool)


class _Counts(NamedTuple):
    """What is called abnormal at each distinct score of a positive voxel, the highest score first."""

    score: Scores
    tp: npt.NDArray[np.int64]  # positives at or above the score
    fp: npt.NDArray[np.int64]  # negatives at or above it
    fp_above: npt.NDArray[np.int64]  # negatives strictly above it
    positives: int
    negatives: int


def _count(scores: Scores, labels: Labels) -> _Counts:
    """Count from one sort of each class, which every metric then shares.

    Sorting the values of each class is far faster than one sort that carries the labels along. The scores of the
    positives are all the thresholds that matter: between two of them a lower one only adds false positives.
    """
    positives, negatives = np.sort(scores[labels]), np.sort(scores[~labels])
    first = np.flatnonzero(np.diff(positives, prepend=np.nan) != 0)[::-1]  # start of each run of ties
    score = positives[first]
    return _Counts(
        score=score,
        tp=positives.size - first,
        fp=negatives.size - np.searchsorted(negatives, score, side="left"),
        fp_above=negatives.size - np.searchsorted(negatives, score, side="right"),
        positives=positives.size,
        negatives=negatives.size,
    )


def voxel_metrics(scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> dict[str, float]:
    """Ranking metrics of pooled voxels, exact, with tied scores taken as one threshold.

    Args:
        scores: (N,) finite scores, higher is more abnormal.
        labels: (N,) true for lesion.

    Returns:
        ``auroc`` and ``average_precision`` in 0..1, as scikit-learn defines them (step-wise precision, no trapezoids);
        ``best_dice``, the maximum of Dice over all thresholds on these very data, an *oracle* and an upper bound;
        ``best_dice_threshold``, for which ``dice_at`` gives that maximum; ``prevalence`` of lesion and ``n_voxels``.
        ``auroc`` is nan when one class is missing, and all but the last two are nan without any lesion voxel.

    Raises:
        InputError: when the shapes differ, nothing is given, or a score is NaN or infinite.

    Best Dice follows Meissen et al. 2021 (arXiv 2109.06023), over every threshold instead of 100.

    Examples:
        >>> metrics = voxel_metrics(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> metrics["auroc"], round(metrics["average_precision"], 3), metrics["best_dice"]
        (0.75, 0.833, 0.8)
    """
    scores, labels = check_scores(scores, labels)
    counts = _count(scores, labels)
    positives, negatives = counts.positives, counts.negatives
    metrics = dict.fromkeys(METRICS, float("nan"))
    metrics.update(prevalence=positives / scores.size, n_voxels=scores.size)
    if positives == 0:
        return metrics

    tied = -np.diff(-counts.tp, prepend=0)  # positives that share each score
    if negatives > 0:
        # a positive wins against each negative below it, and half against each tied one
        twice_wins = np.sum(tied * (2 * negatives - counts.fp - counts.fp_above))
        metrics["auroc"] = float(twice_wins) / (2.0 * positives * negatives)
    metrics["average_precision"] = float(np.sum(tied * (counts.tp / (counts.tp + counts.fp))) / positives)
    dice = 2 * counts.tp / (positives + counts.tp + counts.fp)
    best = int(np.argmax(dice))
    lower = scores[scores < counts.score[best]]
    threshold = lower.max() if lower.size else np.nextafter(counts.score[best], scores.dtype.type(-np.inf))
    metrics.update(best_dice=float(dice[best]), best_dice_threshold=float(threshold))
    return metrics


def dice_at(scores: npt.NDArray[Any], labels: npt.NDArray[Any], threshold: float) -> float:
    """Dice of the voxels whose score is greater than (not equal to) the threshold, in 0..1.

    Scores (N,) and labels (N,) are those of `voxel_metrics`, and so are the errors raised. Nan without lesion voxels.

    Examples:
        >>> dice_at(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]), threshold=0.3)
        0.8
    """
    scores, labels = check_scores(scores, labels)
    called = scores > threshold
    positives = int(np.count_nonzero(labels))
    if positives == 0:
        return float("nan")
    return 2 * int(np.count_nonzero(called & labels)) / (positives + int(np.count_nonzero(called)))


def roc_curve(scores: npt.NDArray[Any], labels: npt.NDArray[Any], n_points: int = 1000) -> tuple[Scores, Scores]:
    """False and true positive rates from (0, 0) to (1, 1), for plots and result files.

    Args:
        scores: (N,) finite scores.
        labels: (N,) true for lesion.
        n_points: the most points to give back. A curve with more corners is sampled evenly along its length, so that
            the steep start of a good detector keeps its points; every sample lies on the exact curve.

    Returns:
        Two float64 arrays of equal length <= n_points, neither ever falling.

    Raises:
        InputError: as `voxel_metrics`, and when n_points < 2 or a class is missing.

    Examples:
        >>> fpr, tpr = roc_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
        >>> fpr.tolist(), tpr.tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    scores, labels = check_scores(scores, labels)
    counts = _count(scores, labels)
    if n_points < 2 or counts.positives == 0 or counts.negatives == 0:
        raise InputError(
            f"A ROC curve of {n_points} points was asked of {counts.positives} lesion and {counts.negatives} other "
            "voxels; it needs 2 points and one voxel of each class. Pool cases that have lesions."
        )
    # between two scores of positives the curve runs flat to the negatives above the next, then rises (aslant in a tie)
    fp = np.column_stack((counts.fp_above, counts.fp)).ravel()
    tp = np.column_stack((np.append(0, counts.tp[:-1]), counts.tp)).ravel()
    fpr = np.concatenate(([0], fp, [counts.negatives])) / counts.negatives
    tpr = np.concatenate(([0], tp, [counts.positives])) / counts.positives
    corner = np.append(True, (np.diff(fpr) > 0) | (np.diff(tpr) > 0))
    fpr, tpr = fpr[corner], tpr[corner]
    return thinned(fpr, tpr, n_points)


def precision_recall_curve(
    scores: npt.NDArray[Any], labels: npt.NDArray[Any], n_points: int = 1000
) -> tuple[Scores, Scores]:
    """Precision and recall from the strictest threshold on, for plots and result files.

    Args:
        scores: (N,) finite scores.
        labels: (N,) true for lesion.
        n_points: about the most points to give back. A curve with more is sampled evenly over recall; every sample is a
            point of the exact curve, whose thresholds are the scores of lesion voxels.

    Returns:
        Two float64 arrays of equal length; recall rises to 1.

    Raises:
        InputError: as `voxel_metrics`, and when n_points < 2 or there is no lesion voxel.

    Examples:
        >>> precision, recall = precision_recall_curve(np.array([0.1, 0.4, 0.3, 0.8]), np.array([0, 0, 1, 1]))
        >>> precision.round(3).tolist(), recall.tolist()
        ([1.0, 0.667], [0.5, 1.0])
    """
    scores, labels = check_scores(scores, labels)
    counts = _count(scores, labels)
    if n_points < 2 or counts.positives == 0:
        raise InputError(
            f"A precision-recall curve of {n_points} points was asked of {counts.positives} lesion voxels; it needs 2 "
            "points and 1 voxel. Pool cases that have lesions."
        )
    precision, recall = counts.tp / (counts.tp + counts.fp), counts.tp / counts.positives
    if recall.size > n_points:
        chosen = np.unique(np.searchsorted(recall, np.linspace(recall[0], 1, n_points)))
        precision, recall = precision[chosen], recall[chosen]
    return precision, recall


def thinned(fpr: Scores, tpr: Scores, n_points: int) -> tuple[Scores, Scores]:
    """A curve of at most ``n_points``: one with more is sampled evenly along its length, its ends included."""
    if fpr.size <= n_points:
        return fpr, tpr
    length, at = fpr + tpr, np.linspace(0, 2, n_points)
    return np.interp(at, length, fpr), np.interp(at, length, tpr)


class InRegionVoxelMetric(CumulativeIterationMetric):
    """One figure of `voxel_metrics` over the voxels in the regions of all batches, pooled.

    Call it with heatmaps (B, 1, H, W, D) that are NaN outside the region and labels of the same shape, or with lists of
    (1, H, W, D), whose shapes may differ from case to case. In ``monai.handlers.IgniteMetricHandler`` set
    ``save_details=False``, which would keep a second copy of all voxels.

    Args:
        metric: a key of `voxel_metrics`.

    Raises:
        InputError: for an unknown metric, and whatever `in_region` and `voxel_metrics` raise.
    """

    def __init__(self, metric: str = "auroc") -> None:
        super().__init__()
        if metric not in METRICS:
            raise InputError(f"There is no voxel metric {metric!r}. Choose one of {', '.join(METRICS)}.")
        self.metric = metric

    def _compute_tensor(self, y_pred: torch.Tensor, y: torch.Tensor | None = None, **kwargs: Any) -> list[torch.Tensor]:
        if y is None:
            raise InputError("Heatmaps came without labels; voxel metrics need both. Pass y as well.")
        heatmap = y_pred.to("cpu", torch.promote_types(y_pred.dtype, torch.float32))  # NumPy has no bfloat16
        scores, labels = in_region(heatmap.numpy(), y.cpu().numpy())
        return [torch.from_numpy(scores), torch.from_numpy(labels.astype(np.uint8))]

    def extend(self, *data: Any) -> None:
        """Keep a batch as one piece: MONAI would make a tensor of every voxel."""
        self.append(*data)

    def _sync(self) -> None:
        """Join the pieces, which MONAI would stack, although they differ in length, and gather those of all ranks."""
        if not self._synced and self._buffers is not None:
            self._synced_tensors = [evenly_divisible_all_gather(torch.cat(b), concat=True) for b in self._buffers]
            self._synced = True

    def aggregate(self) -> float:
        """The metric over all voxels since the last reset; InputError before the first batch."""
        buffers = self.get_buffer()  # type: ignore[no-untyped-call]
        if buffers is None:
            raise InputError("No batch was given yet, so there is nothing to aggregate. Call the metric first.")
        scores, labels = buffers
        return voxel_metrics(scores.cpu().numpy(), labels.cpu().numpy())[self.metric]
