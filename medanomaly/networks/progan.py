"""The networks of ProGAN (Karras et al., ICLR 2018, arXiv 1710.10196), which grow: 2-D and 3-D from one definition."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import torch
from monai.networks.layers.factories import Conv, Pool
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.networks.layers import FlattenChannelsLast, UnflattenChannelsLast, UnitRMS


class Generator(nn.Module):
    """ProGAN's generator: from codes to images of 8 voxels a side or more; widths[k] channels at 4 * 2^k voxels."""

    def __init__(
        self, out_channels: int, widths: list[int], spatial_dims: int, latent_dim: int, pixel_norm: bool
    ) -> None:
        super().__init__()
        first = widths[0]

        def activation() -> list[nn.Module]:
            return [nn.LeakyReLU(0.2), UnitRMS()] if pixel_norm else [nn.LeakyReLU(0.2)]

        self.start = nn.Sequential(
            UnitRMS(),  # whatever the size of a code, images stay within what was learned
            EqualisedLinear(latent_dim, first * 4**spatial_dims, gain=sqrt(2) / 4),
            UnflattenChannelsLast((4,) * spatial_dims + (first,)),
            *activation(),
            EqualisedConv(first, first, 3, spatial_dims),
            *activation(),
        )
        pairs = list(pairwise(widths))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                EqualisedConv(before, after, 3, spatial_dims),
                *activation(),
                EqualisedConv(after, after, 3, spatial_dims),
                *activation(),
            )
            for before, after in pairs
        )
        self.to_image = nn.ModuleList(
            EqualisedConv(after, out_channels, 1, spatial_dims, gain=1.0) for _, after in pairs
        )

    def forward(self, z: Tensor, stage: int, alpha: float) -> Tensor:
        """Codes (B, latent_dim) to images (B, C, s, s[, s]) with s = 8 * 2^stage; alpha weighs the newest layers."""
        x = self.start(z)
        image = z
        for level, (block, to_image) in enumerate(zip(self.blocks, self.to_image)):  # noqa: B905 (TorchScript)
            if level <= stage:
                x = block(upsample(x))
            if level == stage - 1 and alpha < 1:
                image = upsample(to_image(x))
            if level == stage:
                image = to_image(x) if alpha == 1 else (1 - alpha) * image + alpha * to_image(x)
        return image


class Trunk(nn.Module):
    """ProGAN's critic down to 4 voxels a side; no layer mixes patches."""

    def __init__(self, in_channels: int, widths: list[int], spatial_dims: int) -> None:
        super().__init__()
        pairs = list(pairwise(reversed(widths)))  # from the largest size down
        self.last_stage = len(pairs) - 1
        self.from_image = nn.ModuleList(
            nn.Sequential(EqualisedConv(in_channels, before, 1, spatial_dims), nn.LeakyReLU(0.2)) for before, _ in pairs
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                EqualisedConv(before, before, 3, spatial_dims),
                nn.LeakyReLU(0.2),
                EqualisedConv(before, after, 3, spatial_dims),
                nn.LeakyReLU(0.2),
                Pool[Pool.AVG, spatial_dims](2),
            )
            for before, after in pairs
        )

    def forward(self, images: Tensor, stage: int, alpha: float) -> Tensor:
        """Images (B, C, s, s[, s]) with s = 8 * 2^stage to features (B, F, 4, 4[, 4])."""
        x = images
        for place, (from_image, block) in enumerate(zip(self.from_image, self.blocks)):  # noqa: B905 (TorchScript)
            level = self.last_stage - place
            if level == stage:
                x = block(from_image(images))
            elif level < stage:
                if level == stage - 1 and alpha < 1:
                    x = (1 - alpha) * from_image(pool(images)) + alpha * x
                x = block(x)
        return x


class CriticHead(nn.Module):
    """ProGAN's critic from 4 voxels a side on. It also sees how much patches differ within groups of four.

    That must not reach codes, which would depend on the batch; they are taken from the trunk.
    """

    def __init__(self, width: int, spatial_dims: int) -> None:
        super().__init__()
        self.conv = EqualisedConv(width + 1, width, 3, spatial_dims)
        self.flatten = FlattenChannelsLast()
        self.linear = EqualisedLinear(width * 4**spatial_dims, width)
        self.value = EqualisedLinear(width, 1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, F, 4, 4[, 4]) to (B, 1)."""
        groups = x.unflatten(0, (4, -1) if len(x) % 4 == 0 else (-1, 1))
        deviation = torch.sqrt(groups.var(dim=0, correction=0) + 1e-8).flatten(1).mean(dim=1)
        spread = deviation.repeat(len(x) // len(deviation)).reshape([-1] + [1] * (x.dim() - 1))
        x = torch.cat([x, spread.expand_as(x[:, :1])], dim=1)
        x = F.leaky_relu(self.conv(x), 0.2)
        x = F.leaky_relu(self.linear(self.flatten(x)), 0.2)
        values: Tensor = self.value(x)
        return values


class EqualisedConv(nn.Module):
    """A convolution of equalised learning rate: weights N(0, 1), times ``gain / sqrt(fan_in)`` at every call."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, spatial_dims: int, gain: float = sqrt(2)
    ) -> None:
        super().__init__()
        self.conv = Conv[Conv.CONV, spatial_dims](in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        nn.init.normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)
        self.scale = gain / sqrt(in_channels * kernel_size**spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv._conv_forward(x, self.conv.weight * self.scale, self.conv.bias)
        return result


class EqualisedLinear(nn.Module):
    """A linear layer of equalised learning rate."""

    def __init__(self, in_features: int, out_features: int, gain: float = sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.scale = gain / sqrt(in_features)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias)


def upsample(x: Tensor) -> Tensor:
    """Twice the size, by nearest neighbour."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pool(x: Tensor) -> Tensor:
    """Half the size, by the means of neighbours."""
    return F.avg_pool2d(x, 2) if x.dim() == 4 else F.avg_pool3d(x, 2)
