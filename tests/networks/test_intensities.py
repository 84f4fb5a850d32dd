"""What is inside a prepared patch, and its random contrast, by regression on what went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medanomaly.networks.intensities import biased, foreground, jittered, rescanned


def test_foreground_is_what_is_not_0_in_some_channel():
    patches = torch.tensor([[[[0.0, 1.0, 0.0, -2.0]], [[0.0, 0.0, 3.0, 1.0]]]])
    assert foreground(patches).tolist() == [[[[False, True, True, True]]]]


def test_jittered_patches_are_scaled_and_shifted_by_channel_and_0_stays_0():
    torch.manual_seed(0)
    patches = 0.5 + torch.rand(400, 2, 4, 4)
    patches[..., 0] = 0
    found = jittered(patches, 0.1)
    assert (found[..., 0] == 0).all()
    x, y = patches[..., 1:].flatten(2), found[..., 1:].flatten(2)
    x_mean, y_mean = x.mean(dim=2, keepdim=True), y.mean(dim=2, keepdim=True)
    factor = ((x - x_mean) * (y - y_mean)).sum(dim=2, keepdim=True) / ((x - x_mean) ** 2).sum(dim=2, keepdim=True)
    shift = y_mean - factor * x_mean
    assert torch.allclose(y, factor * x + shift, atol=1e-5)
    assert float(factor.log().std()) == pytest.approx(0.1, rel=0.1) and factor.log().mean().abs() < 0.02
    assert float(shift.std()) == pytest.approx(0.05, rel=0.1) and shift.mean().abs() < 0.01
    assert torch.equal(jittered(patches, 0.0), patches)


def test_gamma_raises_what_is_above_0_to_a_random_power_of_each_channel():
    torch.manual_seed(0)
    patches = 0.5 + torch.rand(400, 2, 4, 4)
    patches[..., 0], patches[..., 1] = 0, -0.3
    found = jittered(patches, 0.0, gamma=0.2)
    assert (found[..., 0] == 0).all() and torch.equal(found[..., 1], patches[..., 1])
    x, y = patches[..., 2:].log().flatten(2), found[..., 2:].log().flatten(2)
    power = (x * y).sum(dim=2, keepdim=True) / (x * x).sum(dim=2, keepdim=True)
    assert torch.allclose(y, power * x, atol=1e-5)
    assert float(power.log().std()) == pytest.approx(0.2, rel=0.1) and power.log().mean().abs() < 0.04


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_rescanned_patches_are_smooth_along_one_axis_half_of_them_and_0_stays_0(spatial_dims):
    torch.manual_seed(0)
    patches = torch.rand(200, 2, *[16] * spatial_dims)
    patches[:, :, :3] = 0
    found = rescanned(patches, 4, 0.0)
    assert (found[:, :, :3] == 0).all()
    changed = [not torch.equal(a, b) for a, b in zip(found, patches, strict=True)]
    assert 70 < sum(changed) < 130
    for before, after, is_changed in zip(patches, found, changed, strict=True):
        ratios = [
            float(after[:, 3:].diff(dim=1 + n).std() / before[:, 3:].diff(dim=1 + n).std()) for n in range(spatial_dims)
        ]
        if is_changed:  # one axis is much smoother, and the others by the mean of voxels that are not alike
            smooth, *others = sorted(ratios)
            assert smooth < 0.45 and all(smooth < 0.75 * other for other in others)
    assert torch.equal(rescanned(patches, 1, 0.0), patches)


def test_rescanning_changes_no_level_and_averages_whole_slices():
    torch.manual_seed(0)
    level = torch.full((20, 1, 16, 16), 0.7)
    level[:, :, :, 10:] = 0
    assert torch.allclose(rescanned(level, 5, 0.0), level)
    ramp = torch.arange(1.0, 17)[:, None].expand(16, 16).repeat(40, 1, 1, 1)
    within = (rescanned(ramp, 4, 0.0) - ramp)[:, :, 6:10]
    assert within.abs().max() < 1e-5, "linear resampling of means of a ramp is the ramp, in place"


def test_noise_of_rescanned_patches_has_a_strength_of_its_own_in_each():
    torch.manual_seed(0)
    patches = torch.ones(400, 1, 16, 16)
    std = (rescanned(patches, 1, 0.2) - patches).flatten(1).std(dim=1)
    assert float(std.mean()) == pytest.approx(0.1, rel=0.1) and std.min() < 0.02 and 0.17 < std.max() < 0.23


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_field_of_a_coil_is_smooth_of_its_own_in_each_channel_and_as_strong_as_asked_for(spatial_dims):
    torch.manual_seed(0)
    patches = torch.ones(100, 2, *[16] * spatial_dims)
    patches[:, :, :2] = 0
    found = biased(patches, 0.1)
    assert (found[:, :, :2] == 0).all() and torch.equal(biased(patches, 0.0), patches)
    field = found[:, :, 2:].log()
    assert float(field.std()) == pytest.approx(0.1 * 0.65, rel=0.3), "at nodes 0.1, between them less"
    assert float(field.diff(dim=-1).abs().max()) < 0.15 and float(field.diff(dim=-1).std()) < 0.4 * float(field.std())
    assert abs(float(np.corrcoef(field[:, 0].flatten(), field[:, 1].flatten())[0, 1])) < 0.1
