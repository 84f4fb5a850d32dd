"""What the white-matter experiment measures on a heatmap: its figures, and where it is high."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.evaluation import bootstrap_over_cases, dice_at, roc_curve, voxel_metrics
from medanomaly.experiments.open_ms import Patient

SPACING = (1.0, 1.0, 1.0)  # mm, the MNI grid of the scans
REPLICATES = 200


def measure(heatmap: NDArray[np.float32], patient: Patient, threshold: float) -> dict[str, Any]:
    """Figures of a heatmap (H, W, D) in the brain: ranking, the oracle's best Dice, and what ``threshold`` gives.

    ``best_dice_oracle`` is the maximum over thresholds on these very lesions; ``dice``, ``sensitivity`` and
    ``false_positive_rate`` are those of scores above ``threshold``, which comes from normal tissue. The intervals
    (95 %) are a bootstrap over axial slices, as there is one patient: neighbouring slices are alike, so they are too
    narrow, and they say nothing of other patients.
    """
    scores, labels = heatmap[patient.brain], patient.lesions[patient.brain]
    ranking = voxel_metrics(scores, labels)
    slices = [z for z in range(heatmap.shape[2]) if patient.brain[..., z].any()]
    by_slice = [[volume[..., z][patient.brain[..., z]] for z in slices] for volume in (heatmap, patient.lesions)]
    intervals = bootstrap_over_cases(by_slice[0], by_slice[1], REPLICATES)
    fpr, tpr = roc_curve(scores, labels, n_points=200)
    called = scores > threshold
    return {
        **{key: ranking[key] for key in ("auroc", "average_precision", "prevalence", "n_voxels")},
        "best_dice_oracle": ranking["best_dice"],
        "intervals": {key: intervals[key] for key in ("auroc", "average_precision")},
        "roc": {"fpr": fpr.round(5).tolist(), "tpr": tpr.round(5).tolist()},
        "threshold": threshold,
        "dice": dice_at(scores, labels, threshold),
        "sensitivity": float(called[labels].mean()),
        "false_positive_rate": float(called[~labels].mean()),
    }


def by_region(heatmap: NDArray[np.float32], patient: Patient) -> dict[str, Any]:
    """Where a heatmap (H, W, D) is high: mean score of a region, and AUROC of the lesions against that region alone.

    Normal regions hold no lesion: within 3 mm of the brain's edge; dark (FLAIR in its lowest tenth: fluid); white
    matter (T1 in its highest third, and neither of the others). ``auroc_without_edge`` leaves out the outer 5 mm.
    """
    brain, lesions = patient.brain, patient.lesions
    flair, t1 = patient.channels[:2].numpy()
    depth = ndimage.distance_transform_edt(brain, SPACING)
    edge = brain & (depth <= 3)
    dark = brain & (flair < np.percentile(flair[brain], 10))
    white = brain & (t1 > np.percentile(t1[brain], 200 / 3)) & ~edge & ~dark
    regions = {"normal": brain, "normal white matter": white, "edge": edge, "dark": dark}
    normal = {name: heatmap[region & ~lesions] for name, region in regions.items()}
    inner = brain & (depth > 5)
    return {
        "mean_score": {
            "lesion": float(heatmap[lesions].mean()),
            **{name: float(scores.mean()) for name, scores in normal.items()},
        },
        "auroc_against": {name: _auroc(heatmap[lesions], scores) for name, scores in normal.items()},
        "auroc_without_edge": _auroc(heatmap[inner & lesions], heatmap[inner & ~lesions]),
    }


def _auroc(lesion: NDArray[Any], other: NDArray[Any]) -> float:
    return voxel_metrics(np.concatenate([lesion, other]), np.repeat([True, False], [lesion.size, other.size]))["auroc"]
