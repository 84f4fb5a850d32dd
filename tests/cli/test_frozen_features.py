"""A detector that builds on a model that was trained before, as a user types it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.errors import ConfigError, InputError, MedanomalyError
from medanomaly.workflows.publish import publish


def test_patchcore_takes_the_encoder_of_a_model_and_needs_it_no_more(
    command: Callable[..., int], small: list[str], cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    same = [*small, "--set", "patch_size=16", "--set", "features=8", "--brain", "nonzero"]
    earlier = ["--output", "runs/dae", "--bundle", "denoising_autoencoder", "--epochs", 1, "--set", "noise_voxels=4"]
    assert command("train", "--datalist", cohort, *earlier, *same) == 0
    builds_on = ["--set", "backbone=unet", "--set", f"backbone_weights={tmp_path / 'runs' / 'dae'}"]
    named = ["--output", "runs/core", "--bundle", "patchcore"]
    assert command("train", "--datalist", cohort, *named, *builds_on, *same) == 0
    shutil.rmtree("runs/dae")
    scan = cohort.parent / "test-1" / "image0.nii.gz"
    assert command("score", scan, "--model", "runs/core", "--output", "out", "--no-report") == 0
    heatmap = np.asarray(nib.load("out/image0/image0_heatmap.nii.gz").dataobj)
    assert np.isfinite(heatmap).any() and np.nanmax(heatmap) > np.nanmin(heatmap) >= 0
    bundle = publish("anomaly", "runs/core", "published")
    assert json.loads((bundle / "configs" / "inference.json").read_text())["backbone_weights"] is None
    assert not any(str(tmp_path) in file.read_text() for file in bundle.rglob("*") if file.suffix in (".json", ".md"))
    card = (bundle / "docs" / "README.md").read_text()
    assert "features of training images" in card and "random weights" not in card


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        ([], ConfigError, "the backbone resnet18 has no weights: set backbone_weights"),
        (["--set", "backbone_weights=runs/nowhere"], InputError, "there are no weights at runs/nowhere"),
        (["--set", "backbone_weights=medicalnet"], ConfigError, "'medicalnet', which there is in 3-D for resnet10"),
    ],
)
def test_weights_that_are_not_there_are_told_of_before_a_scan_is_prepared(
    weights: list[str],
    error: type[MedanomalyError],
    said: str,
    command: Callable[..., int],
    cohort: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEDANOMALY_CACHE", str(tmp_path / "cache"))
    assert (
        command("train", "--datalist", cohort, "--output", tmp_path / "runs", "--bundle", "padim", *weights)
        == error.exit_code
    )
    assert said in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
