"""f-AnoGAN on a grid as a user trains it: a setting of the bundle, gone on with, and scored as ever."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medanomaly.errors import ConfigError
from medanomaly.training import load_checkpoint
from medanomaly.workflows import score, train

GRID = {"rows": 1, "columns": 2, "quality_samples": 16}
SMALL = {"features": 4, "latent_dim": 8, "critic_steps": 1, "spacing": [2, 2, 3], "patches_per_epoch": 128}


def test_a_grid_is_a_setting_of_the_bundle(cohort: Path, tmp_path: Path) -> None:
    settings = {**SMALL, "train#trainer#grid": GRID}
    model = train(cohort, tmp_path / "grid", bundle="f_anogan", epochs=1, settings=settings)
    cells = [load_checkpoint(path) for path in sorted((model / "checkpoints/grid").glob("cell*.pt"))]
    assert [cell["iteration"] for cell in cells] == [1, 1]
    best = min(cells, key=lambda cell: cell["history"][-1]["quality"])["pair"]["generator"]["network"]
    weights = load_checkpoint(model / "models/model.pt")
    assert all((weights[f"generator.{name}"] == value).all() for name, value in best.items())

    train(output=model, resume=True, epochs=2)  # one more of the encoder
    table = score(model=model, output=tmp_path / "out", datalist=cohort, report=False)
    assert len(table) == 2
    heatmap = np.asarray(nib.load(tmp_path / "out/test-1/test-1_heatmap.nii.gz").dataobj)
    assert np.isfinite(heatmap).any()


def test_a_detector_without_a_gan_refuses_a_grid(cohort: Path, tmp_path: Path) -> None:
    settings = {"spacing": [2, 2, 3], "patches_per_epoch": 128, "train#trainer#grid": GRID}
    with pytest.raises(ConfigError, match="GANomaly does not begin with a GAN"):
        train(cohort, tmp_path / "plain", epochs=1, settings=settings)
