"""What one detector's heatmaps say of a cohort's voxels, all rows of a table on the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medanomaly.data import LoadCased, read_volume
from medanomaly.data.datalist import is_image_label
from medanomaly.data.reading import INSIDE
from medanomaly.errors import InputError
from medanomaly.evaluation.bootstrap import bootstrap_over_cases
from medanomaly.evaluation.calibration import Calibration
from medanomaly.evaluation.case_metrics import case_score
from medanomaly.evaluation.heatmaps import HeatmapSource
from medanomaly.evaluation.normals import normals_in_words
from medanomaly.evaluation.voxel_metrics import in_region, precision_recall_curve, roc_curve, voxel_metrics
from medanomaly.terminal import progress

VOXEL_COLUMNS = ("auroc", "average_precision", "best_dice", "prevalence", "n_voxels")
CURVES = ("roc", "pr", "case_roc", "case_pr")  # keys of a row whose values are for pictures

Label = NDArray[np.bool_] | int  # a mask of lesions (H, W, D) on the scan's grid, or 0 or 1 for the whole image


@dataclass
class Measured:
    """What was found in the heatmaps of a detector.

    Attributes:
        cases: for each case, ``case``, ``abnormal`` and ``case_score``; where its lesions are known, the
            ``VOXEL_COLUMNS`` and how many ``lesion_voxels_outside`` no score covers.
        scores, labels: of the voxels of those cases whose lesions are known; none in a cohort without masks.
    """

    cases: list[dict[str, Any]] = field(default_factory=list)
    scores: list[NDArray[Any]] = field(default_factory=list)
    labels: list[NDArray[np.bool_]] = field(default_factory=list)


def measure_heatmaps(
    name: str,
    source: HeatmapSource,
    cases: Sequence[Mapping[str, Any]],
    labels: Sequence[Label],
    regions: list[tuple[str, NDArray[np.bool_]]],
) -> Measured:
    """Go through the heatmaps of the detector ``name``.

    Args:
        regions: the scored voxels of each case and who scored them: the first detector's, which fills the list.

    Raises:
        InputError: if a heatmap is missing or lies on another grid, or has scores at other voxels than the first's.
    """
    has_masks = any(not isinstance(label, int) for label in labels)
    found = Measured()
    pairs = zip(cases, labels, strict=True)
    for number, (case, label) in enumerate(progress(pairs, f"evaluating {name}", len(cases))):
        heatmap = source(case)
        if not isinstance(label, int) and heatmap.shape != label.shape:
            raise InputError(
                f"the heatmap of {case['case']} has shape {heatmap.shape}, but its scan or label {case['label']} has "
                f"{label.shape}: the heatmap must lie on the grid of the scan; score this very scan again."
            )
        if number == len(regions):
            regions.append((name, np.isfinite(heatmap)))
        _check_same_region(case["case"], name, np.isfinite(heatmap), *regions[number])
        mask = np.zeros(heatmap.shape, bool) if isinstance(label, int) else label
        scores, lesion = in_region(heatmap, mask)
        abnormal = bool(label) if isinstance(label, int) else bool(label.any())
        row = {"case": case["case"], "abnormal": abnormal, "case_score": case_score(scores)}
        if has_masks and (not isinstance(label, int) or label == 0):
            found.scores.append(scores)
            found.labels.append(lesion)
            metrics = voxel_metrics(scores, lesion)
            outside = int(np.count_nonzero(mask)) - int(np.count_nonzero(lesion))
            row |= {key: metrics[key] for key in VOXEL_COLUMNS} | {"lesion_voxels_outside": outside}
        found.cases.append(row)
    return found


def voxel_row(name: str, found: Measured, n_replicates: int, seed: int) -> dict[str, Any]:
    """The row of a detector in a table: its pooled voxel figures, their intervals, the ROC curve and its cases."""
    pooled_scores, pooled_labels = np.concatenate(found.scores), np.concatenate(found.labels)
    pooled = voxel_metrics(pooled_scores, pooled_labels)
    row: dict[str, Any] = {"name": name, "voxels": {key: pooled[key] for key in VOXEL_COLUMNS}, "cases": found.cases}
    row["voxels"]["lesion_voxels_outside"] = sum(case.get("lesion_voxels_outside", 0) for case in found.cases)
    intervals = bootstrap_over_cases(found.scores, found.labels, n_replicates=n_replicates, seed=seed)
    row["intervals"] = named_intervals(intervals)
    if 0 < pooled_labels.sum() < len(pooled_labels):
        row |= curves(pooled_scores, pooled_labels)
    return row


def curves(scores: NDArray[Any], labels: NDArray[Any]) -> dict[str, dict[str, list[float]]]:
    """``roc`` (``fpr``, ``tpr``) and ``pr`` (``precision``, ``recall``) of scores and labels (N,), for pictures."""
    fpr, tpr = roc_curve(scores, labels, n_points=400)
    precision, recall = precision_recall_curve(scores, labels, n_points=200)
    return {
        "roc": {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()},
        "pr": {"precision": precision.round(6).tolist(), "recall": recall.round(6).tolist()},
    }


def voxels_at(found: Measured, threshold: float) -> dict[str, float]:
    """What calling every voxel above ``threshold`` abnormal leads to: Dice, sensitivity, false positive rate."""
    scores, labels = np.concatenate(found.scores), np.concatenate(found.labels)
    called = scores > threshold
    hits, wrong = np.count_nonzero(called & labels), np.count_nonzero(called & ~labels)
    n_lesion = np.count_nonzero(labels)
    return {
        "threshold": threshold,
        "dice": 2 * hits / max(np.count_nonzero(called) + n_lesion, 1),
        "sensitivity": hits / n_lesion if n_lesion else float("nan"),
        "false_positive_rate": wrong / max(labels.size - n_lesion, 1),
    }


def named_intervals(intervals: Mapping[str, tuple[float, float] | None]) -> dict[str, dict[str, float | None]]:
    """(low, high) by name as ``{"low", "high"}``, with None for both where there is no interval."""
    return {key: dict(zip(("low", "high"), pair or (None, None), strict=True)) for key, pair in intervals.items()}


def label_on_scan(case: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The lesions (H, W, D) on the grid of the first image, where the heatmap lies; as in its file if there is none."""
    if case.get("image") is None:
        return np.asarray(read_volume(case["label"]).as_tensor()) >= INSIDE
    image = case["image"][0] if isinstance(case["image"], list | tuple) else case["image"]
    return np.asarray(LoadCased()({"image": image, "label": case["label"]})["label"][0].as_tensor()) > 0


def calibration_of(source: HeatmapSource, normals: Sequence[Mapping[str, Any]], held_out: bool = True) -> Calibration:
    """Of the scores of normal cases on the grid of their scans: all voxels of the region that are free of lesion.

    Args:
        source: of the heatmaps.
        normals: cases; lesions of those that have a mask as ``label`` are left out.
        held_out: whether the detector has never seen them.
    """
    scores = []
    for case in normals:
        heatmap = source(case)
        normal = np.isfinite(heatmap)
        has_mask = case.get("label") is not None and not is_image_label(case["label"])
        scores.append(heatmap[normal & ~label_on_scan(case) if has_mask else normal])
    return Calibration.fit(scores, normals_in_words(len(normals), held_out), held_out=held_out)


def _check_same_region(
    case: str, name: str, region: NDArray[np.bool_], first: str, first_region: NDArray[np.bool_]
) -> None:
    """Raise InputError if two detectors have scores at different voxels: figures would not be comparable."""
    if region.shape != first_region.shape:
        raise InputError(
            f"the heatmaps of {case} differ in shape: {first_region.shape} of {first}, {region.shape} of {name}. Both "
            "must lie on the grid of the scan: score this very scan again."
        )
    differ = np.count_nonzero(region != first_region)
    if differ:
        raise InputError(
            f"the regions of {case} differ: {first} has scores at {np.count_nonzero(first_region)} voxels, {name} "
            f"at {np.count_nonzero(region)}, and {differ} voxels are scored by one of them alone. All rows of a table "
            "are measured on one region: score the case again with the mask that the datalist names, or name that mask "
            "there."
        )
