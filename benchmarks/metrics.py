"""(d) Voxel metrics on 10^7 voxels, against scikit-learn and MONAI's ROCAUCMetric."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import ROCAUCMetric
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks.tables import Section, Table, at_most, number
from benchmarks.timing import Run, interleaved, medians, say
from medanomaly.evaluation.voxel_metrics import voxel_metrics

OURS, SKLEARN, MONAI = (
    "voxel_metrics (AUROC, AP, best Dice and its threshold)",
    "scikit-learn, roc_auc_score + average_precision_score",
    "MONAI, ROCAUCMetric (AUROC alone)",
)


def made_scores(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Scores (float32, half of them with many ties) and labels (1 % lesion, which scores higher)."""
    generator = np.random.default_rng(seed)
    labels = generator.random(n) < 0.01
    scores = (generator.standard_normal(n, dtype=np.float32) + 1.5 * labels).astype(np.float32)
    scores[::2] = np.round(scores[::2], 2)
    return scores, labels


def run(settings: Run) -> Section:
    """Time the metrics, and compare their values."""
    n, few = (10**6, 10**4) if settings.quick else (10**7, 10**5)
    scores, labels = made_scores(n)
    some_scores, some_labels = made_scores(few)
    found: dict[str, tuple[float, ...]] = {}

    def ours() -> None:
        metrics = voxel_metrics(scores, labels)
        found[OURS] = metrics["auroc"], metrics["average_precision"]

    def sklearn() -> None:
        found[SKLEARN] = float(roc_auc_score(labels, scores)), float(average_precision_score(labels, scores))

    def monai() -> None:
        metric = ROCAUCMetric()
        metric(torch.from_numpy(some_scores), torch.from_numpy(some_labels.astype(np.uint8)))
        found[MONAI] = (float(metric.aggregate()),)

    say(f"[d] metrics of {n:.0e} voxels ({few:.0e} for ROCAUCMetric)")
    seconds = interleaved({OURS: ours, SKLEARN: sklearn, MONAI: monai}, settings.rounds(5), warm_up=False)
    times = medians(seconds)
    difference = max(abs(a - b) for a, b in zip(found[OURS], found[SKLEARN], strict=True))
    difference = max(difference, abs(found[MONAI][0] - float(roc_auc_score(some_labels, some_scores))))
    voxels = {OURS: n, SKLEARN: n, MONAI: few}
    rows = [(way, f"{voxels[way]:,}", number(value), number(1e9 * value / voxels[way])) for way, value in times.items()]
    return Section(
        tables=[
            Table(
                "(d) Voxel metrics",
                ("way", "voxels", "s", "ns a voxel"),
                rows,
                f"float32 scores, half of them rounded to two digits (ties), 1 % lesion. "
                f"All agree to {difference:.1e}. ROCAUCMetric is a Python loop, so it is shown fewer voxels.",
            )
        ],
        gates=[
            at_most(
                f"AUROC + AP of {n:,} voxels, time as a share of scikit-learn's", 1.0, times[OURS] / times[SKLEARN], "%"
            ),
            at_most(f"AUROC + AP of {n:,} voxels, difference to scikit-learn", 1e-6, difference, ""),
        ],
        raw={"seconds": seconds, "values": found},
    )
