"""The grid of patches against MONAI's positions and against loops over patches."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from monai.data.utils import dense_patch_slices

from medanomaly.errors import ConfigError
from medanomaly.patches import PatchGrid
from medanomaly.patches.grid import pad_to_window, slice_axis_first

# (volume, window, stride)
GRIDS = [
    ((5, 17, 23), (1, 8, 8), (1, 4, 4)),
    ((3, 16, 16), (1, 16, 16), (1, 4, 4)),  # one patch a slice
    ((13, 11, 10), (4, 4, 4), (3, 3, 3)),
    ((9, 9, 9), (4, 4, 4), (1, 1, 1)),
    ((7, 8, 9), (3, 3, 3), (3, 3, 3)),  # no overlap
    ((11, 12, 13), (2, 2, 2), (5, 5, 5)),  # gaps between patches
    ((6, 7, 8), (1, 1, 1), (2, 2, 2)),
]


@pytest.fixture(params=GRIDS, ids=str)
def grid(request):
    return PatchGrid(*request.param)


def slices(grid):
    """The windows of a grid in the order of its flat positions: every stride-th voxel, then snapped to the border."""
    axes = [
        [slice(start, start + w) for start in [*range(0, size - w, step), size - w]]
        for size, w, step in zip(grid.image_size, grid.window, grid.stride, strict=True)
    ]
    return list(product(*axes))


def odd_mask(shape, share=0.02, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def test_positions(grid):
    starts = torch.cartesian_prod(*grid.starts).tolist()
    assert starts == [[axis.start for axis in where] for where in slices(grid)]
    assert len(grid) == len(starts) == torch.Size(grid.shape).numel()


@pytest.mark.parametrize("arguments", [g for g in GRIDS if g[2][2] <= g[1][2]], ids=str)  # MONAI knows no gaps
def test_positions_are_those_of_monai(arguments):
    assert slices(PatchGrid(*arguments)) == dense_patch_slices(*arguments)


@pytest.mark.parametrize("share", [0.0, 0.002, 0.5, 1.0])
@pytest.mark.parametrize("min_fraction", [0.0, 0.3, 1.0])
def test_touching_equals_a_count_in_each_window(grid, share, min_fraction):
    mask = odd_mask(grid.image_size, share)
    counts = torch.tensor([int(mask[where].sum()) for where in slices(grid)])
    window_size = torch.Size(grid.window).numel()
    expected = (counts > 0) & (counts >= min_fraction * window_size)
    assert torch.equal(grid.touching(mask, min_fraction).flatten(), expected)


def test_gather_equals_slicing(grid):
    volume = torch.rand((2, *grid.image_size))
    index = torch.randperm(len(grid))[:50]
    expected = torch.stack([volume[(slice(None), *slices(grid)[n])] for n in index])
    assert torch.equal(grid.gather(volume, index), expected)


def test_voxels_are_the_numbers_of_the_voxels_in_each_window(grid):
    numbers = torch.arange(torch.Size(grid.image_size).numel()).view(grid.image_size)
    index = torch.randperm(len(grid))[:50]
    expected = torch.stack([numbers[slices(grid)[n]].flatten() for n in index])
    assert torch.equal(grid.voxels(index), expected)


def test_sum_of_covering_equals_a_loop_over_patches(grid):
    scores = torch.randn(grid.shape)
    expected = torch.zeros(grid.image_size, dtype=torch.float64)
    for where, score in zip(slices(grid), scores.flatten(), strict=True):
        expected[where] += score.double()
    assert torch.allclose(grid.sum_of_covering(scores), expected, rtol=0, atol=1e-12)


def test_the_last_patch_snaps_to_the_border():
    assert [axis.tolist() for axis in PatchGrid((3, 16, 19), (1, 16, 8), (1, 4, 4)).starts] == [
        [0, 1, 2],
        [0],
        [0, 4, 8, 11],
    ]


@pytest.mark.parametrize("max_voxels", [1, 300, 10**6])
def test_slabs_hold_each_patch_once_with_all_its_voxels(grid, max_voxels):
    volume = torch.rand((2, *grid.image_size))
    patches, end = [], 0
    for rows, slab in grid.slabs(max_voxels):
        assert slab.image_size == (rows.stop - rows.start, *grid.image_size[1:])
        assert rows.stop - rows.start == grid.window[0] or slab.image_size[0] * prod(grid.image_size[1:]) <= max_voxels
        patches.append(slab.gather(volume[:, rows], torch.arange(len(slab))))
        end = rows.stop
    assert end == grid.image_size[0]
    assert torch.equal(torch.cat(patches), grid.gather(volume, torch.arange(len(grid))))


@pytest.mark.parametrize("size", [(15, 16, 16), (16, 15, 16), (16, 16, 15)])
def test_a_volume_smaller_than_the_window_is_refused(size):
    with pytest.raises(ConfigError, match=r"holds no patch of \(16, 16, 16\)"):
        PatchGrid(size, (16, 16, 16), (4, 4, 4))


@pytest.mark.parametrize(
    ("plane", "cut"),
    [
        ("sagittal", lambda volume, n: volume[:, n]),
        ("coronal", lambda volume, n: volume[:, :, n]),
        ("axial", lambda volume, n: volume[:, :, :, n]),
    ],
)
def test_slices_of_a_plane(plane, cut):
    volume = torch.rand(2, 4, 5, 6)
    turned = slice_axis_first(volume, plane)
    for n in range(turned.shape[1]):
        assert torch.equal(turned[:, n], cut(volume, n))


def test_padding_centres_a_small_volume():
    volume = torch.rand(2, 3, 9, 4)
    padded = pad_to_window(volume, (1, 8, 8))
    assert padded.shape == (2, 3, 9, 8)
    assert torch.equal(padded[..., 2:6], volume) and padded.sum() == pytest.approx(float(volume.sum()), rel=1e-5)
    assert pad_to_window(padded, (1, 8, 8)) is padded
