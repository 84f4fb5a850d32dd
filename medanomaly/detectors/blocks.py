"""Network parts that several detectors share. ``spatial_dims`` serves 2-D and 3-D from one definition."""

from __future__ import annotations

from math import log2

from monai.networks.layers.factories import Act, Conv, Norm
from torch import nn

from medanomaly.errors import ConfigError


def dcgan_widths(patch_size: int, features: int) -> list[int]:
    """Channels after each halving of a DCGAN encoder, down to 4 voxels a side (Radford et al. 2016).

    16 voxels: ``[f, 2f]``; 32: ``[f, 2f, 4f]``; 64: ``[f, 2f, 4f, 8f]``.
    """
    if patch_size not in (16, 32, 64):
        raise ConfigError(f"patch_size is {patch_size}, but this network is built for 16, 32 or 64 voxels a side.")
    levels = int(log2(patch_size)) - 2
    return [features * 2**level for level in range(levels)]


def dcgan_trunk(in_channels: int, patch_size: int, spatial_dims: int, features: int, norm: str | None) -> nn.Sequential:
    """Strided convolutions from (B, C, s, s[, s]) to (B, F, 4, 4[, 4]): a DCGAN encoder without its last layer.

    Args:
        norm: "batch" or None; the first convolution has none, as in DCGAN. A critic with a gradient penalty must have
            none at all, because the penalty is defined for each sample alone (Gulrajani et al. 2017).
    """
    conv = Conv[Conv.CONV, spatial_dims]
    layers: list[nn.Module] = []
    channels = in_channels
    for level, width in enumerate(dcgan_widths(patch_size, features)):
        with_norm = norm is not None and level > 0
        layers.append(conv(channels, width, kernel_size=4, stride=2, padding=1, bias=norm is None))
        if with_norm:
            layers.append(Norm[norm, spatial_dims](width))
        layers.append(Act[Act.LEAKYRELU](0.2, inplace=True))
        channels = width
    return nn.Sequential(*layers)


def dcgan_head(patch_size: int, spatial_dims: int, features: int, out_channels: int) -> nn.Sequential:
    """The last layer of a DCGAN encoder: (B, F, 4, 4[, 4]) to (B, out_channels)."""
    width = dcgan_widths(patch_size, features)[-1]
    conv = Conv[Conv.CONV, spatial_dims]
    return nn.Sequential(conv(width, out_channels, kernel_size=4, bias=False), nn.Flatten())


def dcgan_decoder(
    out_channels: int, patch_size: int, spatial_dims: int, features: int, latent_dim: int
) -> nn.Sequential:
    """Transposed convolutions from (B, latent_dim) to (B, out_channels, s, s[, s]).

    The output is linear, not tanh: percentile-normalised MRI exceeds 1.
    """
    conv = Conv[Conv.CONVTRANS, spatial_dims]
    widths = dcgan_widths(patch_size, features)[::-1]
    layers: list[nn.Module] = [nn.Unflatten(1, (latent_dim,) + (1,) * spatial_dims)]
    channels = latent_dim
    for level, width in enumerate(widths):
        step = {"kernel_size": 4} if level == 0 else {"kernel_size": 4, "stride": 2, "padding": 1}
        layers += [
            conv(channels, width, bias=False, **step),
            Norm[Norm.BATCH, spatial_dims](width),
            Act[Act.RELU](inplace=True),
        ]
        channels = width
    layers.append(conv(channels, out_channels, kernel_size=4, stride=2, padding=1))
    return nn.Sequential(*layers)


def init_dcgan(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch-norm scale N(1, 0.02), biases 0 (Radford et al. 2016); for ``nn.Module.apply``."""
    if isinstance(module, nn.modules.conv._ConvNd):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def init_he(module: nn.Module) -> None:
    """Weights that keep the signal's size through leaky ReLUs (He et al. 2015); for ``nn.Module.apply``.

    For networks without batch norm, where N(0, 0.02) shrinks the signal at every layer until code and critic are blind.
    """
    if isinstance(module, nn.modules.conv._ConvNd):
        nn.init.kaiming_normal_(module.weight, a=0.2)
