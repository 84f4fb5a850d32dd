"""Lesions of a label after resampling: every voxel that holds any of one is kept out of training."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacing
from scipy import ndimage

from medanomaly.detectors import Autoencoder, DenoisingAutoencoder, Fusion
from medanomaly.patches import PatchSampler, PatchScoreInferer, PatchSpec
from medanomaly.preprocessing import LABEL_ON_SCAN, brain_mri


@pytest.fixture
def case(tmp_path: Path) -> dict[str, object]:
    """A scan of 1.5 x 1 x 2 mm whose lesions are the only voxels of their brightness, 100 times that of tissue."""
    shape = (40, 52, 28)
    rng = np.random.default_rng(0)
    lesions = ndimage.binary_dilation(rng.random(shape) < 4e-4)
    image = np.where(lesions, 100.0, 1.0 + 0.1 * rng.random(shape))
    files = {}
    for name, volume in {"image": image, "label": lesions, "region": np.ones(shape)}.items():
        files[name] = str(tmp_path / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(volume.astype(np.float32), np.diag([1.5, 1.0, 2.0, 1.0])), files[name])
    return {**files, "case": "made"}


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (1.2, 0.8, 2.7), (1.5, 1.0, 2.0), None])
def test_no_training_patch_holds_a_part_of_a_lesion(case: dict[str, object], spacing: tuple[float, ...] | None) -> None:
    prepared = brain_mri(1, spacing)(case)
    sampler = PatchSampler([prepared], PatchSpec(4), batch_size=16, patches_per_epoch=2000)
    patches = torch.cat(list(sampler))
    assert patches.max() < 3, "100 times the brightness of tissue: a hundredth of a lesion voxel would show"
    label = nib.load(str(case["label"]))
    drawn = MetaTensor(torch.from_numpy(np.asarray(label.dataobj)[None]), affine=label.affine)
    if spacing is not None:
        drawn = Spacing(spacing, mode="bilinear", dtype=np.float64)(drawn)
    held = prepared["label"] > 0
    assert not (held.as_tensor() & (drawn.as_tensor() == 0)).any(), "and no more is left out"
    assert held.as_tensor()[drawn.as_tensor() > 1e-3].all()
    assert set(np.unique(prepared["label"])) == {0, 1}
    np.testing.assert_array_equal(np.asarray(prepared[LABEL_ON_SCAN][0]), np.asarray(label.dataobj) > 0)


def test_a_brain_of_few_levels_has_no_voxel_that_scores_as_background(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    shape = (48, 48, 6)
    brain = np.zeros(shape, np.uint8)
    brain[4:44, 4:44] = 1
    image = ndimage.gaussian_filter(rng.normal(size=shape), 1)
    levels = np.digitize(image, np.quantile(image, [0.1, 0.3, 0.5, 0.7, 0.9])) + 2
    for name, volume in {"image": levels * brain, "region": brain}.items():
        nib.save(nib.Nifti1Image(volume.astype(np.uint8), np.eye(4)), tmp_path / f"{name}.nii.gz")
    prepared = brain_mri(1, None)({name: str(tmp_path / f"{name}.nii.gz") for name in ("image", "region")})
    torch.manual_seed(0)
    for detector in (
        Autoencoder(patch_size=16, features=4),
        DenoisingAutoencoder(patch_size=16, features=8, noise_voxels=4),
        Fusion(patch_size=16, members=[{"detector": "denoising_autoencoder", "features": 8}]),
    ):
        if isinstance(detector, Fusion):
            detector.fit_statistics([torch.rand(64, 1, 16, 16)])
        inferer = PatchScoreInferer(PatchSpec(16, stride=16))
        heatmap = inferer(prepared["image"][None], detector.eval(), mask=prepared["region"][None])[0, 0]
        inside = prepared["region"].as_tensor()[0] > 0
        assert (heatmap[inside] != 0).float().mean() > 0.999, type(detector).__name__
