"""The U-Net of Skip-GANomaly (Akcay et al. 2019), as in pix2pix: down to one voxel, with a skip at every size."""

from __future__ import annotations

from math import log2

import torch
from monai.networks.layers.factories import Act, Conv, Norm
from torch import Tensor, nn

from medanomaly.errors import ConfigError
from medanomaly.networks.dcgan import ConvTransposeToImage


class SkipUNet(nn.Module):
    """(B, in_channels, s, s[, s]) to (B, out_channels, s, s[, s]), linear at the end; log2(s) halvings.

    Convolutions 4/2/1 with batch norm, but none in the first layer, as in DCGAN, nor at the bottom, whose single voxel
    would leave it only the batch to count over.

    Args:
        patch_size: a power of two s, at least 4.
        features: channels after the first halving; the next have twice as many each, up to eight times.

    Raises:
        ConfigError: if ``patch_size`` is no power of two from 4 on.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int, spatial_dims: int, features: int) -> None:
        super().__init__()
        if patch_size < 4 or patch_size & (patch_size - 1):
            raise ConfigError(f"patch_size is {patch_size}, but this U-Net needs a power of two, at least 4.")
        levels = int(log2(patch_size))
        conv, norm = Conv[Conv.CONV, spatial_dims], Norm[Norm.BATCH, spatial_dims]
        widths = [features * 2 ** min(level, 3) for level in range(levels)]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            with_norm = 0 < level < levels - 1
            before = widths[level - 1] if level > 0 else in_channels
            self.down.append(
                nn.Sequential(
                    conv(before, width, kernel_size=4, stride=2, padding=1, bias=not with_norm),
                    *([norm(width)] if with_norm else []),
                    Act[Act.LEAKYRELU](0.2),
                )
            )
        up = Conv[Conv.CONVTRANS, spatial_dims]
        self.up = nn.ModuleList()
        for level in range(levels - 1, 0, -1):
            given = widths[level] * (1 if level == levels - 1 else 2)
            self.up.append(
                nn.Sequential(
                    up(given, widths[level - 1], kernel_size=4, stride=2, padding=1, bias=False),
                    norm(widths[level - 1]),
                    Act[Act.RELU](),
                )
            )
        self.to_image = (
            ConvTransposeToImage(2 * features, out_channels)
            if spatial_dims == 2
            else up(2 * features, out_channels, kernel_size=4, stride=2, padding=1)
        )

    def forward(self, x: Tensor, skips: bool = True) -> Tensor:
        """With ``skips=False``, what the skips carry is replaced by 0, so that all must pass the bottom."""
        kept: list[Tensor] = []
        for down in self.down:
            x = down(x)
            kept.append(x)
        for level, up in enumerate(self.up):
            x = up(x)
            skip = kept[-2 - level]
            x = torch.cat([x, skip if skips else torch.zeros_like(skip)], dim=1)
        image: Tensor = self.to_image(x)
        return image
