"""Table and pictures of the white-matter experiment, with the figures of Madzia-Madzou & Kuijf to hold ours against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medanomaly.experiments.voxel_detectors import VOXEL_DETECTORS
from medanomaly.report import roc_panels
from medanomaly.workflows.benchmark import BASELINES, Result, grouped
from medanomaly.workflows.cohort_table import cohort_table

CHANNELS = {"flair": 1, "flair+t1": 2}  # images of a case that a detector of patches sees
# Madzia-Madzou & Kuijf, section 4.3, on its own 30 patients, FLAIR and T1; its GANomaly is our variant K
PAPER_AUROC = {
    ("ganomaly-k", "flair+t1-16px"): "0.89",
    ("ganomaly-k", "flair+t1-32px"): "0.75",
    ("progressive-ganomaly", "flair+t1-16px"): "0.78",
    ("progressive-ganomaly", "flair+t1-32px"): "0.61",
}


def leaderboard(order: Sequence[tuple[str, str]], results: Sequence[Result]) -> pd.DataFrame:
    """The table of a cohort, with the paper's AUROC beside ours; of whole cases it says nothing: all have lesions.

    Args:
        order: of the rows: detector and setting.
        results: of any runs.
    """
    place = {row: n for n, row in enumerate(order)}
    frame = cohort_table(sorted(results, key=lambda r: place.get((r["detector"], r["setting"]), len(place))))
    frame = frame.drop(columns=[column for column in frame if column.startswith("case ")])
    names = zip(frame["detector"], frame["setting"], strict=True)
    frame["AUROC in the paper, on its own data"] = [PAPER_AUROC.get(name, "-") for name in names]
    return frame


def pictures(results: Sequence[Result], folder: Path) -> None:
    """``roc.png``: ROC curves as in the paper's figure 7, a panel for each set of channels, brightness in all."""
    panels: dict[str, dict[str, list[Any]]] = {"FLAIR": {}, "FLAIR + T1": {}, "FLAIR + T1 + T2": {}}
    for (detector, setting), group in grouped(results).items():
        curves = [result["metrics"]["roc"] for result in group]
        auroc = sum(result["metrics"]["voxels"]["auroc"] for result in group) / len(group)
        seen = list(CHANNELS).index(setting.rsplit("-", 1)[0]) if detector not in (*VOXEL_DETECTORS, *BASELINES) else 2
        for n, panel in enumerate(panels.values()):
            if n == seen or setting == "flair":
                panel[f"{detector}, {setting}: {auroc:.3f}"] = curves
    roc_panels({title: panel for title, panel in panels.items() if panel}, folder / "roc.png")
