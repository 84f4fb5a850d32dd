"""Network parts that several detectors share. ``spatial_dims`` serves 2-D and 3-D from one definition."""

from __future__ import annotations

from math import log2

import torch
from monai.networks.layers.factories import Act, Conv, Norm
from monai.networks.nets import BasicUNet
from torch import Tensor, nn
from torch.nn import functional as F

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


def unet(in_channels: int, out_channels: int, patch_size: int, spatial_dims: int, features: int) -> BasicUNet:
    """MONAI's U-Net with four halvings, group norm and swish: (B, in_channels, H, W[, D]) to (B, out_channels, ...).

    Args:
        features: channels at full size, a multiple of 8; those below are f, 2f, 4f, 8f.

    Raises:
        ConfigError: if ``patch_size`` is no multiple of 16, or ``features`` none of 8.
    """
    if patch_size % 16:
        raise ConfigError(f"patch_size is {patch_size}, but a U-Net with four halvings needs a multiple of 16.")
    if features < 8 or features % 8:
        raise ConfigError(f"features is {features}, but group norm with 8 groups needs a multiple of 8.")
    f = features
    return BasicUNet(
        spatial_dims,
        in_channels,
        out_channels,
        (f, f, 2 * f, 4 * f, 8 * f, f),
        act="swish",
        norm=("group", {"num_groups": 8}),
        upsample="nontrainable",
    )


def foreground(patches: Tensor) -> Tensor:
    """Where a patch (B, C, H, W[, D]) is not 0 in some channel: (B, 1, H, W[, D]); preparation writes 0 outside."""
    return (patches != 0).any(dim=1, keepdim=True)


def smooth_noise(patches: Tensor, n_cells: int) -> Tensor:
    """Noise N(0, 1) on a grid of ``n_cells`` a side, enlarged linearly to ``patches`` and rolled at random.

    Of the shape of ``patches`` (B, C, H, W[, D]); enlarging makes the standard deviation smaller than 1.
    """
    spatial_dims = patches.ndim - 2
    coarse = torch.randn(*patches.shape[:2], *[n_cells] * spatial_dims, device=patches.device)
    mode = "bilinear" if spatial_dims == 2 else "trilinear"
    noise = F.interpolate(coarse, size=patches.shape[2:], mode=mode, align_corners=False)
    shifts = [int(torch.randint(size, ())) for size in patches.shape[2:]]
    return noise.roll(shifts, dims=list(range(2, patches.ndim)))


def jittered(patches: Tensor, std: float, gamma: float = 0.0) -> Tensor:
    """Patches with a random factor exp(N(0, std)) and shift N(0, std / 2) for each and each channel; 0 stays 0.

    Then, if ``gamma`` is not 0, what is above 0 is raised to a random power exp(N(0, gamma)): the contrast of tissues.
    """
    shape = (*patches.shape[:2], *[1] * (patches.ndim - 2))
    factor, shift = (torch.randn(shape, device=patches.device) for _ in range(2))
    changed = patches * torch.exp(std * factor) + std / 2 * shift
    if gamma != 0:
        power = torch.exp(gamma * torch.randn(shape, device=patches.device))
        changed = torch.where(changed > 0, changed.clamp(min=0) ** power, changed)
    return torch.where(foreground(patches), changed, 0.0)


def signed_residual(residual: Tensor, sign: str) -> Tensor:
    """A score a voxel (B, 1, H, W[, D]) from ``x - x_hat`` (B, C, H, W[, D]).

    "both": the mean absolute residual of the channels; "bright" and "dark": the positive and the negative part of the
    first channel's.
    """
    if sign == "bright":
        return residual[:, :1].clamp(min=0)
    if sign == "dark":
        return (-residual[:, :1]).clamp(min=0)
    return residual.abs().mean(dim=1, keepdim=True)


class FlattenChannelsLast(nn.Module):
    """(B, C, H, W[, D]) to (B, H * W [* D] * C), which copies nothing if the channels lie last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(1)


class UnflattenChannelsLast(nn.Module):
    """(B, H * W [* D] * C) to (B, C, H, W[, D]) with the channels last in memory; ``shape`` is (H, W[, D], C)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = list(shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, self.shape).movedim(-1, 1)


class UnitRMS(nn.Module):
    """``x`` divided by its root mean square over dimension 1: ProGAN's pixel norm, and the guard of codes.

    A code that is not held to one size can shrink while the decoder enlarges it again: all differences between codes
    vanish, and with them the score.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(torch.square(x).mean(dim=1, keepdim=True) + 1e-8)


class ModifiedScore(nn.Module):
    """Errors of the code's elements on a common scale: (e - median) / MAD (Madzia-Madzou & Kuijf, section 2.2.2).

    The median of each element and its median absolute deviation are those of training patches.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.median = nn.Buffer(torch.zeros(latent_dim))
        self.mad = nn.Buffer(torch.ones(latent_dim))

    def fit(self, errors: Tensor) -> None:
        """Median and MAD of errors (N, latent_dim)."""
        self.median.copy_(errors.median(dim=0).values)
        self.mad.copy_((errors - self.median).abs().median(dim=0).values)

    def forward(self, errors: Tensor) -> Tensor:
        """(B, latent_dim) to (B, n), without the elements that never varied in training; if none did, ``errors``."""
        alive = self.mad > 1e-12
        if bool(alive.any()):
            errors = ((errors - self.median) / (self.mad + 1e-8))[:, alive]
        return errors


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


def at_least_four(patches: Tensor) -> Tensor:
    """Fewer than four patches (B, C, H, W[, D]) four times over; more, as they are.

    For a few patches torch takes other kernels, which sum in another order: a score would depend on how many there are.
    """
    return torch.cat([patches] * 4) if patches.shape[0] < 4 else patches


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
