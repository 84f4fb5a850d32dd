"""Heatmaps of slices: neighbours as channels, whole slices and images as patches, and volumes of one slice."""

from __future__ import annotations

import pytest
import torch

from medanomaly.errors import InputError
from medanomaly.patches import PatchScoreInferer, PatchSpec, inferer
from tests.patches.heatmap_by_loop import AXES, CLOSE, Scorer, loop_over_patches, made_volume, odd_mask


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("slab_voxels", [1, 300, 2**18])
@pytest.mark.parametrize("planes", [("axial",), ("coronal",), ("sagittal",), ("axial", "coronal", "sagittal")], ids=str)
@pytest.mark.parametrize("slices", [3, 7])
def test_neighbouring_slices_equal_a_loop_over_stacks(slices, planes, slab_voxels, kind, monkeypatch):
    monkeypatch.setattr(inferer, "SLAB_VOXELS", slab_voxels)
    shape = (11, 9, 5)  # fewer slices than 7 along one axis, and smaller than a patch
    network, volume, mask = Scorer(kind, 6, 2, 2 * slices), made_volume(shape), odd_mask(shape)
    exclude = torch.zeros(shape, dtype=torch.bool)
    exclude[1, 2, 1] = exclude[9, 7, 4] = True
    each = torch.stack(
        [loop_over_patches(volume[0], mask, network, 6, 4, 2, plane, slices, exclude) for plane in planes]
    )
    expected = torch.nan_to_num(each).sum(0) / (~torch.isnan(each)).sum(0)
    visited, network.batches = len(network.batches), []
    heatmap = PatchScoreInferer(PatchSpec(6, 2, planes, 4, slices), batch_size=5)(
        volume, network, mask=mask[None, None], exclude=exclude[None, None]
    )
    assert torch.allclose(heatmap[0, 0], expected, **CLOSE)
    assert sum(network.batches) == visited
    assert heatmap.isnan().any() and heatmap.isfinite().any()


def test_channels_come_slice_by_slice_and_beyond_the_border_are_zeros():
    volume, seen = torch.arange(4.0).view(1, 2, 1, 1, 2).expand(1, 2, 4, 4, 2) + 1, []  # channel 0: 1, 2; 1: 3, 4
    spec = PatchSpec(4, slices=3)
    PatchScoreInferer(spec, batch_size=1)(volume, lambda patches: seen.append(patches) or patches[:, :1, 0, 0])
    assert [patch[0, :, 0, 0].tolist() for patch in seen] == [[0, 0, 1, 3, 2, 4], [1, 3, 2, 4, 0, 0]]


def test_channels_and_slices_are_counted_together():
    scorer = PatchScoreInferer(PatchSpec(8, stride=4, slices=3))
    with pytest.raises(InputError, match=r"has 3 channel\(s\), 9 in patches of 3 slices, but the detector takes 2"):
        scorer(torch.ones(1, 3, 8, 8, 2), Scorer("patch", 8, 2))


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize(
    ("patch_size", "spatial_dims", "plane", "shape", "slices"),
    [
        (16, 2, "axial", (16, 16, 1), 1),  # an image as large as the patch
        (16, 2, "axial", (13, 10, 1), 1),
        (16, 2, "axial", (13, 10, 1), 3),  # an image has no neighbours: zeros
        (16, 2, "coronal", (13, 3, 10), 3),
        (12, 3, "axial", (7, 11, 1), 1),
        (9, 3, "axial", (9, 8, 7), 1),
    ],
    ids=str,
)
def test_whole_slices_and_images_are_patches(patch_size, spatial_dims, plane, shape, slices, kind):
    network, volume = Scorer(kind, patch_size, spatial_dims, 2 * slices), made_volume(shape)
    mask = odd_mask(shape)
    mask[shape[0] // 2, shape[1] // 2] = True
    expected = loop_over_patches(volume[0], mask, network, patch_size, patch_size, spatial_dims, plane, slices)
    network.batches = []
    spec = PatchSpec(patch_size, spatial_dims, plane, patch_size, slices)
    heatmap = PatchScoreInferer(spec, batch_size=1)(volume, network, mask=mask[None, None])
    assert torch.allclose(heatmap[0, 0], expected, **CLOSE)
    assert len(network.batches) == (shape[AXES[plane]] if spatial_dims == 2 else 1)


def test_a_thin_volume_is_not_padded_along_its_normal(monkeypatch):
    seen, whole = [], inferer.PatchGrid
    monkeypatch.setattr(inferer, "PatchGrid", lambda size, *args: seen.append(tuple(size)) or whole(size, *args))
    PatchScoreInferer(PatchSpec(64, stride=64))(torch.ones(1, 1, 60, 64, 1), lambda patches: patches[:, :1, 0, 0])
    assert seen == [(1, 64, 64)]
