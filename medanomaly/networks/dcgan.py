"""DCGAN encoders and decoders (Radford et al., ICLR 2016); ``spatial_dims`` serves 2-D and 3-D from one definition."""

from __future__ import annotations

from math import log2

from monai.networks.layers.factories import Act, Conv, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.errors import ConfigError
from medanomaly.networks.layers import FlattenChannelsLast, UnflattenChannelsLast


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
    """The last layer of a DCGAN encoder: (B, F, 4, 4[, 4]) to (B, out_channels).

    DCGAN's convolution covers its whole input, which makes it a linear layer; as such it runs three times as fast.
    """
    width = dcgan_widths(patch_size, features)[-1]
    return nn.Sequential(FlattenChannelsLast(), nn.Linear(width * 4**spatial_dims, out_channels, bias=False))


def dcgan_decoder(
    out_channels: int, patch_size: int, spatial_dims: int, features: int, latent_dim: int
) -> nn.Sequential:
    """Transposed convolutions from (B, latent_dim) to (B, out_channels, s, s[, s]).

    The output is linear, not tanh: percentile-normalised MRI exceeds 1. The first transposed convolution starts from a
    single voxel, so it is a linear layer.
    """
    conv = Conv[Conv.CONVTRANS, spatial_dims]
    widths = dcgan_widths(patch_size, features)[::-1]
    channels = widths[0]
    layers: list[nn.Module] = [
        nn.Linear(latent_dim, channels * 4**spatial_dims, bias=False),
        UnflattenChannelsLast((4,) * spatial_dims + (channels,)),
    ]
    for width in widths[1:]:
        layers += [
            Norm[Norm.BATCH, spatial_dims](channels),
            Act[Act.RELU](inplace=True),
            conv(channels, width, kernel_size=4, stride=2, padding=1, bias=False),
        ]
        channels = width
    layers += [Norm[Norm.BATCH, spatial_dims](channels), Act[Act.RELU](inplace=True)]
    if spatial_dims == 2:
        layers.append(ConvTransposeToImage(channels, out_channels))
    else:
        layers.append(conv(channels, out_channels, kernel_size=4, stride=2, padding=1))
    return nn.Sequential(*layers)


class ConvTransposeToImage(nn.ConvTranspose2d):
    """``nn.ConvTranspose2d`` that doubles the size, for the few channels of an image: a matrix product and a fold.

    The same weights and the same sums; on a CPU three to four times as fast for one output channel, for which torch
    has no good kernel.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, 2 H, 2 W)."""
        taps = F.conv2d(input, self.weight.flatten(1).t()[:, :, None, None])
        image = F.fold(taps.flatten(2), (2 * input.shape[2], 2 * input.shape[3]), (4, 4), stride=(2, 2), padding=(1, 1))
        bias = self.bias
        assert bias is not None
        return image + bias[:, None, None]


def init_dcgan(module: nn.Module) -> None:
    """Weights N(0, 0.02), batch-norm scale N(1, 0.02), biases 0 (Radford et al. 2016); for ``nn.Module.apply``."""
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
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
    if isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
        nn.init.kaiming_normal_(module.weight, a=0.2)
