"""Thresholds from a site's own normals: the same weights and scores, other percentiles, and a model that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medanomaly.evaluation import Calibration

Command = Callable[..., int]
Maker = Callable[..., Path]


@pytest.fixture(scope="module")
def site(cohort_maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of three normal people, and one to score, of a scanner with more noise."""
    datalist = cohort_maker(tmp_path_factory.mktemp("site"), sections=(("validation", 3), ("test", 1)))
    rng = np.random.default_rng(0)
    for file in sorted(datalist.parent.glob("*/image0.nii.gz")):
        image = nib.load(file)
        brain = np.asarray(nib.load(file.with_name("brain.nii.gz")).dataobj)
        noisy = np.asarray(image.dataobj) + brain * rng.normal(0, 100, image.shape)
        nib.save(nib.Nifti1Image(noisy.astype(np.float32), image.affine), file)
    return datalist


def test_only_what_scores_mean_changes(
    command: Command, trained: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert command("calibrate", "--model", trained, "--datalist", site, "--output", here) == 0
    assert "3 held-out normal cases" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()} == before

    for model in (trained, here):
        assert command("score", "--datalist", site, "--model", model, "--output", tmp_path / f"of_{model.name}") == 0
    there, ours = (tmp_path / f"of_{model.name}" for model in (trained, here))
    scores, same = (np.asarray(nib.load(f / "test-0" / "test-0_heatmap.nii.gz").dataobj) for f in (there, ours))
    np.testing.assert_array_equal(scores, same)
    rows = [pd.read_csv(folder / "cases.csv").iloc[0] for folder in (there, ours)]
    own, others = (Calibration.load(model / "models" / "calibration.json") for model in (here, trained))
    assert own.n_cases == 3 and own.quantiles != others.quantiles
    inside = scores[np.isfinite(scores)]
    for row, calibration in zip(rows, (others, own), strict=True):
        assert row["abnormal_fraction"] == pytest.approx(np.mean(inside > calibration.voxel_threshold()))
    files = sorted(file.name for file in (trained / "models").glob("calibration*"))
    assert files == sorted(file.name for file in (here / "models").glob("calibration*")) and len(files) > 1

    assert command("evaluate", "--datalist", site, "--section", "validation", "--scores", ours) != 0, "not scored"
    held = json.loads((here / "models" / "cases.json").read_text())
    assert set(held["validation"]) == {f"validation-{n}" for n in range(3)} and held["training"]
    assert str(here) in (here / "configs" / "inference.json").read_text()


def test_what_a_model_learned_from_is_no_normal_of_a_site(
    command: Command, trained: Path, cohort: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["calibrate", "--model", trained, "--datalist", cohort, "--output", tmp_path / "here"]
    assert command(*given, "--section", "training") == 3
    assert "was trained on train" in capsys.readouterr().err
    assert not (tmp_path / "here").exists()


def test_a_model_is_not_replaced_and_must_be_one(
    command: Command, trained: Path, site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("calibrate", "--model", trained, "--datalist", site, "--output", tmp_path) == 3
    assert "there already" in capsys.readouterr().err
    assert command("calibrate", "--model", tmp_path, "--datalist", site, "--output", tmp_path / "here") == 3
    assert "trained model" in capsys.readouterr().err
