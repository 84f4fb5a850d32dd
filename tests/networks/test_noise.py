"""Smooth noise, by its grid."""

from __future__ import annotations

import pytest
import torch

from medanomaly.networks.noise import noise_of_any_grain, smooth_noise


@pytest.mark.parametrize("shape", [(3, 2, 32, 32), (3, 2, 16, 16, 16)])
def test_smooth_noise_differs_by_patch_and_channel_and_is_smooth(shape):
    torch.manual_seed(0)
    noise = smooth_noise(torch.zeros(shape), n_cells=4)
    assert noise.shape == shape
    assert len({float(part.mean()) for patch in noise for part in patch}) == 6
    size = shape[2]
    steps = (noise - noise.roll(1, dims=2)).abs().amax(dim=(1, *range(3, noise.ndim)))  # one for each patch and row
    # a cell is size / 4 voxels: no step but that of the seam, where the roll joins two borders, is large
    assert (steps.sort(dim=1).values[:, : size - 1] <= 4 * (noise.amax() - noise.amin()) / size).all()


def test_smooth_noise_of_one_cell_is_constant():
    noise = smooth_noise(torch.zeros(2, 1, 8, 8), n_cells=1)
    assert torch.allclose(noise, noise[..., :1, :1].expand_as(noise))


def test_smooth_noise_is_that_of_its_grid_rolled():
    torch.manual_seed(0)
    noise = smooth_noise(torch.zeros(1, 1, 8, 8), n_cells=8)  # as many cells as voxels: nothing to enlarge
    torch.manual_seed(0)
    grid = torch.randn(1, 1, 8, 8)
    assert torch.allclose(noise.flatten().sort().values, grid.flatten().sort().values)
    rolled = [grid.roll((i, j), dims=(2, 3)) for i in range(8) for j in range(8)]
    assert sum(torch.allclose(noise, candidate) for candidate in rolled) == 1


def test_noise_of_any_grain_is_white_or_blots_and_of_any_strength():
    patches = torch.zeros(200, 2, 16, 16)
    smooth = []
    for seed in range(20):
        torch.manual_seed(seed)
        noise = noise_of_any_grain(patches, 0.5)
        strength = noise.flatten(1).std(dim=1)
        assert noise.shape == patches.shape and strength.min() < 0.02 and 0.2 < strength.max() < 0.9
        a, b = (noise[:, :, rows].flatten() for rows in (slice(0, 15), slice(1, 16)))
        smooth.append(float(torch.corrcoef(torch.stack([a, b]))[0, 1]))
    assert min(smooth) < 0.1 and max(smooth) > 0.8 and len({round(value, 1) for value in smooth}) >= 3


def test_noise_of_any_grain_in_3d():
    torch.manual_seed(0)
    assert noise_of_any_grain(torch.zeros(2, 1, 8, 8, 8), 1.0).std() > 0
