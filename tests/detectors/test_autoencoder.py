"""The autoencoders of Baur et al.: layers and codes, the loss by hand, and what the score is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from medanomaly.detectors import Autoencoder
from medanomaly.errors import ConfigError


def make(kind="spatial", seed=0, **arguments):
    torch.manual_seed(seed)
    return Autoencoder(**{"kind": kind, "patch_size": 16, "features": 4, "latent_dim": 6, **arguments})


def noise(n=5, channels=1, size=16, spatial_dims=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 + torch.rand((n, channels) + (size,) * spatial_dims, generator=generator)


def convolutions(part):
    return [
        (layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0])
        for layer in part.modules()
        if isinstance(layer, _ConvNd | _ConvTransposeNd)
    ]


def test_layers_of_128_voxels_are_those_of_the_paper():
    spatial, dense = (Autoencoder(patch_size=128, kind=kind) for kind in ("spatial", "dense"))
    for detector in (spatial, dense):
        assert convolutions(detector.encoder) == [(1, 32, 5, 2), (32, 64, 5, 2), (64, 128, 5, 2), (128, 128, 5, 2)]
        assert convolutions(detector.decoder) == [
            (128, 128, 5, 2),
            (128, 64, 5, 2),
            (64, 32, 5, 2),
            (32, 32, 5, 2),
            (32, 1, 1, 1),
        ]
        assert next(detector.stages()).optimizers["autoencoder"].defaults["lr"] == 1e-4
    assert not list(spatial.bottleneck.parameters())
    assert convolutions(dense.bottleneck) == [(128, 16, 1, 1), (16, 128, 1, 1)]
    linear = [(m.in_features, m.out_features) for m in dense.bottleneck if isinstance(m, nn.Linear)]
    assert linear == [(8 * 8 * 16, 128), (128, 8 * 8 * 16)]
    assert [m.p for m in dense.modules() if isinstance(m, nn.Dropout)] == [0.2, 0.2]
    assert spatial.eval().encoder(noise(2, size=128)).shape == (2, 128, 8, 8)


@pytest.mark.parametrize("kind", ["spatial", "dense"])
@pytest.mark.parametrize(
    ("size", "spatial_dims", "side", "width"),
    [(16, 2, 4, 8), (32, 2, 4, 16), (48, 2, 6, 16), (64, 2, 4, 16), (16, 3, 4, 8)],
)
@torch.no_grad()
def test_shapes(kind, size, spatial_dims, side, width):
    detector = make(kind, in_channels=2, patch_size=size, spatial_dims=spatial_dims).eval()
    patches = noise(2, 2, size, spatial_dims)
    channels = 6 if kind == "spatial" else width
    assert detector.encoder(patches).shape == (2, channels) + (side,) * spatial_dims
    assert detector.reconstruct(patches).shape == patches.shape
    assert detector(patches).shape == (2, 1) + (size,) * spatial_dims


@torch.no_grad()
def test_a_dense_code_has_so_many_numbers_and_no_more():
    detector = make("dense", latent_dim=3).eval()
    reconstructions = detector.reconstruct(noise(200)).flatten(1)
    codes = detector.bottleneck[:3](detector.encoder(noise(200)))
    assert codes.shape == (200, 3)
    same_code = detector.decoder(detector.bottleneck[3:](codes))
    assert torch.allclose(same_code.flatten(1), reconstructions, atol=1e-5)


@pytest.mark.parametrize("kind", ["spatial", "dense"])
@torch.no_grad()
def test_the_loss_is_the_mean_absolute_error(kind):
    detector, batch = make(kind).eval(), noise()
    expected = (detector.reconstruct(batch) - batch).abs().mean()
    assert float(detector.validation_loss(batch)) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("kind", ["spatial", "dense"])
def test_a_step_lowers_the_loss_by_its_gradient(kind):
    """One step of Adam: each weight moves by the learning rate against the sign of the gradient."""
    detector, batch = make(kind, dropout=0.0, learning_rate=1e-3).train(), noise()
    before = {name: p.detach().clone() for name, p in detector.named_parameters()}
    loss = (detector.decoder(detector.bottleneck(detector.encoder(batch))) - batch).abs().mean()
    gradients = dict(zip(before, torch.autograd.grad(loss, list(detector.parameters())), strict=True))
    losses = detector.training_step(batch, next(detector.stages()))
    assert float(losses["reconstruction"]) == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, p in detector.named_parameters():
        clear = gradients[name].abs() > 1e-5
        assert torch.allclose((p.detach() - before[name])[clear], -1e-3 * gradients[name][clear].sign(), rtol=1e-2), (
            name
        )


def test_jitter_changes_what_is_trained_on_and_not_what_is_validated():
    batch = noise()
    plain, jittery = (make(dropout=0.0, jitter=std).train() for std in (0.0, 0.5))
    losses = [
        float(detector.training_step(batch, next(detector.stages()))["reconstruction"]) for detector in (plain, jittery)
    ]
    assert losses[0] != losses[1]
    assert make(jitter=0.5).eval().validation_loss(batch) == make(jitter=0.0).eval().validation_loss(batch)


@torch.no_grad()
def test_scores_are_residuals_by_sign_and_0_outside_the_foreground():
    patches = noise(channels=2)
    patches[..., :4, :] = 0  # outside the brain
    by_sign = {sign: make(in_channels=2, sign=sign).eval()(patches) for sign in ("both", "bright", "dark")}
    residual = patches - make(in_channels=2).eval().reconstruct(patches)
    residual[..., :4, :] = 0
    assert torch.equal(by_sign["both"], residual.abs().mean(dim=1, keepdim=True))
    assert torch.equal(by_sign["bright"], residual[:, :1].clamp(min=0))
    assert torch.equal(by_sign["bright"] - by_sign["dark"], residual[:, :1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "variational"}, "kind is 'variational': use one of spatial, dense"),
        ({"patch_size": 24}, "patch_size is 24, but this network needs a multiple of 16"),
        ({"patch_size": 0}, "patch_size is 0"),
        ({"features": 1}, "features is 1"),
        ({"sign": "up"}, "sign is 'up': use one of both, bright, dark"),
        ({"spatial_dims": 1}, "spatial_dims is 1"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        Autoencoder(**arguments)
