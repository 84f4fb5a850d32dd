"""What scoring says of each case, in a file and in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.data import heatmap_path, read_provenance, written_whole
from medanomaly.data.dicom_series import safe_name
from medanomaly.evaluation import Calibration, HeatmapFolder, case_score
from medanomaly.preprocessing.channels import registration_warnings
from medanomaly.preprocessing.mask_check import region_share_warning
from medanomaly.preprocessing.region_origin import LOOK, read_origin
from medanomaly.report.case_report import write_case_report
from medanomaly.report.cohort_report import write_cohort_report
from medanomaly.report.figures import roc_figure
from medanomaly.report.region_files import write_regions
from medanomaly.report.tables import detector_table, score_table, scored_in_words
from medanomaly.terminal import progress, show


def summarise_case(case: Mapping[str, Any], output_dir: str | Path, calibration: Calibration) -> dict[str, Any]:
    """The case score against normals, and how much of the region is above the voxel threshold.

    ``case_threshold_rate`` is the share of new normal cases that may lie above the case threshold, as far as so few
    normals can promise; None if the detector was trained on them.
    ``region_fraction`` is the share of the image that was scored, ``region_from`` where its mask came from. ``warning``
    says what is odd about that as the mask of a brain, and about registrations, if anything, as far as scoring wrote it
    down; and whether the scan is of another kind than the normals behind the thresholds. Of a film, or where all of an
    image is scored, as ``run.json`` in the folder says, no mask is odd.

    Args:
        case: with ``case`` and ``image`` (paths).
        output_dir: the folder that scoring wrote to.
        calibration: of the model, for thresholds from normals.
    """
    heatmap = HeatmapFolder(output_dir)(case)
    scores = heatmap[np.isfinite(heatmap)]
    score, threshold = case_score(scores), calibration.case_threshold()
    fraction = scores.size / heatmap.size
    asked_for = _region_asked_for(Path(output_dir))
    is_brain = 1 not in heatmap.shape and asked_for != "all"
    origin = read_origin(output_dir, case["case"])
    share = region_share_warning(fraction) if is_brain else ""
    odd = [
        origin.get("warning", f"{share}; {LOOK}" if share else ""),
        *registration_warnings(output_dir, case["case"]),
        calibration.misfit(scores),
    ]
    return {
        "case": case["case"],
        "image": safe_name(case["image"][0]),
        "case_score": score,
        "case_threshold": threshold,
        "case_threshold_rate": calibration.case_rate() if calibration.held_out else None,
        "abnormal": score > threshold,
        "voxel_threshold": calibration.voxel_threshold(),
        "abnormal_fraction": float((scores > calibration.voxel_threshold()).mean()),
        "region_fraction": fraction,
        "region_from": origin.get("from", asked_for or ""),
        "warning": "; ".join(filter(None, odd)),
        "heatmap": str(heatmap_path(output_dir, case["case"])),
    }


def _region_asked_for(output_dir: Path) -> str | None:
    """The region that the scores in a folder were made with, as far as it is written there."""
    return read_provenance(output_dir).get("region") if (output_dir / "run.json").exists() else None


def write_score_summary(
    cases: Sequence[Mapping[str, Any]], output_dir: str | Path, calibration: Calibration, report: bool = True
) -> None:
    """Write ``cases.csv`` beside the heatmaps (rows of other cases there stay) and print these cases as a table.

    The regions of each case are written, too, at the rate of false positives that is usual here, and with ``report``
    its HTML report.
    """
    summaries = [
        {
            **summarise_case(case, output_dir, calibration),
            "regions": len(write_regions(output_dir, case["case"], calibration).table),
        }
        for case in cases
    ]
    file, rows = Path(output_dir) / "cases.csv", pd.DataFrame(summaries)
    if file.exists():
        earlier = pd.read_csv(file, dtype={"case": str})
        rows = pd.concat([earlier[~earlier["case"].isin(rows["case"])], rows])
    with written_whole(file) as temporary:
        rows.to_csv(temporary, index=False)
    if report:
        for case, summary in zip(progress(cases, "writing reports"), summaries, strict=True):
            write_case_report(case, output_dir, calibration, summary)
    show(score_table(summaries, calibration.case_threshold_in_words(), scored_in_words(calibration.settings)))


def write_evaluation(
    result: dict[str, Any],
    output_dir: str | Path,
    cases: Sequence[Mapping[str, Any]] = (),
    scores: Mapping[str, str | Path] | None = None,
) -> None:
    """Write ``roc.png`` and ``report.html`` beside the metrics and print the table of detectors.

    Args:
        result: what ``evaluate_cohort`` returns.
        output_dir: the folder of the evaluation.
        cases, scores: for pictures of single cases, see :func:`medanomaly.report.cohort_report.write_cohort_report`.
    """
    roc_figure(result, Path(output_dir) / "roc.png")
    write_cohort_report(result, output_dir, cases, scores)
    show(detector_table(result))
