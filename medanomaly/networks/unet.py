"""MONAI's U-Net as the detectors that score each voxel use it."""

from __future__ import annotations

from monai.networks.nets import BasicUNet

from medanomaly.errors import ConfigError


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
