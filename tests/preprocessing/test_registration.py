"""A known motion is found again, whatever the grids; what cannot be found is not made up."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from sklearn.metrics import normalized_mutual_info_score

from medanomaly.errors import InputError
from medanomaly.preprocessing import registration
from medanomaly.preprocessing.registration import Volume, head_of, register, resampled, similarity_of
from tests.preprocessing.made_heads import CENTRE, error_of, grid, head, moved

# the grid of the first, that of the second: axis codes, voxel size (mm), rotation of the grid (degrees)
GRIDS = {
    "thick-slices": (("LPS", (1.8, 1.8, 4.0), (0, 0, 0)), ("LPS", (2.2, 2.2, 3.0), (4, 0, 0))),
    "oblique-sagittal-and-thick": (("ASR", (2.0, 2.0, 3.0), (6, -8, 5)), ("LAS", (2.0, 2.0, 4.0), (-10, 3, 0))),
}


@pytest.mark.parametrize("name", [pytest.param("thick-slices", marks=pytest.mark.slow), "oblique-sagittal-and-thick"])
def test_a_known_motion_is_found_between_contrasts(name):
    first, second = (grid(*one) for one in GRIDS[name])
    motion = moved()
    fixed = Volume(head(*first, contrast="flair"), first[0])
    moving = Volume(head(*second, motion=motion, contrast="t1", seed=1), second[0])
    found = register(fixed, moving)
    mm, degrees = error_of(found.matrix, motion)
    assert mm < 1 and degrees < 1
    assert found.shift_mm == pytest.approx(np.sqrt(50), abs=1)
    assert found.rotation_degrees == pytest.approx(5, abs=1)
    assert found.similarity > 1.3 * found.similarity_before and found.sharpness > 1.3
    np.testing.assert_allclose(found.stretch, 1, atol=1e-6)


def test_a_far_header_a_large_turn_and_a_cut_field_of_view():
    affine, shape = grid(spacing=(3.0, 3.0, 4.0))
    lower, few = grid(spacing=(3.0, 3.0, 4.0), extent=(150.0, 180.0, 80.0))  # lacks the top and the bottom
    motion = moved(shift=(140.0, -60.0, 35.0), degrees=17)
    fixed, moving = Volume(head(affine, shape), affine), Volume(head(lower, few, contrast="t1"), motion @ lower)
    found = register(fixed, moving)
    mm, degrees = error_of(found.matrix, motion)
    assert mm < 1 and degrees < 1
    assert found.similarity_before == 0
    assert 0.7 < found.covered < 0.95


def test_the_same_each_time_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(registration, "SAMPLES", 8_000)  # fewer than there are, so that they are drawn
    affine, shape = grid(spacing=(7.0, 7.0, 8.0))
    fixed, moving = Volume(head(affine, shape), affine), Volume(head(affine, shape, moved(), "t1"), affine)
    usual = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
    found = []
    try:
        for threads in (1, 4):
            SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            found.append(register(fixed, moving).matrix)
    finally:
        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(usual)
    np.testing.assert_array_equal(*found)


def test_noise_does_not_fit_and_what_cannot_be_registered_is_said(monkeypatch):
    monkeypatch.setattr(registration, "SAMPLES", 8_000)
    affine, shape = grid(spacing=(8.0, 8.0, 8.0))
    fixed = Volume(head(affine, shape), affine)
    noise = np.random.default_rng(0).random(shape, np.float32)
    assert register(fixed, Volume(noise, affine)).sharpness < 1.1
    with pytest.raises(InputError, match="7 everywhere cannot be registered"):
        register(fixed, Volume(np.full(shape, 7, np.float32), affine))
    with pytest.raises(InputError, match=r"19 x 23 x 1 voxels cannot .* at least 4 along each axis"):
        register(Volume(fixed.values[:, :, :1], affine), fixed)


def test_resampled_is_linear_and_knows_what_it_covers():
    """A linear function of the place is itself after linear interpolation; coverage by asking each voxel."""
    affine, shape = grid("SLP", (3.0, 2.0, 4.0), (20, -25, 30), (20.0, 26.0, 24.0))
    other, size = grid("RAS", (2.5, 2.5, 2.5), (0, 10, 0), (24.0, 24.0, 18.0))
    matrix = moved(shift=(2.0, 1.0, -3.0), degrees=8)

    def slope(points):
        return points @ [1.0, -2.0, 3.0] + 40

    voxels = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), axis=-1)
    moving = Volume(slope(nib.affines.apply_affine(other, voxels)).astype(np.float32), other)
    values, covered = resampled(moving, shape, affine, matrix)
    inner = 0
    for voxel in itertools.product(*map(range, shape)):
        point = nib.affines.apply_affine(matrix @ affine, voxel)
        place = nib.affines.apply_affine(np.linalg.inv(other), point)
        inside = all(-0.5 <= p <= n - 0.5 for p, n in zip(place, size, strict=True))
        assert covered[voxel] == inside
        if not inside:
            assert values[voxel] == 0
        elif all(0 <= p <= n - 1 for p, n in zip(place, size, strict=True)):
            assert values[voxel] == pytest.approx(slope(point), abs=1e-2)
            inner += 1
    assert inner > 50 and 0.1 < covered.mean() < 0.9


def test_similarity_agrees_with_scikit_learn():
    """Its mean of the two entropies is the arithmetic one: NMI' = 2 (1 - 1 / NMI), where ours is NMI - 1."""
    affine, shape = grid(spacing=(5.0, 5.0, 5.0))
    a, b = head(affine, shape), head(affine, shape, contrast="t1", seed=3)
    mask = head_of(Volume(a, affine))
    ours, covered = similarity_of(Volume(a, affine), Volume(b, affine), mask, np.eye(4))
    edges = [np.histogram_bin_edges(v[mask], 32) for v in (a, b)]
    binned = [np.clip(np.digitize(v[mask], e[1:-1]), 0, 31) for v, e in zip((a, b), edges, strict=True)]
    assert normalized_mutual_info_score(*binned) == pytest.approx(2 * (1 - 1 / (1 + ours)), abs=1e-3)
    assert covered == 1


def test_the_head_is_found_on_a_background_of_noise_of_zeros_and_of_a_number_below():
    affine, shape = grid()
    scan = head(affine, shape)
    x = (np.einsum("ij,jhwd->ihwd", affine[:3, :3], np.indices(shape)).T + affine[:3, 3] - CENTRE).T
    true = (x[0] / 62) ** 2 + (x[1] / 78) ** 2 + (x[2] / 60) ** 2 <= 1
    for values in (scan, np.where(true, scan, 0), np.where(true, scan / 300 - 2, -3)):
        found = head_of(Volume(values.astype(np.float32), affine))
        assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.97
