"""A header that cannot be right is refused before voxels are made of it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Compose, Orientation, Spacing

from medanomaly.errors import InputError, plain_error
from medanomaly.preprocessing import brain_mri
from medanomaly.preprocessing.plausible_grid import resampled_shape

SHAPE = (40, 44, 20)


def scan(folder, sizes, shape=SHAPE):
    image = np.zeros(shape, np.float32)
    image[4:-4, 4:-4, 4:-4] = np.random.default_rng(0).normal(100, 20, [s - 8 for s in shape])
    nib.save(nib.Nifti1Image(image, np.diag([*sizes, 1.0])), folder / "scan.nii.gz")
    return {"image": [str(folder / "scan.nii.gz")]}


def refusal(chain, case):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - MONAI wraps it
        chain(case)
    plain = plain_error(caught.value)
    assert plain is caught.value.__cause__ and isinstance(plain, InputError), repr(caught.value)
    return str(plain)


@pytest.mark.parametrize("spacing", [None, (60.0, 60.0, 60.0)])  # as coarse as they are, so that nothing grows
@pytest.mark.parametrize("sizes", [(50, 50, 50), (-1, 0.01, 1), (1, 1, 20.5)])
def test_voxel_sizes_out_of_range_are_refused(tmp_path, spacing, sizes):
    message = refusal(brain_mri(1, spacing, "nonzero"), scan(tmp_path, sizes))
    for part in ("scan.nii.gz", " x ".join(f"{abs(size):g}" for size in sizes), "0.05 to 20 mm", "correct the header"):
        assert part in message


@pytest.mark.parametrize("sizes", [(0.06, 0.06, 0.06), (-19.9, 10, 19)])
def test_voxel_sizes_within_the_range_are_taken(tmp_path, sizes):
    assert brain_mri(1, None, "nonzero")(scan(tmp_path, sizes))["image"].shape == (1, *SHAPE)


def test_the_extractor_is_not_run_on_a_scan_that_is_refused(tmp_path):
    def never(image):
        raise AssertionError("run")

    assert "correct the header" in refusal(brain_mri(1, None, never), scan(tmp_path, (50, 50, 50)))


def test_a_volume_that_would_become_huge_is_refused(tmp_path):
    case = scan(tmp_path, (20, 10, 15), (30, 40, 50))
    message = refusal(brain_mri(1, (0.5, 0.5, 0.2), "nonzero"), case)
    for part in ("scan.nii.gz", "30 x 40 x 50", "20 x 10 x 15 mm", "1161 x 781 x 3676", "coarser `spacing`"):
        assert part in message


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "ASL"])
def test_the_shape_is_known_before_it_is_made(codes):
    """Against MONAI's own moves, oblique and with permuted axes."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(np.eye(3) + 0.1 * rng.normal(size=(3, 3)))[0]
    turn = turn * np.sign(np.diag(turn))
    ras = nib.Nifti1Image(np.zeros((11, 17, 23), np.float32), np.eye(4))
    there = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), nib.orientations.axcodes2ornt(codes))
    image = ras.as_reoriented(there)
    affine = nib.affines.from_matvec(turn @ image.affine[:3, :3] @ np.diag([1.3, 2.1, 3.7]))
    volume = MetaTensor(np.zeros((1, *image.shape), np.float32), affine=affine)
    spacing = (0.9, 1.7, 2.6)
    moved = Compose([Orientation("RAS", labels=None), Spacing(spacing)])(volume)
    assert resampled_shape(volume, spacing) == tuple(moved.shape[1:])
