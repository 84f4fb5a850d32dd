"""Networks that translate an image into one of the same size, and a critic of its parts: 2-D and 3-D.

The generator of Johnson et al. (ECCV 2016) with strided convolutions, as StarGAN has it (Choi et al., CVPR 2018), and
the critic PatchGAN, which judges overlapping parts of an image alone. HealthyGAN and Brainomaly are made of these.
"""

from __future__ import annotations

from math import log2

from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medanomaly.errors import ConfigError
from medanomaly.networks.dcgan import init_he

MARGIN = 0.9  # of tanh: what lies at its ends, +-1, no finite number gives


def translator_depth(patch_size: int, spatial_dims: int) -> tuple[int, int]:
    """Halvings and residual blocks: (1, 2) at 16 voxels a side, (1, 4) at 32, (2, 6) from 64 on; 4 at most in 3-D.

    Raises:
        ConfigError: if ``patch_size`` is not 16, 32, 64, 128 or 256.

    Examples:
        >>> translator_depth(64, 2), translator_depth(64, 3)
        ((2, 6), (2, 4))
    """
    if patch_size not in (16, 32, 64, 128, 256):
        raise ConfigError(f"patch_size is {patch_size}, but this network is built for 16, 32, 64, 128 or 256 voxels.")
    halvings, blocks = {16: (1, 2), 32: (1, 4)}.get(patch_size, (2, 6))
    return halvings, min(blocks, 4) if spatial_dims == 3 else blocks


def translator(in_channels: int, out_channels: int, patch_size: int, spatial_dims: int, features: int) -> nn.Sequential:
    """(B, in_channels, s, s[, s]) to (B, out_channels, s, s[, s]), linear at the end.

    Every norm is that of one channel of one image, so that no image sees another.

    Args:
        features: channels at full size; each halving doubles them.
    """
    conv, convtrans = Conv[Conv.CONV, spatial_dims], Conv[Conv.CONVTRANS, spatial_dims]
    halvings, blocks = translator_depth(patch_size, spatial_dims)

    def then(layer: nn.Module, width: int) -> list[nn.Module]:
        return [layer, _norm(width), nn.ReLU()]

    layers = then(conv(in_channels, features, kernel_size=7, padding=3, bias=False), features)
    width = features
    for _ in range(halvings):
        layers += then(conv(width, 2 * width, kernel_size=4, stride=2, padding=1, bias=False), 2 * width)
        width *= 2
    layers += [ResidualUnit(width, spatial_dims) for _ in range(blocks)]
    for _ in range(halvings):
        layers += then(convtrans(width, width // 2, kernel_size=4, stride=2, padding=1, bias=False), width // 2)
        width //= 2
    return nn.Sequential(*layers, conv(width, out_channels, kernel_size=7, padding=3))


class ResidualUnit(nn.Module):
    """Twice a convolution and a norm, added to what comes in, at one size and width."""

    def __init__(self, width: int, spatial_dims: int) -> None:
        super().__init__()
        conv = Conv[Conv.CONV, spatial_dims]
        self.main = nn.Sequential(
            conv(width, width, kernel_size=3, padding=1, bias=False),
            _norm(width),
            nn.ReLU(),
            conv(width, width, kernel_size=3, padding=1, bias=False),
            _norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, s, s[, s]) to the same shape."""
        result: Tensor = x + self.main(x)
        return result


def part_critic(in_channels: int, patch_size: int, spatial_dims: int, features: int) -> nn.Sequential:
    """A Wasserstein critic, PatchGAN: (B, in_channels, s, s[, s]) to (B, 1), the mean of what it says of 4 x 4 parts.

    No norm and no layer mixes images. A gradient penalty then holds the gradient of the mean at 1. The authors of
    HealthyGAN take that of the sum, 16 times as strict: it fits their images of 256 pixels in three channels, and would
    make the critic too weak for small patches, where losses that are means over voxels have larger gradients.

    Args:
        features: channels after the first of its halvings, down to 4 voxels a side; each doubles them.
    """
    conv = Conv[Conv.CONV, spatial_dims]
    layers: list[nn.Module] = []
    channels = in_channels
    for level in range(int(log2(patch_size)) - 2):
        layers += [conv(channels, features * 2**level, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        channels = features * 2**level
    critic = nn.Sequential(*layers, conv(channels, 1, kernel_size=3, padding=1, bias=False), Mean())
    return critic.apply(init_he)


class Mean(nn.Module):
    """(B, ...) to (B, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).mean(dim=1, keepdim=True)


class ToTanh(nn.Module):
    """Intensities to the numbers that tanh gives: ``low`` to -0.9, ``high`` to 0.9, and linearly beyond.

    Raises:
        ConfigError: if ``low`` is not below ``high``.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not low < high:
            raise ConfigError(f"levels are {low} and {high}: give the lowest and the highest usual intensity.")
        self.middle, self.factor = (low + high) / 2, 2 * MARGIN / (high - low)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.middle) * self.factor


def _norm(width: int) -> nn.Module:
    """Instance norm with a scale and a shift for each channel; torch's group norm has kernels for channels_last."""
    return nn.GroupNorm(width, width)
