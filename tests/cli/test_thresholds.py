"""Thresholds as a user meets them: fitted where they are applied, from the same normals for every row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medanomaly.evaluation import Calibration, case_score

SMALL = ["--epochs", 1, "--set", "patches_per_epoch=64", "--set", "batch_size=64"]


def of_case(folder: Path, case: str, kind: str) -> np.ndarray:
    return np.asarray(nib.load(folder / case / f"{case}_{kind}.nii.gz").dataobj)


@pytest.mark.parametrize("spacing", ["[2,2,3]", "[4,4,4]", "[1,1.5,2]", "null"])
def test_a_scan_that_was_calibrated_on_gets_its_own_score_and_share(
    command: Callable[..., int], spacing: str, cohort: Path, tmp_path: Path
) -> None:
    """The scans are of 2 x 2 x 3 mm; the detector works on each of these grids."""
    model, out = tmp_path / "model", tmp_path / "out"
    assert command("train", "--datalist", cohort, "--output", model, *SMALL, "--set", f"spacing={spacing}") == 0
    assert command("score", "--datalist", cohort, "--section", "validation", "--model", model, "--output", out) == 0
    calibration = Calibration.load(model / "models" / "calibration.json")
    heatmap, display = (of_case(out, "validation-0", kind) for kind in ("heatmap", "display"))
    inside = np.isfinite(heatmap)
    assert calibration.case_scores == pytest.approx((case_score(heatmap[inside]),), rel=1e-6)
    summary = pd.read_csv(out / "cases.csv").iloc[0]
    assert summary["case_score"] == pytest.approx(calibration.case_scores[0], rel=1e-6)
    step = 17 / inside.sum()  # at stride 4, 16 voxels share a score
    for rate in (0.005, 0.05):
        assert np.mean(heatmap[inside] > calibration.voxel_threshold(rate)) == pytest.approx(rate, abs=step)
    assert summary["abnormal_fraction"] == pytest.approx(0.005, abs=step)
    ranks = np.searchsorted(np.sort(heatmap[inside]), heatmap[inside]) / inside.sum()
    assert np.abs(display[inside] / 100 - ranks).max() < 0.02, "the share of this brain that scores lower"


def brightness_without_lesions(folder: Path) -> np.ndarray:
    image, brain, label = (
        np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in ("image0", "brain", "label")
    )
    low, high = np.percentile(image[brain > 0], [5, 95])
    return (image[(brain > 0) & (label == 0)] - low) / (high - low)


@pytest.mark.parametrize("sections", ["validation with a lesion", "no validation"])
def test_baselines_have_their_thresholds_from_the_normals_of_the_detector(
    command: Callable[..., int], sections: str, cohort_maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    datalist = cohort_maker(tmp_path / "data")
    content = json.loads(datalist.read_text())
    if sections == "no validation":
        del content["validation"]
    else:  # the last test case has a bright lesion: as a labelled normal, its other tissue is what is normal
        content["validation"] = [content["test"].pop()]
    datalist.write_text(json.dumps(content))
    model, out = tmp_path / "model", tmp_path / "out"
    assert command("train", "--datalist", datalist, "--output", model, *SMALL, "--set", "spacing=[2,2,3]") == 0
    assert command("score", "--datalist", datalist, "--model", model, "--output", out) == 0
    capsys.readouterr()
    assert command("evaluate", "--datalist", datalist, "--scores", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    rows = json.loads((out / "evaluation" / "metrics.json").read_text())["detectors"]
    assert len(rows) == 4 and all("case_level" in row for row in rows)
    sources = {row["case_level"]["threshold_from"] for row in rows}
    assert len(sources) == 1 and sources.pop() in printed
    if sections == "no validation":
        assert "the detector has seen them" in printed
    else:
        assert "at most 50 % of new normal cases exceed it (5 % would need 19 normals)" in printed
        expected = case_score(brightness_without_lesions(tmp_path / "data" / "test-1"))
        assert rows[0]["case_level"]["threshold"] == pytest.approx(expected, rel=1e-4)


def test_the_threshold_of_few_normals_is_told_where_it_is_printed(
    command: Callable[..., int], cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    assert command("train", "--datalist", cohort, "--output", model, *SMALL, "--set", "spacing=[2,2,3]") == 0
    capsys.readouterr()
    assert command("score", "--datalist", cohort, "--model", model, "--output", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "the highest case score of 1 held-out normal case: at most 50 % of new normal cases exceed it" in printed
    assert pd.read_csv(out / "cases.csv")["case_threshold_rate"].tolist() == [0.5, 0.5]
