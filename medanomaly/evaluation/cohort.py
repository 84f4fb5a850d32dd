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

import medanomaly
from medanomaly.data import require_cases, written_whole
from medanomaly.data.datalist import check_healthy, is_image_label
from medanomaly.errors import InputError
from medanomaly.evaluation.bootstrap import bootstrap_of_cases
from medanomaly.evaluation.calibration import Calibration
from medanomaly.evaluation.case_metrics import case_metrics, case_ranking
from medanomaly.evaluation.cohort_voxels import (
    CURVES,
    Label,
    calibration_of,
    curves,
    label_on_scan,
    measure_heatmaps,
    named_intervals,
    voxel_row,
    voxels_at,
)
from medanomaly.evaluation.heatmaps import HeatmapSource


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

    Voxel metrics count the region only, pooled over all cases and for each case with lesions. A case is abnormal when
    its label has a voxel, in the region or outside; its score is that of :func:`case_score`, and the threshold
    comes from normal cases, never from the cases that are evaluated. All rows are measured on the same voxels; those
    of lesions outside the region are counted, and warned of.

    Where labels are numbers, 0 for a healthy case and 1 for another, there are case-level figures and nothing of
    voxels. In a cohort that has masks, too, a case of label 0 counts as one whose mask is empty, and one of label 1 is
    in the case-level figures alone, which is warned of.

    Args:
        cases: with ``case`` and ``label`` (a path, where an empty mask is a healthy case; or a number), and ``image``
            if the label may lie on another grid than the scan.
        detectors: name to source of heatmaps, in the order of the table: the trivial baselines first.
        output_dir: where to write.
        normals: normal cases for the thresholds of detectors that have no calibration; lesions of those that have a
            mask as ``label`` are left out.
        calibrations: name to calibration, for detectors that have one. Case-level figures at a threshold are given for
            all detectors, or for none if one has neither.
        n_replicates, seed: of the bootstrap over cases.

    Returns:
        What ``metrics.json`` holds: ``{"detectors": [{"name", "voxels", "intervals", "roc", "pr", "at_threshold",
        "cases", "case_level"}, ...], "n_cases", "bootstrap", "date", "version"}``. ``at_threshold`` is what a score
        leads to that 0.5 % of normal voxels exceed. Without masks, a row has nothing of voxels, but ``case_roc`` and
        ``case_pr``; and ``case_level`` holds what needs no threshold where there is none.

    Raises:
        InputError: if there is no case, a case has no label, a heatmap is missing or lies on another grid, two
            detectors have scores at different voxels of a case, or a normal case has the label 1.
    """
    require_labels(cases)
    check_healthy(normals, "validation", "the normal cases")
    labels = [int(case["label"]) if is_image_label(case["label"]) else label_on_scan(case) for case in cases]
    regions: list[tuple[str, NDArray[np.bool_]]] = []
    measured = {name: measure_heatmaps(name, source, cases, labels, regions) for name, source in detectors.items()}
    has_masks = any(not isinstance(label, int) for label in labels)
    rows: list[dict[str, Any]] = [
        voxel_row(name, found, n_replicates, seed) if has_masks else {"name": name, "cases": found.cases}
        for name, found in measured.items()
    ]
    warnings = [] if not has_masks else _outside_in_words(rows[0]["cases"]) + _without_mask_in_words(cases, labels)
    chosen = {name: getattr(source, "epoch", None) for name, source in detectors.items()}
    warnings += [f"{name}: epoch {words}" for name, words in chosen.items() if words]
    fitted = {name: _normals_of(name, source, calibrations or {}, normals) for name, source in detectors.items()}
    without = [name for name, calibration in fitted.items() if calibration is None]
    if without and len(without) < len(rows):
        warnings.append(
            f"there are no thresholds from normals for {', '.join(without)}, so no row has case-level figures"
            f"{'' if has_masks else ' at a threshold'}: train the model again, or give normal cases."
        )
    for row in rows:
        calibration = fitted[row["name"]]
        if has_masks and calibration is not None:
            row["at_threshold"] = voxels_at(measured[row["name"]], calibration.voxel_threshold())
        if not without or not has_masks:
            row["case_level"] = _measure_cases(
                row["cases"], None if without else fitted[row["name"]], n_replicates, seed
            )
        if not has_masks:
            row |= _case_curves(row["cases"])
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


def require_labels(cases: Sequence[Mapping[str, Any]]) -> None:
    """Raise InputError if there is no case to evaluate, or one has no label."""
    require_cases(cases)
    unlabelled = [case["case"] for case in cases if case.get("label") is None]
    if unlabelled:
        raise InputError(
            f"the case(s) {', '.join(unlabelled)} have no 'label': name a lesion mask, or a mask of zeros for a "
            "healthy subject; or give 0 for a healthy case and 1 for another, if there are no masks."
        )


def _outside_in_words(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning of the lesion voxels that no score covers, if there are any."""
    outside = {case["case"]: case["lesion_voxels_outside"] for case in cases if case.get("lesion_voxels_outside")}
    if not outside:
        return []
    named = ", ".join(f"{case} ({count})" for case, count in outside.items())
    return [
        f"{sum(outside.values())} lesion voxels lie outside the regions that were scored and are in no voxel figure: "
        f"{named}. Look at the masks; the cases count as abnormal."
    ]


def _without_mask_in_words(cases: Sequence[Mapping[str, Any]], labels: Sequence[Label]) -> list[str]:
    """A warning of the abnormal cases in which nobody has drawn what is abnormal, if there are any."""
    named = [case["case"] for case, label in zip(cases, labels, strict=True) if isinstance(label, int) and label]
    if not named:
        return []
    return [f"{len(named)} cases have the label 1 and no mask, and are in no voxel figure: {', '.join(named)}."]


def _normals_of(
    name: str,
    source: HeatmapSource,
    calibrations: Mapping[str, Calibration],
    normals: Sequence[Mapping[str, Any]],
) -> Calibration | None:
    """The calibration of a detector: the one that was given, or that of normal cases without their lesions."""
    if name in calibrations or not normals:
        return calibrations.get(name)
    return calibration_of(source, normals)


def _measure_cases(
    cases: Sequence[Mapping[str, Any]], calibration: Calibration | None, n_replicates: int, seed: int
) -> dict[str, Any]:
    """The figures of whole cases with their intervals; those at a threshold where there is a calibration."""
    abnormal = np.array([case["abnormal"] for case in cases])
    scores = np.array([case["case_score"] for case in cases])
    threshold = None if calibration is None else calibration.case_threshold()
    intervals = bootstrap_of_cases(scores, abnormal, threshold, n_replicates, seed)
    figures: dict[str, Any] = {**case_ranking(scores, abnormal)}
    if calibration is not None and threshold is not None:
        figures = {**case_metrics(scores, abnormal, threshold), "threshold_from": calibration.case_threshold_in_words()}
    return figures | {"intervals": named_intervals(intervals)}


def _case_curves(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The curves of whole cases, if there are both kinds."""
    abnormal = np.array([case["abnormal"] for case in cases])
    if abnormal.all() or not abnormal.any():
        return {}
    found = curves(np.array([case["case_score"] for case in cases]), abnormal)
    return {f"case_{kind}": curve for kind, curve in found.items()}


def _write(result: dict[str, Any], output_dir: Path) -> None:
    """JSON and two tables; each file appears only when it is complete."""
    detectors = pd.json_normalize(
        [{k: v for k, v in r.items() if k not in ("cases", *CURVES)} for r in result["detectors"]]
    )
    cases = pd.concat([pd.DataFrame(row["cases"]).assign(detector=row["name"]) for row in result["detectors"]])
    texts = {
        "metrics.json": json.dumps(without_nan(result), indent=1),
        "detectors.csv": detectors.to_csv(index=False),
        "cases.csv": cases[["detector", *cases.columns.drop("detector")]].to_csv(index=False),
    }
    for name, text in texts.items():
        with written_whole(output_dir / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def without_nan(value: Any) -> Any:
    """JSON has no NaN: what is undefined becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
