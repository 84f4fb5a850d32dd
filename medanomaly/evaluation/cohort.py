"""A whole cohort: every detector's heatmaps against the labels, voxel by voxel and case by case."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

import medanomaly
from medanomaly.data import LoadCased, read_volume, require_cases, written_whole
from medanomaly.errors import InputError
from medanomaly.evaluation.bootstrap import bootstrap_over_cases
from medanomaly.evaluation.calibration import Calibration
from medanomaly.evaluation.case_metrics import case_metrics, case_score
from medanomaly.evaluation.heatmaps import HeatmapSource
from medanomaly.evaluation.normals import normals_in_words
from medanomaly.evaluation.voxel_metrics import in_brain, roc_curve, voxel_metrics

VOXEL_COLUMNS = ("auroc", "average_precision", "best_dice", "prevalence", "n_voxels")


def evaluate_cohort(
    cases: Sequence[Mapping[str, Any]],
    detectors: Mapping[str, HeatmapSource],
    output_dir: str | Path,
    normals: Sequence[Mapping[str, Any]] = (),
    calibrations: Mapping[str, Calibration] | None = None,
    n_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluate detectors on labelled cases; writes ``metrics.json``, ``detectors.csv`` and ``cases.csv``.

    Voxel metrics count the brain only, pooled over all cases and for each case with lesions. A case is abnormal when
    its label has a voxel; its score is that of :func:`case_score`, and the threshold is the 95th percentile of normal
    cases, never of the cases that are evaluated.

    Args:
        cases: with ``case`` and ``label`` (a path; an empty mask for a healthy case), and ``image`` if the label may
            lie on another grid than the scan.
        detectors: name to source of heatmaps, in the order of the table: the trivial baselines first.
        output_dir: where to write.
        normals: normal cases for the thresholds of detectors that have no calibration.
        calibrations: name to calibration, for detectors that have one.
        n_replicates, seed: of the bootstrap over cases.

    Returns:
        What ``metrics.json`` holds: ``{"detectors": [{"name", "voxels", "intervals", "roc", "cases", "case_level"},
        ...], "n_cases", "bootstrap", "date", "version"}``.

    Raises:
        InputError: if there is no case, a case has no label, or a heatmap is missing or lies on another grid.
    """
    require_cases(cases)
    unlabelled = [case["case"] for case in cases if case.get("label") is None]
    if unlabelled:
        raise InputError(
            f"the case(s) {', '.join(unlabelled)} have no 'label': name a lesion mask, or a mask of zeros for a "
            "healthy subject."
        )
    labels = [_label_on_scan(case) for case in cases]
    rows = [
        _evaluate_detector(name, source, cases, labels, normals, (calibrations or {}).get(name), n_replicates, seed)
        for name, source in detectors.items()
    ]
    result = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": medanomaly.__version__,
        "n_cases": len(cases),
        "bootstrap": {"unit": "case", "replicates": n_replicates, "seed": seed, "confidence": 0.95},
        "detectors": rows,
    }
    _write(result, Path(output_dir))
    return result


def _evaluate_detector(
    name: str,
    source: HeatmapSource,
    cases: Sequence[Mapping[str, Any]],
    labels_on_scan: Sequence[NDArray[np.bool_]],
    normals: Sequence[Mapping[str, Any]],
    calibration: Calibration | None,
    n_replicates: int,
    seed: int,
) -> dict[str, Any]:
    scores, labels, per_case = [], [], []
    pairs = zip(cases, labels_on_scan, strict=True)
    for case, label in tqdm(pairs, desc=f"evaluating {name}", total=len(cases), leave=False):
        heatmap = source(case)
        if heatmap.shape != label.shape:
            raise InputError(
                f"the heatmap of {case['case']} has shape {heatmap.shape}, but its scan or label {case['label']} has "
                f"{label.shape}: the heatmap must lie on the grid of the scan; score this very scan again."
            )
        s, lesion = in_brain(heatmap, label)
        scores.append(s)
        labels.append(lesion)
        metrics = voxel_metrics(s, lesion)
        per_case.append(
            {"case": case["case"], "abnormal": bool(lesion.any()), "case_score": case_score(s)}
            | {key: metrics[key] for key in VOXEL_COLUMNS}
        )
    pooled_scores, pooled_labels = np.concatenate(scores), np.concatenate(labels)
    pooled = voxel_metrics(pooled_scores, pooled_labels)
    row: dict[str, Any] = {"name": name, "voxels": {key: pooled[key] for key in VOXEL_COLUMNS}, "cases": per_case}
    intervals = bootstrap_over_cases(scores, labels, n_replicates=n_replicates, seed=seed)
    row["intervals"] = {
        key: dict(zip(("low", "high"), pair or (None, None), strict=True)) for key, pair in intervals.items()
    }
    if 0 < pooled_labels.sum() < len(pooled_labels):
        fpr, tpr = roc_curve(pooled_scores, pooled_labels, n_points=400)
        row["roc"] = {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()}
    if calibration is None and normals:
        maps = (source(case) for case in normals)
        calibration = Calibration.fit([m[np.isfinite(m)] for m in maps], normals_in_words(len(normals)))
    if calibration is not None:
        abnormal = np.array([case["abnormal"] for case in per_case])
        case_scores = np.array([case["case_score"] for case in per_case])
        row["case_level"] = case_metrics(case_scores, abnormal, calibration.case_threshold())
        row["case_level"]["threshold_from"] = f"95th percentile of {calibration.source}"
    return row


def _label_on_scan(case: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The lesions (H, W, D) on the grid of the first image, where the heatmap lies; as in its file if there is none."""
    if case.get("image") is None:
        return np.asarray(read_volume(case["label"]).as_tensor()) > 0
    image = case["image"][0] if isinstance(case["image"], list | tuple) else case["image"]
    return np.asarray(LoadCased()({"image": image, "label": case["label"]})["label"][0].as_tensor()) > 0


def _write(result: dict[str, Any], output_dir: Path) -> None:
    """JSON and two tables; each file appears only when it is complete."""
    detectors = pd.json_normalize(
        [{k: v for k, v in r.items() if k not in ("cases", "roc")} for r in result["detectors"]]
    )
    cases = pd.concat([pd.DataFrame(row["cases"]).assign(detector=row["name"]) for row in result["detectors"]])
    texts = {
        "metrics.json": json.dumps(_without_nan(result), indent=1),
        "detectors.csv": detectors.to_csv(index=False),
        "cases.csv": cases[["detector", *cases.columns.drop("detector")]].to_csv(index=False),
    }
    for name, text in texts.items():
        with written_whole(output_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
