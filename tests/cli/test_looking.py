"""Regions and the scene of 3D Slicer, as a user types it after scoring."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest


@pytest.fixture
def out(scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLICER_HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: None)
    return shutil.copytree(scores, tmp_path / "out")


def test_regions_are_there_after_scoring_and_change_with_the_rate(
    command: Callable[..., int], cohort: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pd.read_csv(out / "test-1" / "regions.csv")
    label = nib.load(cohort.parent / "test-1" / "label.nii.gz")
    lesion = np.argwhere(np.asarray(label.dataobj)).mean(axis=0) @ label.affine[:3, :3].T + label.affine[:3, 3]
    assert np.linalg.norm(first.loc[0, ["peak_r", "peak_a", "peak_s"]].astype(float) - lesion) < 12  # the bright one
    assert pd.read_csv(out / "cases.csv").set_index("case").loc["test-1", "regions"] == len(first)
    assert command("regions", out, "--fpr", 0.05, "--case", "test-1") == 0
    assert "above 95 % of normal voxels" in capsys.readouterr().out
    more = pd.read_csv(out / "test-1" / "regions.csv")
    assert more["voxels"].sum() > first["voxels"].sum()
    assert command("regions", out, "--fpr", 5) == 3
    assert "false-positive rate is 5" in capsys.readouterr().err


def test_a_scene_is_written_and_named(
    command: Callable[..., int], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("view", out, "--slicer") == 3
    assert "choose one of test-0, test-1 with --case" in capsys.readouterr().err
    assert command("view", out / "test-1", "--slicer") == 0
    scene = out / "test-1" / "slicer" / "test-1.mrml"
    assert scene.exists() and scene.with_suffix(".mrb").exists()
    assert str(scene) in capsys.readouterr().out.replace("\n", "")
