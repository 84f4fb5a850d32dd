"""The U-Net: shapes, widths, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.errors import ConfigError
from medanomaly.networks.unet import unet


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
