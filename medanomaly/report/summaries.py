"""What scoring says of each case, in a file and in a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.data import heatmap_path, written_whole
from medanomaly.evaluation import Calibration, HeatmapFolder, case_score
from medanomaly.preprocessing.region_mask import region_share_warning
from medanomaly.report.figures import roc_figure
from medanomaly.report.tables import detector_table, score_table, scored_in_words, show


def summarise_case(case: Mapping[str, Any], output_dir: str | Path, calibration: Calibration) -> dict[str, Any]:
    """The case score against normals, and how much of the brain is above the voxel threshold.

    ``case_threshold_rate`` is the share of new normal cases that may lie above the case threshold, as far as so few
    normals can promise; None if the detector was trained on them.
    ``brain_fraction`` is the share of the image that was scored, and ``warning`` says what is odd about that, if
    anything: a case from the cache went past the step that would have warned of its mask.

    Args:
        case: with ``case`` and ``image`` (paths).
        output_dir: the folder that scoring wrote to.
        calibration: of the model, for thresholds from normals.
    """
    heatmap = HeatmapFolder(output_dir)(case)
    scores = heatmap[np.isfinite(heatmap)]
    score, threshold = case_score(scores), calibration.case_threshold()
    brain_fraction = scores.size / heatmap.size
    return {
        "case": case["case"],
        "image": case["image"][0],
        "case_score": score,
        "case_threshold": threshold,
        "case_threshold_rate": calibration.case_rate() if calibration.held_out else None,
        "abnormal": score > threshold,
        "voxel_threshold": calibration.voxel_threshold(),
        "abnormal_fraction": float((scores > calibration.voxel_threshold()).mean()),
        "brain_fraction": brain_fraction,
        "warning": region_share_warning(brain_fraction),
        "heatmap": str(heatmap_path(output_dir, case["case"])),
    }


def write_score_summary(cases: Sequence[Mapping[str, Any]], output_dir: str | Path, calibration: Calibration) -> None:
    """Write ``cases.csv`` beside the heatmaps (rows of other cases there stay) and print these cases as a table."""
    summaries = [summarise_case(case, output_dir, calibration) for case in cases]
    file, rows = Path(output_dir) / "cases.csv", pd.DataFrame(summaries)
    if file.exists():
        earlier = pd.read_csv(file, dtype={"case": str})
        rows = pd.concat([earlier[~earlier["case"].isin(rows["case"])], rows])
    with written_whole(file) as temporary:
        rows.to_csv(temporary, index=False)
    show(score_table(summaries, calibration.case_threshold_in_words(), scored_in_words(calibration.settings)))


def write_evaluation(result: dict[str, Any], output_dir: str | Path) -> None:
    """Write ``roc.png`` beside the metrics and print the table of detectors."""
    roc_figure(result, Path(output_dir) / "roc.png")
    show(detector_table(result))
