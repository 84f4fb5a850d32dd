"""The report of an evaluation: its curves, its table, and which cases it shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from medanomaly.data import heatmap_path
from medanomaly.evaluation import HeatmapFolder, evaluate_cohort
from medanomaly.report import write_evaluation
from medanomaly.report.cohort_report import best_and_worst, leaderboard
from tests.report.browser import CHROMIUM, Browser


def row_of(*cases: tuple[str, bool, float, float | None]) -> dict[str, Any]:
    keys = ("case", "abnormal", "case_score", "average_precision")
    return {"cases": [dict(zip(keys, case, strict=True)) for case in cases]}


def test_cases_that_are_shown_are_the_best_the_worst_and_the_loudest() -> None:
    ill = [(f"ill-{n}", True, 9.0 - n, precision) for n, precision in enumerate((0.1, 0.9, 0.5, 0.7, 0.3, 0.2, 0.4))]
    healthy = [(f"well-{n}", False, float(n), None) for n in range(5)]
    found = best_and_worst(row_of(*ill, *healthy))
    assert [[case["case"] for case in cases] for cases in found.values()] == [
        ["ill-1", "ill-3", "ill-2"],
        ["ill-0", "ill-5", "ill-4"],
        ["well-4", "well-3", "well-2"],
    ]
    without_masks = best_and_worst(row_of(("a", True, 1.0, None), ("b", True, 3.0, None)))
    assert [[case["case"] for case in cases] for cases in without_masks.values()] == [["b"], ["a"]]


def test_the_table_has_intervals_and_leaves_out_what_nobody_measured() -> None:
    level = {"auroc": 0.75, "sensitivity": None, "intervals": {"auroc": {"low": 0.5, "high": 0.9}}}
    table = leaderboard([{"name": "a", "case_level": level}, {"name": "b", "case_level": {}}], ["a"])
    assert table["columns"] == ["case AUROC", "sensitivity"]
    assert table["rows"][0] == {"name": "a", "own": True, "cells": [("0.750", "0.500 to 0.900"), ("-", "")]}
    assert table["rows"][1]["cells"] == [("-", ""), ("-", "")]


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Two cases, one with a lesion, of two detectors; a report of one case is there."""
    rng, shape = np.random.default_rng(0), (12, 14, 6)
    cases = []
    for name in ("well", "ill"):
        label = np.zeros(shape, np.uint8)
        label[4:7, 5:8, 2:4] = name == "ill"
        heatmap = (rng.random(shape) + label).astype(np.float32)
        images = {"image": rng.random(shape), "label": label}
        for kind, volume in images.items():
            nib.save(nib.Nifti1Image(volume.astype(np.float32), np.eye(4)), tmp_path / f"{name}_{kind}.nii.gz")
        (tmp_path / "scores" / name).mkdir(parents=True)
        for kind, volume in (("heatmap", heatmap), ("display", 50 * heatmap)):
            nib.save(nib.Nifti1Image(volume, np.eye(4)), heatmap_path(tmp_path / "scores", name, kind))
        cases.append({"case": name, **{kind: str(tmp_path / f"{name}_{kind}.nii.gz") for kind in images}})
    (tmp_path / "scores" / "ill" / "report.html").write_text("made")
    own = "mine <b>&"
    sources = {"brightness": lambda case: rng.random(shape).astype(np.float32), own: HeatmapFolder(tmp_path / "scores")}
    out = tmp_path / "scores" / "evaluation"
    result = evaluate_cohort([{**case, "image": [case["image"]]} for case in cases], sources, out, n_replicates=20)
    result["warnings"].append("look <here>")
    write_evaluation(result, out, cases, {own: tmp_path / "scores"})
    return out / "report.html"


def test_a_cohort_is_shown_with_its_cases(evaluated: Path, tmp_path: Path) -> None:
    page = evaluated.read_text()
    assert "Evaluation of mine &lt;b&gt;&amp;" in page and "look &lt;here&gt;" in page and "<b>" not in page
    assert re.findall(r'href="(?!data:)([^"]*)"', page) == ["../ill/report.html"], "where there is a report"
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["Abnormal, found best", "Healthy, scored highest"]
    assert page.count('alt="A slice of') == 2 and 'alt="ROC and precision-recall curves of Voxels"' in page
    assert str(tmp_path) not in page


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")
def test_it_opens_without_a_network(evaluated: Path) -> None:
    with Browser() as browser, browser.page(evaluated) as page:
        assert page.run("Array.from(document.images).every((image) => image.naturalWidth > 100)")
        assert page.run("document.images.length") == 4
        assert page.complaints == []
        assert {address.partition(":")[0] for address in page.requests} <= {"file", "data"}


def test_without_cases_it_has_tables_and_curves(evaluated: Path, tmp_path: Path) -> None:
    result = json.loads((evaluated.parent / "metrics.json").read_text())
    write_evaluation(result, tmp_path / "alone")
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "A slice of" not in page and "voxel AUROC" in page
