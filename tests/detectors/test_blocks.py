"""Layers that are computed in a faster form against those of torch, and the parts that detectors share by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.detectors.blocks import (
    ConvTransposeToImage,
    dcgan_decoder,
    dcgan_head,
    foreground,
    jittered,
    signed_residual,
    smooth_noise,
    unet,
)
from medanomaly.errors import ConfigError


@pytest.mark.parametrize("out_channels", [1, 3])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_conv_transpose_to_image_equals_torch(out_channels, layout):
    torch.manual_seed(0)
    fast, slow = ConvTransposeToImage(6, out_channels), nn.ConvTranspose2d(6, out_channels, 4, stride=2, padding=1)
    slow.load_state_dict(fast.state_dict())
    x = torch.randn(3, 6, 5, 7).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn(3, out_channels, 10, 14)
    results = []
    for layer in (fast, slow):
        y = layer(x)
        results.append([y, *torch.autograd.grad(y, [x, layer.weight, layer.bias], upstream)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("spatial_dims", [2, 3])
@torch.no_grad()
def test_head_and_first_step_of_the_decoder_are_dcgans_convolutions(spatial_dims):
    torch.manual_seed(0)
    conv, transposed = (nn.Conv2d, nn.ConvTranspose2d) if spatial_dims == 2 else (nn.Conv3d, nn.ConvTranspose3d)
    cube = (4,) * spatial_dims

    head = dcgan_head(16, spatial_dims, features=3, out_channels=5)
    as_conv = conv(6, 5, kernel_size=4, bias=False)
    as_conv.weight.copy_(head[-1].weight.view(5, *cube, 6).movedim(-1, 1))
    x = torch.randn(2, 6, *cube)
    assert torch.allclose(head(x), as_conv(x).flatten(1), rtol=0, atol=1e-5)

    first = dcgan_decoder(1, 16, spatial_dims, features=3, latent_dim=5)[:2]
    as_transposed = transposed(5, 6, kernel_size=4, bias=False)
    as_transposed.weight.copy_(first[0].weight.t().reshape(5, *cube, 6).movedim(-1, 1))
    z = torch.randn(2, 5)
    assert torch.allclose(first(z), as_transposed(z.view(2, 5, *[1] * spatial_dims)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "spatial_dims"), [(16, 2), (48, 2), (16, 3)])
@torch.no_grad()
def test_unet_gives_an_image_of_the_same_size(size, spatial_dims):
    network = unet(2, 3, size, spatial_dims, features=8)
    assert network(torch.rand(1, 2, *[size] * spatial_dims)).shape == (1, 3) + (size,) * spatial_dims
    widths = {m.num_channels for m in network.modules() if isinstance(m, nn.GroupNorm)}
    assert widths == {8, 16, 32, 64}


@pytest.mark.parametrize(
    ("patch_size", "features", "message"),
    [
        (24, 8, "patch_size is 24, but a U-Net with four halvings needs a multiple of 16"),
        (16, 12, "features is 12, but group norm with 8 groups needs a multiple of 8"),
        (16, 0, "features is 0"),
    ],
)
def test_a_unet_that_cannot_be_built_is_refused(patch_size, features, message):
    with pytest.raises(ConfigError, match=message):
        unet(1, 1, patch_size, 2, features)


def test_foreground_is_what_is_not_0_in_some_channel():
    patches = torch.tensor([[[[0.0, 1.0, 0.0, -2.0]], [[0.0, 0.0, 3.0, 1.0]]]])
    assert foreground(patches).tolist() == [[[[False, True, True, True]]]]


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


def test_a_residual_has_a_bright_and_a_dark_part():
    residual = torch.tensor([3.0, -2.0, 0.0, 1.0, 5.0, -6.0]).view(1, 2, 1, 3)  # the second channel: 1, 5, -6
    parts = {sign: signed_residual(residual, sign).flatten().tolist() for sign in ("both", "bright", "dark")}
    assert parts == {"both": [2.0, 3.5, 3.0], "bright": [3.0, 0.0, 0.0], "dark": [0.0, 2.0, 0.0]}
    assert signed_residual(torch.rand(2, 3, 4, 4, 4), "bright").shape == (2, 1, 4, 4, 4)
