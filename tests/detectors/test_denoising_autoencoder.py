"""The denoising autoencoder: where its noise lies, the loss by hand, and what the score is made of."""

from __future__ import annotations

import pytest
import torch

from medanomaly.detectors import DenoisingAutoencoder
from medanomaly.errors import ConfigError
from medanomaly.networks.noise import smooth_noise


def make(seed=0, **arguments):
    torch.manual_seed(seed)
    return DenoisingAutoencoder(**{"patch_size": 16, "features": 8, "jitter": 0.0, "gamma": 0.0, **arguments})


def noise(n=5, channels=1, size=16, spatial_dims=2, seed=0):
    """Patches whose first rows lie outside the brain."""
    generator = torch.Generator().manual_seed(seed)
    patches = 0.1 + torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)
    patches[:, :, :4] = 0
    return patches


def inputs_of_a_step(detector, batch, monkeypatch):
    """What the network is shown in a step of training."""
    seen = []
    forward = detector.network.forward
    monkeypatch.setattr(detector.network, "forward", lambda x: seen.append(x.detach().clone()) or forward(x))
    detector.train().training_step(batch, next(detector.stages()))
    return seen[0]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_noise_is_0_outside_the_foreground(spatial_dims, monkeypatch):
    batch = noise(5, 2, 16, spatial_dims)
    shown = inputs_of_a_step(make(in_channels=2, spatial_dims=spatial_dims), batch, monkeypatch)
    assert (shown[:, :, :4] == 0).all()
    assert (shown[:, :, 4:] != batch[:, :, 4:]).all()


def test_noise_has_the_strength_and_the_coarseness_that_were_asked_for(monkeypatch):
    batch = torch.full((200, 1, 64, 64), 5.0)
    added = inputs_of_a_step(make(patch_size=64, noise_std=0.2, noise_voxels=8), batch, monkeypatch) - 5
    assert added.mean().abs() < 0.01
    assert 0.2 * 0.5 < added.std() < 0.2  # linear enlarging makes it smaller
    neighbours, far = ((added * added.roll(shift, dims=3)).mean() / added.var() for shift in (1, 32))
    assert neighbours > 0.9 and far.abs() < 0.1


@torch.no_grad()
def test_the_network_must_give_back_the_clean_patch_where_there_is_tissue():
    detector, batch = make(in_channels=2).eval(), noise(channels=2)
    found = detector.validation_loss(batch)
    torch.manual_seed(0)
    inside = torch.zeros_like(batch[:, :1])
    inside[:, :, 4:] = 1
    restored = detector.network(batch + 0.2 * smooth_noise(batch, 2) * inside)
    squares = (restored - batch)[:, :, 4:].double() ** 2
    assert float(found) == pytest.approx(float(squares.mean()), rel=1e-4)
    assert detector.validation_loss(torch.zeros_like(batch)) == 0  # a patch without tissue asks for nothing


def test_validation_draws_the_same_noise_and_leaves_the_random_numbers_alone():
    detector, batch = make().eval(), noise()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = detector.validation_loss(batch)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    assert detector.validation_loss(batch) == first


@torch.no_grad()
def test_scoring_adds_no_noise():
    detector, patches = make(jitter=0.3).eval(), noise()
    torch.manual_seed(1)
    first = detector(patches)
    torch.manual_seed(2)
    assert torch.equal(detector(patches), first)
    assert torch.equal(first, ((patches - detector.network(patches)) * (patches != 0)).abs())


@torch.no_grad()
def test_scores_are_residuals_by_sign_and_0_outside_the_foreground():
    patches = noise(channels=2)
    by_sign = {sign: make(in_channels=2, sign=sign).eval()(patches) for sign in ("both", "bright", "dark")}
    residual = patches - make(in_channels=2).eval().reconstruct(patches)
    residual[:, :, :4] = 0
    assert torch.equal(by_sign["both"], residual.abs().mean(dim=1, keepdim=True))
    assert torch.equal(by_sign["bright"], residual[:, :1].clamp(min=0))
    assert torch.equal(by_sign["bright"] - by_sign["dark"], residual[:, :1])


@pytest.mark.parametrize(("size", "spatial_dims"), [(16, 2), (32, 2), (48, 2), (64, 2), (16, 3)])
@torch.no_grad()
def test_shapes(size, spatial_dims):
    detector = make(in_channels=2, patch_size=size, spatial_dims=spatial_dims).eval()
    patches = noise(2, 2, size, spatial_dims)
    assert detector.reconstruct(patches).shape == patches.shape
    assert detector(patches).shape == (2, 1) + (size,) * spatial_dims


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 24}, "patch_size is 24, but a U-Net with four halvings needs a multiple of 16"),
        ({"features": 4}, "features is 4, but group norm with 8 groups needs a multiple of 8"),
        ({"sign": "up"}, "sign is 'up': use one of both, bright, dark"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        DenoisingAutoencoder(**arguments)
