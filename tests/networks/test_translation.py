"""Networks that translate images: their shapes, that they treat each image alone, and the way to tanh."""

from __future__ import annotations

import pytest
import torch
from monai.networks.layers.factories import Conv
from torch import nn

from medanomaly.errors import ConfigError
from medanomaly.networks.translation import ToTanh, part_critic, translator, translator_depth


def convolutions(network, stride, kernel, kind=nn.modules.conv._ConvNd):
    found = [m for m in network.modules() if isinstance(m, kind)]
    return [m for m in found if m.stride[0] == stride and m.kernel_size[0] == kernel]


# patch size, dimensions: halvings, residual blocks, halvings of the critic, channels of its last
SHAPES = [(16, 2, 1, 2, 2, 8), (32, 2, 1, 4, 3, 16), (64, 2, 2, 6, 4, 32), (16, 3, 1, 2, 2, 8), (32, 3, 1, 4, 3, 16)]
SHAPES += [(256, 2, 2, 6, 6, 128), (64, 3, 2, 4, 4, 32)]


@pytest.mark.parametrize(("size", "dims", "halvings", "blocks", "levels", "last"), SHAPES)
def test_networks_are_as_deep_as_the_recipe_says(size, dims, halvings, blocks, levels, last):
    network, critic = translator(3, 4, size, dims, 4), part_critic(3, size, dims, 4)
    assert translator_depth(size, dims) == (halvings, blocks)
    assert len(convolutions(network, 2, 4, Conv[Conv.CONV, dims])) == halvings
    assert len(convolutions(network, 2, 4, Conv[Conv.CONVTRANS, dims])) == halvings
    assert len(convolutions(network, 1, 3)) == 2 * blocks and len(convolutions(network, 1, 7)) == 2
    assert [m.out_channels for m in convolutions(critic, 2, 4)] == [4 * 2**level for level in range(levels)]
    assert convolutions(critic, 1, 3)[0].in_channels == last
    if size <= 32 or (size == 64 and dims == 2):
        images = torch.rand(2, 3, *[size] * dims)
        assert network(images).shape == (2, 4) + (size,) * dims
        assert critic(images).shape == (2, 1)
        assert critic[:-1](images).shape == (2, 1) + (4,) * dims


@pytest.mark.parametrize("dims", [2, 3])
def test_no_image_sees_another(dims):
    torch.manual_seed(0)
    images = torch.randn(5, 2, *[16] * dims)
    for network in (translator(2, 1, 16, dims, 4), part_critic(2, 16, dims, 4)):
        with torch.no_grad():
            alone = torch.cat([network(image[None]) for image in images])
            torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-5)


def test_norms_are_instance_norms():
    network = translator(1, 1, 16, 2, 4)
    norms = [module for module in network.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 3 + 2 * 2 and not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    x = torch.randn(3, norms[0].num_channels, 5, 5)
    torch.testing.assert_close(norms[0](x), nn.functional.instance_norm(x), rtol=1e-5, atol=1e-5)


def test_other_sizes_are_refused():
    for size in (8, 24, 512):
        with pytest.raises(ConfigError, match=f"patch_size is {size}"):
            translator(1, 1, size, 2, 4)


def test_levels_come_to_nine_tenths_and_beyond_them_it_goes_on():
    to_tanh = ToTanh(-0.5, 2.0)
    found = to_tanh(torch.tensor([-0.5, 0.75, 2.0, 3.25]))
    torch.testing.assert_close(found, torch.tensor([-0.9, 0.0, 0.9, 1.8]))
    with pytest.raises(ConfigError, match="levels are 1 and 1"):
        ToTanh(1, 1)
