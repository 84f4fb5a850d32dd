"""The residual networks of the WGAN-GP (Gulrajani et al. 2017) as f-AnoGAN has them, in 2-D and 3-D.

Ours: a block changes the size between its two convolutions, not at its end, which halves its cost.
"""

from __future__ import annotations

from math import log2

from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from medanomaly.errors import ConfigError
from medanomaly.networks.layers import FlattenChannelsLast, UnflattenChannelsLast


def residual_widths(patch_size: int, features: int) -> list[int]:
    """Channels after each halving, down to 4 voxels a side: at most ``8 * features``.

    16 voxels: ``[2f, 4f]``; 32: ``[2f, 4f, 8f]``; 64: ``[2f, 4f, 8f, 8f]``.

    Raises:
        ConfigError: for another ``patch_size``.
    """
    if patch_size not in (16, 32, 64):
        raise ConfigError(f"patch_size is {patch_size}, but this network is built for 16, 32 or 64 voxels a side.")
    return [min(features * 2 ** (level + 1), features * 8) for level in range(int(log2(patch_size)) - 2)]


class ResidualBlock(nn.Module):
    """Twice norm, ReLU and convolution, beside a shortcut; doubles or halves the size between the two.

    Args:
        norm: "batch", or "layer" for critics, whose gradient penalty is defined for each patch alone: the mean and
            variance of all features of one patch, with a scale and a shift for each channel.
        up: double the size and go from ``wide`` to ``narrow`` channels; else halve it and go from ``narrow`` to
            ``wide``.
    """

    def __init__(self, narrow: int, wide: int, spatial_dims: int, norm: str, up: bool) -> None:
        super().__init__()
        conv, before, after = Conv[Conv.CONV, spatial_dims], wide if up else narrow, narrow if up else wide
        resize = nn.Upsample(scale_factor=2.0, mode="nearest") if up else Pool[Pool.AVG, spatial_dims](2)
        self.main = nn.Sequential(
            _norm(norm, before, spatial_dims),
            nn.ReLU(),
            conv(before, narrow, kernel_size=3, padding=1, bias=False),
            _norm(norm, narrow, spatial_dims),
            nn.ReLU(),
            resize,
            conv(narrow, after, kernel_size=3, padding=1, bias=False),
        )
        small = conv(before, after, kernel_size=1)
        self.shortcut = nn.Sequential(small, resize) if up else nn.Sequential(resize, small)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, s, s[, s]) to twice or half the size."""
        result: Tensor = self.main(x) + self.shortcut(x)
        return result


def residual_trunk(in_channels: int, patch_size: int, spatial_dims: int, features: int, norm: str) -> nn.Sequential:
    """(B, C, s, s[, s]) to (B, F * 4 * 4 [* 4]): critic or encoder without its last layer."""
    layers: list[nn.Module] = [Conv[Conv.CONV, spatial_dims](in_channels, features, kernel_size=3, padding=1)]
    channels = features
    for width in residual_widths(patch_size, features):
        layers.append(ResidualBlock(channels, width, spatial_dims, norm, up=False))
        channels = width
    return nn.Sequential(*layers, FlattenChannelsLast())


def residual_head(patch_size: int, spatial_dims: int, features: int, out_channels: int) -> nn.Linear:
    """The last layer, from what :func:`residual_trunk` gives to (B, out_channels)."""
    return nn.Linear(residual_widths(patch_size, features)[-1] * 4**spatial_dims, out_channels)


def residual_generator(
    out_channels: int, patch_size: int, spatial_dims: int, features: int, latent_dim: int
) -> nn.Sequential:
    """(B, latent_dim) to (B, out_channels, s, s[, s]), linear at the end: percentile-normalised MRI exceeds 1."""
    levels = len(residual_widths(patch_size, features))
    channels = features * 2 ** (levels - 1)
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels * 4**spatial_dims),
        UnflattenChannelsLast((4,) * spatial_dims + (channels,)),
    ]
    for level in reversed(range(levels)):
        width = features * 2**level
        layers.append(ResidualBlock(width, channels, spatial_dims, "batch", up=True))
        channels = width
    last = Conv[Conv.CONV, spatial_dims](channels, out_channels, kernel_size=3, padding=1)
    return nn.Sequential(*layers, Norm[Norm.BATCH, spatial_dims](channels), nn.ReLU(), last)


def _norm(norm: str, channels: int, spatial_dims: int) -> nn.Module:
    made: nn.Module = nn.GroupNorm(1, channels) if norm == "layer" else Norm[Norm.BATCH, spatial_dims](channels)
    return made


def init_residual(module: nn.Module) -> None:
    """Weights that keep the signal's size through ReLUs (He et al. 2015), biases 0; for ``nn.Module.apply``."""
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
