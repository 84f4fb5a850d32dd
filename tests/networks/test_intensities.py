"""What is inside a prepared patch, and its random contrast, by regression on what went in."""

from __future__ import annotations

import pytest
import torch

from medanomaly.networks.intensities import foreground, jittered


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
