"""The table and the curves of a benchmark on a cohort."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medanomaly.report import roc_panels
from medanomaly.workflows.benchmark import Result, check_same, grouped
from medanomaly.workflows.costs import mean_costs

# of the table: name and place in the metrics; what no row has is left out
VOXEL_COLUMNS = {
    "AUROC": "voxels.auroc",
    "AP": "voxels.average_precision",
    "best Dice (oracle)": "voxels.best_dice",
    "Dice at 0.5 % of normals": "at_threshold.dice",
    "sensitivity there": "at_threshold.sensitivity",
    "false positive rate there": "at_threshold.false_positive_rate",
}
CASE_COLUMNS = {
    "case AUROC": "case_level.auroc",
    "case AP": "case_level.average_precision",
    "case accuracy": "case_level.accuracy",
    "case sensitivity": "case_level.sensitivity",
    "case specificity": "case_level.specificity",
    "case precision": "case_level.precision",
    "case F1": "case_level.f1",
}
MAIN = ("AUROC", "AP")  # which have intervals in the table
# settings of runs, where unlabelled cases choose the epoch, to what the table says of the epoch; one training has both
EPOCHS = {"own": "-", "pseudo-auc": "by pseudo-AUC on 'mixed'", "last-epoch": "the last"}


def shown_table(results: Sequence[Result]) -> pd.DataFrame:
    """The table of a cohort; it says how epochs were chosen where unlabelled cases chose one."""
    table = cohort_table(results)
    if set(table["setting"]) == {"own"}:
        return table.drop(columns="setting")
    return table.assign(setting=table["setting"].map(EPOCHS)).rename(columns={"setting": "epoch"})


def cohort_table(results: Sequence[Result]) -> pd.DataFrame:
    """A row a detector and setting: means over seeds and their standard deviations ("... sd"), intervals over cases.

    Raises:
        InputError: if results were not measured on equal terms: other voxels, or thresholds from other normals.
    """
    check_same(results, ("voxels.n_voxels", "n_cases", "threshold_from"))
    rows = []
    for (detector, setting), group in grouped(results).items():
        table = pd.json_normalize([dict(result["metrics"]) for result in group])
        row: dict[str, Any] = {"detector": detector, "setting": setting, "seeds": len(table)}
        for column, key in {**VOXEL_COLUMNS, **CASE_COLUMNS}.items():
            if key not in table:
                continue
            values = pd.to_numeric(table[key])  # what is undefined is None
            row[column], row[f"{column} sd"] = float(values.mean()), float(values.std())
            place = "intervals" if key.startswith("voxels.") else "case_level.intervals"
            low, high = (f"{place}.{key.split('.')[-1]}.{end}" for end in ("low", "high"))
            is_main = column in MAIN or ("voxels.auroc" not in table and column.removeprefix("case ") in MAIN)
            if is_main and low in table and table[low].notna().all():
                row[f"{column}, 95 % over cases"] = f"{table[low].mean():.3f} to {table[high].mean():.3f}"
        rows.append(row | mean_costs(group))
    frame = pd.DataFrame(rows)
    undefined = [column for column in (*VOXEL_COLUMNS, *CASE_COLUMNS) if column in frame and frame[column].isna().all()]
    return frame.drop(columns=[name for name in frame if name.removesuffix(" sd").split(",")[0] in undefined])


def roc_curves(results: Sequence[Result], folder: Path) -> None:
    """``roc.png``: a curve for each detector and seed, with the mean AUROC in the legend."""
    curves = {
        f"{detector}, {setting}: {np.mean([_auroc(r) for r in group]):.3f}": [r["metrics"]["roc"] for r in group]
        for (detector, setting), group in grouped(results).items()
        if all("roc" in r["metrics"] for r in group)
    }
    if curves:
        what = "voxels in the region" if all("voxels" in r["metrics"] for r in results) else "images"
        roc_panels({folder.name: curves}, folder / "roc.png", what)


def _auroc(result: Result) -> float:
    metrics = result["metrics"]
    return float(metrics["voxels" if "voxels" in metrics else "case_level"]["auroc"])
