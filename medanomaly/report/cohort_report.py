"""The report of an evaluation: one HTML file with the table of detectors, curves, case scores, and single cases."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from medanomaly.data import display_path, read_channels, read_display
from medanomaly.data.datalist import is_image_label
from medanomaly.evaluation.cohort_voxels import label_on_scan
from medanomaly.report import case_pictures, cohort_pictures, pages
from medanomaly.report.case_report import report_path
from medanomaly.report.tables import number
from medanomaly.report.viewer_volumes import rarity_of_percent

SHOWN = 3  # cases of a kind
# of the table: title, and place in a row
COLUMNS = {
    "voxel AUROC": ("voxels", "auroc"),
    "average precision": ("voxels", "average_precision"),
    "best Dice (oracle)": ("voxels", "best_dice"),
    "Dice at 0.5 % of normals": ("at_threshold", "dice"),
    "case AUROC": ("case_level", "auroc"),
    "case average precision": ("case_level", "average_precision"),
    "sensitivity": ("case_level", "sensitivity"),
    "specificity": ("case_level", "specificity"),
}


def write_cohort_report(
    result: Mapping[str, Any],
    output_dir: str | Path,
    cases: Sequence[Mapping[str, Any]] = (),
    scores: Mapping[str, str | Path] | None = None,
) -> Path:
    """Write ``<output_dir>/report.html``, which loads nothing from elsewhere.

    Args:
        result: what ``evaluate_cohort`` returns.
        output_dir: the folder of the evaluation.
        cases: those that were evaluated, for pictures of the best and the worst.
        scores: name of a detector to the folder of its heatmaps.
    """
    rows, folders = result["detectors"], dict(scores or {})
    own = list(folders) or [rows[-1]["name"]]
    by_name = {case["case"]: case for case in cases}
    by_voxel, by_case = (cohort_pictures.curves(rows, own, of_cases) for of_cases in (False, True))
    drawn = [("Voxels", by_voxel), ("Cases", by_case)]
    path = Path(output_dir) / "report.html"
    pages.write_page(
        path,
        "cohort.html",
        result=result,
        table=leaderboard(rows, own),
        prevalence=rows[0].get("voxels", {}).get("prevalence"),
        abnormal=sum(case["abnormal"] for case in rows[0]["cases"]),
        thresholds=sorted({row.get("case_level", {}).get("threshold_from") for row in rows} - {None}),
        curves=[(title, pages.as_data(figure)) for title, figure in drawn if figure is not None],
        distribution=pages.as_data(cohort_pictures.score_distribution(rows)),
        shown=[
            {
                "name": row["name"],
                "groups": [
                    (title, [_shown(case, by_name, folders[row["name"]], path) for case in chosen])
                    for title, chosen in best_and_worst(row).items()
                ],
            }
            for row in rows
            if row["name"] in folders
        ],
        own=own,
        versions=pages.versions(),
    )
    return path


def leaderboard(rows: Sequence[Mapping[str, Any]], own: Sequence[str]) -> dict[str, Any]:
    """The table of detectors as text: ``columns``, and for each row ``name``, ``own`` and (value, interval) pairs."""
    columns = [title for title, (part, key) in COLUMNS.items() if any(key in row.get(part, {}) for row in rows)]
    lines = []
    for row in rows:
        cells = []
        for part, key in (COLUMNS[title] for title in columns):
            intervals = row.get("intervals", {}) if part == "voxels" else row.get(part, {}).get("intervals", {})
            low, high = (intervals.get(key, {}).get(end) for end in ("low", "high"))
            interval = "" if low is None or high is None else f"{number(low)} to {number(high)}"
            cells.append((number(row.get(part, {}).get(key)), interval))
        lines.append({"name": row["name"], "own": row["name"] in own, "cells": cells})
    return {"columns": columns, "rows": lines}


def best_and_worst(row: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Of a detector's cases those that it found best, those that it missed most, and the loudest healthy ones.

    Abnormal cases are ranked by their average precision where lesions are drawn, and by their score where not.
    """
    ill = [case for case in row["cases"] if case["abnormal"]]
    by_voxels = all(np.isfinite(case.get("average_precision") or np.nan) for case in ill)
    ill.sort(key=lambda case: case["average_precision"] if by_voxels else case["case_score"], reverse=True)
    healthy = sorted((case for case in row["cases"] if not case["abnormal"]), key=lambda case: -case["case_score"])
    n_best = min(SHOWN, -(-len(ill) // 2))
    found = {
        "Abnormal, found best": ill[:n_best],
        "Abnormal, found worst": ill[n_best:][-SHOWN:][::-1],
        "Healthy, scored highest": healthy[:SHOWN],
    }
    return {title: cases for title, cases in found.items() if cases}


def _shown(
    row: Mapping[str, Any], by_name: Mapping[str, Mapping[str, Any]], folder: str | Path, page: Path
) -> dict[str, Any]:
    """What is shown of a case: its name, its figures, a picture, and a link to its report if there is one."""
    name, words = row["case"], [f"case score {row['case_score']:.3g}"]
    if row.get("average_precision") is not None and row["abnormal"] and np.isfinite(row["average_precision"]):
        words.append(f"average precision {number(row['average_precision'])}")
    report, picture = report_path(folder, name), None
    case = by_name.get(name)
    if case is not None and case.get("image"):
        image = case["image"][0] if isinstance(case["image"], list | tuple) else case["image"]
        scan = read_channels([image])
        percent, _ = read_display(display_path(folder, name, image))
        rarity = np.where(percent > 0, rarity_of_percent(percent.astype(np.float64)), np.nan).astype(np.float32)
        drawn = None if case.get("label") is None or is_image_label(case["label"]) else label_on_scan(case)
        figure = case_pictures.still(scan.numpy()[0], rarity, scan.affine.numpy(), drawn)
        picture = pages.as_data(figure, dpi=100)
    link = quote(Path(os.path.relpath(report.resolve(), page.parent.resolve())).as_posix()) if report.exists() else None
    return {"case": name, "words": ", ".join(words), "picture": picture, "link": link}
