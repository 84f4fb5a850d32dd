"""DCGAN's layers, some of which are computed in a faster form, against those of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.networks.dcgan import ConvTransposeToImage, dcgan_decoder, dcgan_head


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
