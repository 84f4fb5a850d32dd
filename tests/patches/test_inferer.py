"""The heatmap against a loop over patches in the volume's own axes, and against MONAI's sliding windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import sliding_window_inference
from torch import nn

from medanomaly.detectors import GANomaly
from medanomaly.errors import InputError
from medanomaly.patches import PatchScoreInferer, PatchSpec, inferer
from tests.patches.heatmap_by_loop import AXES, CLOSE, Scorer, loop_over_patches, made_volume, odd_mask

# (patch_size, stride, spatial_dims, plane, volume)
SETTINGS = [
    (8, 4, 2, "axial", (19, 13, 5)),
    (8, 3, 2, "coronal", (21, 4, 17)),
    (8, 2, 2, "sagittal", (3, 11, 18)),
    (8, 8, 2, "axial", (23, 9, 3)),
    (8, 4, 2, "axial", (5, 17, 3)),  # smaller than a patch
    (8, 4, 2, "sagittal", (2, 7, 5)),
    (6, 2, 3, "axial", (11, 9, 13)),
    (6, 3, 3, "axial", (7, 15, 6)),
    (6, 4, 3, "axial", (5, 9, 4)),  # smaller than a patch
]


def monai_windows(volume, network, patch_size, stride, spatial_dims, plane):
    """The same from ``sliding_window_inference``, which shows every patch of a volume (1, C, H, W, D)."""
    overlap = 1 - stride / patch_size - (1e-9 if stride < patch_size else 0)  # MONAI rounds the step down
    window, overlap = [patch_size] * 3, [overlap] * 3
    thin = 2 + AXES[plane]
    if spatial_dims == 2:
        window[AXES[plane]], overlap[AXES[plane]] = 1, 0.0

    def predictor(patches):
        shown = patches.squeeze(thin) if spatial_dims == 2 else patches
        scores = network(shown)
        if scores.ndim == 2:
            return scores.view(-1, 1, 1, 1, 1).expand(-1, 1, *window).clone()
        return (scores.unsqueeze(thin) if spatial_dims == 2 else scores).clone()

    return sliding_window_inference(volume, window, 7, predictor, overlap=overlap, mode="constant")


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equals_a_loop_over_the_patches_that_touch_the_mask(setting, kind):
    patch_size, stride, spatial_dims, plane, shape = setting
    network = Scorer(kind, patch_size, spatial_dims)
    volume, mask = made_volume(shape), odd_mask(shape)
    expected = loop_over_patches(volume[0], mask, network, patch_size, stride, spatial_dims, plane)
    visited, network.batches = len(network.batches), []
    heatmap = PatchScoreInferer(PatchSpec(patch_size, spatial_dims, [plane], stride), batch_size=5)(
        volume, network, mask=mask[None, None]
    )
    assert heatmap.shape == (1, 1, *shape) and heatmap.dtype == torch.float32
    assert torch.allclose(heatmap[0, 0], expected, **CLOSE)
    assert sum(network.batches) == visited and max(network.batches) <= 5
    assert not torch.isnan(heatmap[0, 0][mask]).any()


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_equals_monai_sliding_windows_on_a_whole_volume(setting, kind):
    patch_size, stride, spatial_dims, plane, shape = setting
    network = Scorer(kind, patch_size, spatial_dims)
    volume = made_volume(shape)
    expected = monai_windows(volume, network, patch_size, stride, spatial_dims, plane)
    heatmap = PatchScoreInferer(PatchSpec(patch_size, spatial_dims, [plane], stride))(volume, network)
    assert torch.allclose(heatmap, expected, **CLOSE)


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("planes", [("axial", "coronal"), ("sagittal", "axial", "coronal")], ids=str)
def test_planes_are_averaged_where_they_have_a_score(planes, kind):
    shape = (17, 13, 12)
    network, volume, mask = Scorer(kind, 8, 2), made_volume(shape), odd_mask(shape)
    each = torch.stack([loop_over_patches(volume[0], mask, network, 8, 4, 2, plane) for plane in planes])
    scored = ~torch.isnan(each)
    expected = torch.nan_to_num(each).sum(0) / scored.sum(0)  # 0 / 0 is NaN
    assert (scored.any(0) & ~scored.all(0)).any()  # some voxels are reached in one plane only
    heatmap = PatchScoreInferer(PatchSpec(8, 2, planes, 4))(volume, network, mask=mask[None, None])
    assert torch.allclose(heatmap[0, 0], expected, **CLOSE)


def test_volumes_of_a_batch_are_scored_each_with_its_own_mask():
    shape = (13, 14, 5)
    volumes = torch.cat([made_volume(shape, seed=1), made_volume(shape, seed=2)])
    masks = torch.stack([odd_mask(shape, seed=1), odd_mask(shape, seed=2).flip(0)])[:, None]
    network = Scorer("patch", 8, 2)
    heatmaps = PatchScoreInferer(PatchSpec(8, stride=4))(volumes, network, mask=masks)
    assert heatmaps.shape == (2, 1, *shape)
    for volume, mask, heatmap in zip(volumes, masks, heatmaps, strict=True):
        expected = loop_over_patches(volume, mask[0], network, 8, 4, 2, "axial")
        assert torch.allclose(heatmap[0], expected, **CLOSE)


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("batch_size", [1, 3, 10_000])
def test_batch_size_changes_nothing(batch_size, kind):
    volume, network = made_volume((13, 14, 5)), Scorer(kind, 8, 2)
    heatmap = PatchScoreInferer(PatchSpec(8, stride=4), batch_size=batch_size)(volume, network)
    assert torch.allclose(heatmap, PatchScoreInferer(PatchSpec(8, stride=4), batch_size=64)(volume, network), **CLOSE)


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_slabs_change_nothing(setting, kind, monkeypatch):
    patch_size, stride, spatial_dims, plane, shape = setting
    network, volume, mask = Scorer(kind, patch_size, spatial_dims), made_volume(shape), odd_mask(shape)[None, None]
    exclude = odd_mask(shape, seed=4)[None, None]
    scorer = PatchScoreInferer(PatchSpec(patch_size, spatial_dims, [plane], stride), batch_size=3)
    whole = scorer(volume, network, mask=mask, exclude=exclude)
    visited, network.batches = sum(network.batches), []
    monkeypatch.setattr(inferer, "SLAB_VOXELS", 1)
    assert torch.allclose(scorer(volume, network, mask=mask, exclude=exclude), whole, **CLOSE)
    assert sum(network.batches) == visited


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_network_can_be_trained_after_it_has_scored(spatial_dims):
    detector = GANomaly(2, 16, spatial_dims, features=4)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    PatchScoreInferer(PatchSpec(16, spatial_dims, stride=8))(made_volume((16, 17, 18)), detector.eval())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    detector.train().training_step(torch.rand(2, 2, *[16] * spatial_dims), next(detector.stages()))


def test_bfloat16_is_close_and_only_when_asked_for():
    seen = []

    class Product(nn.Linear):
        def forward(self, patches):
            result = super().forward(patches.flatten(1))
            seen.append(result.dtype)
            return result

    torch.manual_seed(0)
    network, volume = Product(128, 1), made_volume((13, 14, 5))
    exact, fast = (PatchScoreInferer(PatchSpec(8, stride=4), amp=amp)(volume, network) for amp in (False, True))
    assert seen == [torch.float32, torch.bfloat16]
    assert fast.dtype == torch.float32 and not torch.equal(fast, exact)
    assert torch.allclose(fast, exact, rtol=0, atol=0.02)


def test_compiled_batches_are_all_of_one_size(monkeypatch):
    network, volume = Scorer("patch", 8, 2), made_volume((13, 14, 5))
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda network, **_: compiled.append(network) or network)
    scorer = PatchScoreInferer(PatchSpec(8, stride=4), batch_size=7, compile=True)
    heatmap = scorer(volume, network)
    assert set(network.batches) == {7} and compiled == [network]
    scorer(volume, network)
    assert compiled == [network]  # once
    assert torch.allclose(heatmap, PatchScoreInferer(PatchSpec(8, stride=4))(volume, network), **CLOSE)


def test_without_a_mask_the_brain_is_where_some_channel_is_not_zero():
    shape = (20, 18, 4)
    volume, network = made_volume(shape), Scorer("patch", 8, 2)
    volume[:, 0, 8:] = 0
    volume[:, 1, 4:] = 0
    volume[:, :, :, 9:] = 0
    mask = torch.zeros(1, 1, *shape)
    mask[:, :, :8, :9] = 1
    scorer = PatchScoreInferer(PatchSpec(8, stride=4))
    heatmap = scorer(volume, network)
    assert torch.allclose(heatmap, scorer(volume, network, mask=mask), **CLOSE)
    assert torch.isnan(heatmap).any() and not torch.isnan(heatmap[mask > 0]).any()


def test_an_empty_mask_gives_no_score_and_asks_for_none():
    network = Scorer("patch", 8, 2)
    heatmap = PatchScoreInferer(PatchSpec(8, stride=4))(
        made_volume((9, 9, 3)), network, mask=torch.zeros(1, 1, 9, 9, 3)
    )
    assert torch.isnan(heatmap).all() and network.batches == []


def test_meta_tensors_give_the_same_plain_heatmap():
    volume, mask = made_volume((13, 14, 5)), odd_mask((13, 14, 5))[None, None]
    network, scorer = Scorer("voxel", 8, 2), PatchScoreInferer(PatchSpec(8, stride=4))
    heatmap = scorer(MetaTensor(volume), network, mask=MetaTensor(mask.float()))
    assert type(heatmap) is torch.Tensor
    assert torch.equal(heatmap.nan_to_num(-9), scorer(volume, network, mask=mask).nan_to_num(-9))


def test_further_arguments_reach_the_network():
    def network(patches, scale, shift=0.0):
        return torch.full((len(patches), 1), float(scale + shift))

    heatmap = PatchScoreInferer(PatchSpec(8, stride=4))(made_volume((8, 8, 1)), network, 2, shift=0.5)
    assert torch.equal(heatmap, torch.full((1, 1, 8, 8, 1), 2.5))


@pytest.mark.parametrize(
    ("volume", "mask", "message"),
    [
        (torch.ones(1, 3, 8, 8, 2), None, r"has 3 channel\(s\), but the detector takes 2"),
        (torch.ones(2, 8, 8, 2), None, r"shape \(2, 8, 8, 2\), but \(batch, channel, H, W, D\) is needed"),
        (torch.ones(1, 2, 8, 8, 2), torch.ones(1, 1, 8, 8, 1), r"mask has shape \(1, 1, 8, 8, 1\)"),
        (torch.ones(1, 2, 8, 8, 2), torch.ones(2, 1, 8, 8, 2), r"mask has shape \(2, 1, 8, 8, 2\)"),
        (torch.full((1, 2, 8, 8, 2), torch.nan), None, "not finite"),
        (torch.full((1, 2, 8, 8, 2), torch.inf), None, "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(volume, mask, message):
    with pytest.raises(InputError, match=message):
        PatchScoreInferer(PatchSpec(8, stride=4))(volume, Scorer("patch", 8, 2), mask=mask)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_patches_that_touch_the_excluded_region_are_not_visited(spatial_dims):
    shape, volume = (11, 12, 9), made_volume((11, 12, 9))
    network = Scorer("patch", 4, spatial_dims)
    exclude = torch.zeros(1, 1, *shape)
    exclude[0, 0, 4, 5, 3] = 1
    scorer = PatchScoreInferer(PatchSpec(4, spatial_dims, stride=2))
    heatmap = scorer(volume, network, mask=torch.ones(1, 1, *shape), exclude=exclude)
    poisoned = torch.where(exclude > 0, torch.inf, volume)  # a patch that saw it would give a score that is not finite
    assert torch.equal(
        scorer(poisoned, network, mask=torch.ones(1, 1, *shape), exclude=exclude).isnan(), heatmap.isnan()
    )
    assert heatmap[0, 0, 4, 5, 3].isnan()
    assert heatmap[0, 0, :, :, 8 if spatial_dims == 2 else 7].isfinite().any()


@pytest.mark.parametrize(("batch_size", "sizes"), [(8, [8, 8, 8, 8, 8, 6]), (40, [40, 10])])
def test_the_last_batch_is_filled_to_a_quarter_of_a_full_one(batch_size, sizes):
    network, volume = Scorer("patch", 8, 2), made_volume((16, 16, 5))  # 3 x 3 patches in each of 5 slices
    heatmap = PatchScoreInferer(PatchSpec(8, stride=4), batch_size=batch_size)(volume, network)
    assert network.batches == sizes and sum(sizes) >= 45
    assert torch.allclose(heatmap, PatchScoreInferer(PatchSpec(8, stride=4), batch_size=1)(volume, network), **CLOSE)


@pytest.mark.parametrize(("spatial_dims", "planes"), [(2, ["axial"]), (2, ["coronal", "sagittal"]), (3, ["axial"])])
def test_cropped_it_is_the_box_of_the_region_that_is_scored(spatial_dims, planes):
    volume, mask = made_volume((19, 13, 11)), torch.zeros(1, 1, 19, 13, 11)
    mask[..., 3:12, 2:9, 4:9] = torch.rand(9, 7, 5) > 0.3
    mask[..., 3, 2, 4] = mask[..., 11, 8, 8] = 1
    network = Scorer("voxel", 6, spatial_dims)
    expected = torch.full((1, 1, 19, 13, 11), torch.nan)
    box = (..., slice(3, 12), slice(2, 9), slice(4, 9))
    expected[box] = PatchScoreInferer(PatchSpec(6, spatial_dims, planes, 3))(volume[box], network, mask=mask[box])
    heatmap = PatchScoreInferer(PatchSpec(6, spatial_dims, planes, 3, crop=True))(volume, network, mask=mask)
    torch.testing.assert_close(heatmap, expected, equal_nan=True)
    empty = PatchScoreInferer(PatchSpec(6, crop=True))(volume, network, mask=torch.zeros_like(mask))
    assert empty.isnan().all()


class Signed(Scorer):
    """The scores of a ``Scorer``, times a number for each sign."""

    def forward(self, patches, signs=("both",)):
        scores = super().forward(patches)
        return torch.cat([{"both": 1, "bright": 2, "dark": -3}[sign] * scores for sign in signs], dim=1)


@pytest.mark.parametrize("kind", ["patch", "voxel"])
@pytest.mark.parametrize(
    "spec",
    [
        PatchSpec(6, 2, ["axial", "sagittal"], 2, crop=True, slice_step=2),
        PatchSpec(6, 3, stride=4),
        PatchSpec(16, 2, stride=4),  # larger than the volume
    ],
    ids=str,
)
def test_several_signs_are_scored_in_one_pass(spec, kind):
    shape = (13, 12, 9)
    volumes = torch.cat([made_volume(shape, seed=1), made_volume(shape, seed=2)])
    masks = torch.stack([odd_mask(shape, seed=1), odd_mask(shape, seed=2)])[:, None]
    network = Signed(kind, spec.patch_size, spec.spatial_dims)
    one = PatchScoreInferer(spec)(volumes, network, mask=masks)
    passes, network.batches = list(network.batches), []
    heatmaps = PatchScoreInferer(spec)(volumes, network, mask=masks, signs=("dark", "bright"))
    assert network.batches == passes and heatmaps.shape == (2, 2, *shape)
    torch.testing.assert_close(heatmaps, torch.cat([-3 * one, 2 * one], dim=1), equal_nan=True)


@pytest.mark.parametrize("size", [1, 2, 9, 10, 11])
@pytest.mark.parametrize("step", [2, 3])
def test_slices_between_those_that_are_scored_have_their_linear_mean(size, step):
    network = Scorer("voxel", 6, 2)
    volume = made_volume((8, 7, size))
    whole = PatchScoreInferer(PatchSpec(6, stride=3))(volume, network, mask=torch.ones(1, 1, 8, 7, size))[0, 0]
    found = PatchScoreInferer(PatchSpec(6, stride=3, slice_step=step))(
        volume, network, mask=torch.ones(1, 1, 8, 7, size)
    )[0, 0]
    rows = [*range(0, size - 1, step), size - 1]
    expected = np.stack(
        [[np.interp(range(size), rows, line[rows]) for line in part] for part in whole.numpy().astype(float)]
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_with_slices_between_every_voxel_of_an_odd_region_has_a_score_and_what_is_excluded_none():
    volume, mask = made_volume((12, 11, 13)), torch.zeros(1, 1, 12, 11, 13)
    mask[0, 0, 5, 5, 5] = mask[0, 0, 2, 9, 10] = mask[0, 0, 6, 3, 12] = 1
    network = Scorer("voxel", 4, 2)
    for planes in (["axial"], ["axial", "coronal", "sagittal"]):
        spec = PatchSpec(4, 2, planes, 2, crop=True, slice_step=3)
        heatmap = PatchScoreInferer(spec)(volume, network, mask=mask)
        assert torch.isfinite(heatmap[mask > 0]).all()
        excluded = PatchScoreInferer(spec)(volume, network, mask=mask, exclude=(mask > 0) * torch.ones_like(mask))
        assert torch.isnan(excluded[mask > 0]).all()
