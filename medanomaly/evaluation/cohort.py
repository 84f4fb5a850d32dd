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
from medanomaly.data.reading import INSIDE
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
    its label has a voxel, in the brain mask or outside; its score is that of :func:`case_score`, and the threshold
    comes from normal cases, never from the cases that are evaluated. All rows are measured on the same voxels; those
    of lesions outside the mask are counted, and warned of.

    Args:
        cases: with ``case`` and ``label`` (a path; an empty mask for a healthy case), and ``image`` if the label may
            lie on another grid than the scan.
        detectors: name to source of heatmaps, in the order of the table: the trivial baselines first.
        output_dir: where to write.
        normals: normal cases for the thresholds of detectors that have no calibration; lesions of those that have a
            ``label`` are left out.
        calibrations: name to calibration, for detectors that have one. Case-level figures are given for all
            detectors, or for none if one has neither.
        n_replicates, seed: of the bootstrap over cases.

    Returns:
        What ``metrics.json`` holds: ``{"detectors": [{"name", "voxels", "intervals", "roc", "cases", "case_level"},
        ...], "n_cases", "bootstrap", "date", "version"}``.

    Raises:
        InputError: if there is no case, a case has no label, a heatmap is missing or lies on another grid, or two
            detectors have scores at different voxels of a case.
    """
    require_cases(cases)
    unlabelled = [case["case"] for case in cases if case.get("label") is None]
    if unlabelled:
        raise InputError(
            f"the case(s) {', '.join(unlabelled)} have no 'label': name a lesion mask, or a mask of zeros for a "
            "healthy subject."
        )
    labels = [_label_on_scan(case) for case in cases]
    brains: list[tuple[str, NDArray[np.bool_]]] = []
    rows = [
        _measure_voxels(name, source, cases, labels, brains, n_replicates, seed) for name, source in detectors.items()
    ]
    warnings = _outside_in_words(rows[0]["cases"])
    fitted = {name: _normals_of(name, source, calibrations or {}, normals) for name, source in detectors.items()}
    without = [name for name, calibration in fitted.items() if calibration is None]
    if without and len(without) < len(rows):
        warnings.append(
            f"there are no thresholds from normals for {', '.join(without)}, so no row has case-level figures: train "
            "the model again, or give normal cases."
        )
    if not without:
        for row in rows:
            row["case_level"] = _measure_cases(row["cases"], fitted[row["name"]])
    result = {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "version": medanomaly.__version__,
        "n_cases": len(cases),
        "bootstrap": {"unit": "case", "replicates": n_replicates, "seed": seed, "confidence": 0.95},
        "warnings": warnings,
        "detectors": rows,
    }
    _write(result, Path(output_dir))
    return result


def _measure_voxels(
    name: str,
    source: HeatmapSource,
    cases: Sequence[Mapping[str, Any]],
    labels_on_scan: Sequence[NDArray[np.bool_]],
    brains: list[tuple[str, NDArray[np.bool_]]],
    n_replicates: int,
    seed: int,
) -> dict[str, Any]:
    """The row of a detector; ``brains`` are the scored voxels of each case and who scored them: the first row's."""
    scores, labels, per_case = [], [], []
    pairs = zip(cases, labels_on_scan, strict=True)
    for number, (case, label) in enumerate(tqdm(pairs, desc=f"evaluating {name}", total=len(cases), leave=False)):
        heatmap = source(case)
        if heatmap.shape != label.shape:
            raise InputError(
                f"the heatmap of {case['case']} has shape {heatmap.shape}, but its scan or label {case['label']} has "
                f"{label.shape}: the heatmap must lie on the grid of the scan; score this very scan again."
            )
        if number == len(brains):
            brains.append((name, np.isfinite(heatmap)))
        _check_same_brain(case["case"], name, np.isfinite(heatmap), *brains[number])
        s, lesion = in_brain(heatmap, label)
        scores.append(s)
        labels.append(lesion)
        metrics = voxel_metrics(s, lesion)
        outside = int(np.count_nonzero(label)) - int(np.count_nonzero(lesion))
        per_case.append(
            {"case": case["case"], "abnormal": bool(label.any()), "case_score": case_score(s)}
            | {key: metrics[key] for key in VOXEL_COLUMNS}
            | {"lesion_voxels_outside": outside}
        )
    pooled_scores, pooled_labels = np.concatenate(scores), np.concatenate(labels)
    pooled = voxel_metrics(pooled_scores, pooled_labels)
    row: dict[str, Any] = {"name": name, "voxels": {key: pooled[key] for key in VOXEL_COLUMNS}, "cases": per_case}
    row["voxels"]["lesion_voxels_outside"] = sum(case["lesion_voxels_outside"] for case in per_case)
    intervals = bootstrap_over_cases(scores, labels, n_replicates=n_replicates, seed=seed)
    row["intervals"] = {
        key: dict(zip(("low", "high"), pair or (None, None), strict=True)) for key, pair in intervals.items()
    }
    if 0 < pooled_labels.sum() < len(pooled_labels):
        fpr, tpr = roc_curve(pooled_scores, pooled_labels, n_points=400)
        row["roc"] = {"fpr": fpr.round(6).tolist(), "tpr": tpr.round(6).tolist()}
    return row


def _check_same_brain(
    case: str, name: str, brain: NDArray[np.bool_], first: str, first_brain: NDArray[np.bool_]
) -> None:
    """Raise InputError if two detectors have scores at different voxels: figures would not be comparable."""
    differ = np.count_nonzero(brain != first_brain)
    if differ:
        raise InputError(
            f"the brain masks of {case} differ: {first} has scores at {np.count_nonzero(first_brain)} voxels, {name} "
            f"at {np.count_nonzero(brain)}, and {differ} voxels are scored by one of them alone. All rows of a table "
            "are measured on one brain: score the case again with the mask that the datalist names, or name that mask "
            "there."
        )


def _outside_in_words(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning of the lesion voxels that no score covers, if there are any."""
    outside = {case["case"]: case["lesion_voxels_outside"] for case in cases if case["lesion_voxels_outside"]}
    if not outside:
        return []
    named = ", ".join(f"{case} ({count})" for case, count in outside.items())
    return [
        f"{sum(outside.values())} lesion voxels lie outside the brain masks and are in no voxel figure: {named}. Look "
        "at the masks; the cases count as abnormal."
    ]


def _normals_of(
    name: str,
    source: HeatmapSource,
    calibrations: Mapping[str, Calibration],
    normals: Sequence[Mapping[str, Any]],
) -> Calibration | None:
    """The calibration of a detector: the one that was given, or that of normal cases without their lesions."""
    if name in calibrations or not normals:
        return calibrations.get(name)
    scores = []
    for case in normals:
        heatmap = source(case)
        normal = np.isfinite(heatmap) if case.get("label") is None else np.isfinite(heatmap) & ~_label_on_scan(case)
        scores.append(heatmap[normal])
    return Calibration.fit(scores, normals_in_words(len(normals)))


def _measure_cases(cases: Sequence[Mapping[str, Any]], calibration: Calibration | None) -> dict[str, Any]:
    assert calibration is not None
    abnormal = np.array([case["abnormal"] for case in cases])
    case_scores = np.array([case["case_score"] for case in cases])
    figures: dict[str, Any] = case_metrics(case_scores, abnormal, calibration.case_threshold())
    return figures | {"threshold_from": calibration.case_threshold_in_words()}


def _label_on_scan(case: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The lesions (H, W, D) on the grid of the first image, where the heatmap lies; as in its file if there is none."""
    if case.get("image") is None:
        return np.asarray(read_volume(case["label"]).as_tensor()) >= INSIDE
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
