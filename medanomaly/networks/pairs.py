"""Discriminators of pairs: of an image and a code (BiGAN), of two images and of two codes (ALAD).

No layer of them mixes the pairs of a batch, so that what they say of one does not depend on the others.
"""

from __future__ import annotations

from itertools import pairwise
from math import log2

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medanomaly.networks.dcgan import dcgan_trunk, dcgan_widths, init_he
from medanomaly.networks.layers import FlattenChannelsLast


class PairDiscriminator(nn.Module):
    """Whether a pair is real: each of the two through a branch of its own, then both through common layers.

    Args:
        first, second: the branches, to (B, n, ...) each, which are joined along dimension 1.
        common: the layers in common, to (B, width).
        width: numbers that the last layer sees.
    """

    def __init__(self, first: nn.Module, second: nn.Module, common: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second, self.common = first, second, common
        self.last = nn.Linear(width, 1)
        self.apply(init_he)

    def features(self, first: Tensor, second: Tensor) -> Tensor:
        """What the last layer sees of each pair: (B, width)."""
        features: Tensor = self.common(torch.cat([self.first(first), self.second(second)], dim=1))
        return features

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Logits (B, 1) of each pair's being real."""
        logits: Tensor = self.last(self.features(first, second))
        return logits


def of_image_and_code(
    in_channels: int,
    patch_size: int,
    spatial_dims: int,
    features: int,
    latent_dim: int,
    width: int,
    code_layers: int,
    dropout: float,
) -> PairDiscriminator:
    """Tells pairs of an image (B, C, s, s[, s]) and a code (B, latent_dim) apart.

    Args:
        features: channels of the first convolution of the image's branch, a DCGAN encoder.
        width: of the layer in common; those of the code's branch have half of it.
        code_layers: layers of the code's branch.
        dropout: share of what each dense layer gives that is dropped in training.
    """
    trunk = dcgan_trunk(in_channels, patch_size, spatial_dims, features, norm=None).append(FlattenChannelsLast())
    of_trunk = dcgan_widths(patch_size, features)[-1] * 4**spatial_dims
    of_code = [latent_dim] + [width // 2] * code_layers
    return PairDiscriminator(trunk, dense(of_code, dropout), dense([of_trunk + of_code[-1], width], dropout), width)


def of_two_images(
    in_channels: int, patch_size: int, spatial_dims: int, features: int, dropout: float
) -> PairDiscriminator:
    """Tells pairs of images apart, which it sees as channels of one; convolutions 5 wide halve it to 8 voxels a side.

    Args:
        features: channels of the first convolution.
        dropout: share of what each convolution gives that is dropped in training.
    """
    layers: list[nn.Module] = []
    channels = 2 * in_channels
    widths = [features * 2**level for level in range(int(log2(patch_size)) - 3)]
    for width in widths:
        layers += [
            Conv[Conv.CONV, spatial_dims](channels, width, kernel_size=5, stride=2, padding=2),
            nn.LeakyReLU(0.2),
            nn.Dropout(dropout),
        ]
        channels = width
    common = nn.Sequential(*layers, FlattenChannelsLast())
    return PairDiscriminator(nn.Identity(), nn.Identity(), common, channels * 8**spatial_dims)


def of_two_codes(latent_dim: int, widths: tuple[int, ...], dropout: float) -> PairDiscriminator:
    """Tells pairs of codes (B, latent_dim) apart, by dense layers of these widths."""
    common = dense([2 * latent_dim, *widths], dropout)
    return PairDiscriminator(nn.Identity(), nn.Identity(), common, widths[-1])


def dense(widths: list[int], dropout: float) -> nn.Sequential:
    """Dense layers with leaky ReLU and dropout: (B, widths[0]) to (B, widths[-1])."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2), nn.Dropout(dropout)]
    return nn.Sequential(*layers)


def with_spectral_norm(network: nn.Module) -> nn.Module:
    """Divide the weights of all convolutions and linear layers by their largest singular value (Miyato et al. 2018).

    In place, after the weights were drawn. One step of the power method at each use in training keeps the value up to
    date; in eval mode it rests. TorchScript cannot read such a network: score with an average that follows it.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
            spectral_norm(module)
    return network
