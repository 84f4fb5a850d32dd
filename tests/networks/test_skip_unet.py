"""The U-Net with log2(s) halvings: shapes, what the skips carry, what it refuses."""

from __future__ import annotations

import pytest
import torch

from medanomaly.errors import ConfigError
from medanomaly.networks.skip_unet import SkipUNet


@pytest.mark.parametrize(("size", "spatial_dims"), [(4, 2), (8, 2), (128, 2), (8, 3)])
@torch.no_grad()
def test_shapes(size, spatial_dims):
    network = SkipUNet(2, 3, size, spatial_dims, 4).eval()
    assert len(network.down) == {4: 2, 8: 3, 128: 7}[size]
    assert network(torch.rand((1, 2) + (size,) * spatial_dims)).shape == (1, 3) + (size,) * spatial_dims


@torch.no_grad()
def test_without_skips_only_the_bottom_tells_of_the_input():
    network, patches = SkipUNet(1, 1, 8, 2, 4).eval(), torch.rand(3, 1, 8, 8)
    bottom = network.down[-1]
    network.down[-1] = torch.nn.Sequential(bottom, torch.nn.Threshold(1e9, 0.0))
    blind, seeing = network(patches, skips=False), network(patches)
    assert torch.allclose(blind, blind[:1].expand_as(blind)) and not torch.allclose(seeing, seeing[:1])


@pytest.mark.parametrize("size", [2, 24, 0])
def test_other_sizes_than_powers_of_two_are_refused(size):
    with pytest.raises(ConfigError, match=f"patch_size is {size}, but this U-Net needs a power of two"):
        SkipUNet(1, 1, size, 2, 4)
