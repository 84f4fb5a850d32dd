"""Convolutional autoencoder: what it cannot reconstruct from a small code is abnormal.

The two plain ones that Baur et al. compare (Medical Image Analysis 2021, arXiv 2004.03271), layers as in their code:
the code is a vector ("dense") or a small map with many channels ("spatial").
"""

from __future__ import annotations

from collections.abc import Iterator
from math import log2

import torch
from monai.networks.layers.factories import Act, Conv, Norm
from torch import Tensor, nn
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four, signed_residual
from medanomaly.errors import ConfigError
from medanomaly.networks.intensities import foreground, jittered
from medanomaly.networks.layers import FlattenChannelsLast, UnflattenChannelsLast
from medanomaly.networks.stages import Stage


class Autoencoder(Detector):
    """Autoencoder on patches; scores (B, 1, H, W[, D]), one a voxel.

    Four halvings, as in the paper (128 voxels to 8), from 64 voxels a side on; fewer for smaller patches, so that 4
    are left: three for 32 voxels, two for 16. Patches instead of slices, and ``jitter``, are ours.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is a multiple of 16.
        kind: "spatial" or "dense".
        features: channels f of the first convolution; the next have 2f, 4f, 4f (paper: 32, 64, 128, 128).
        latent_dim: length of the dense code, or channels of the spatial one (paper: 128 each). A spatial code holds
            ``latent_dim`` numbers for each of its voxels: with few halvings, 128 can be more than the patch has.
        dropout: share of the code's elements that are dropped in training.
        jitter: see :func:`jittered`; intensities of training patches are scaled and shifted by it.
        learning_rate: of Adam.
        sign: "both", "bright" or "dark": see :func:`signed_residual`.
    """

    signed = True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        kind: str = "spatial",
        features: int = 32,
        latent_dim: int = 128,
        dropout: float = 0.2,
        jitter: float = 0.0,
        learning_rate: float = 1e-4,
        sign: str = "both",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if kind not in ("spatial", "dense"):
            raise ConfigError(f"kind is {kind!r}: use one of spatial, dense.")
        if patch_size < 16 or patch_size % 16:
            raise ConfigError(f"patch_size is {patch_size}, but this network needs a multiple of 16.")
        if features < 2:
            raise ConfigError(f"features is {features}, but this network needs at least 2.")
        self.jitter, self.learning_rate = jitter, learning_rate
        self.set_sign(sign)
        halvings = min(int(log2(patch_size)) - 2, 4)
        widths = [min(features * 2**level, features * 4) for level in range(halvings)]
        if kind == "spatial":
            widths[-1] = latent_dim
        side = patch_size // 2**halvings
        self.encoder = _encoder(in_channels, spatial_dims, widths)
        self.bottleneck = (
            nn.Sequential(nn.Dropout(dropout))
            if kind == "spatial"
            else _dense_bottleneck(spatial_dims, widths[-1], side, latent_dim, dropout)
        )
        self.decoder = _decoder(in_channels, spatial_dims, features, halvings, widths[-1])

    def stages(self) -> Iterator[Stage]:
        yield Stage("autoencoder", {"autoencoder": torch.optim.Adam(self.parameters(), lr=self.learning_rate)})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        loss = self._loss(jittered(batch, self.jitter))
        stage.optimizers["autoencoder"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["autoencoder"].step()
        return {"reconstruction": loss.detach()}

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        return self._loss(batch)

    def _loss(self, batch: Tensor) -> Tensor:
        """Mean absolute error over all voxels."""
        return F.l1_loss(self.decoder(self.bottleneck(self.encoder(batch))).float(), batch)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """What the decoder makes of the patches' codes: (B, C, H, W[, D]), like ``patches``."""
        reconstruction: Tensor = self.decoder(self.bottleneck(self.encoder(at_least_four(patches))))
        return reconstruction[: patches.shape[0]]

    def score(self, patches: Tensor) -> Tensor:
        return signed_residual((patches - self.reconstruct(patches)) * foreground(patches), self.sign)


def _encoder(in_channels: int, spatial_dims: int, widths: list[int]) -> nn.Sequential:
    """(B, C, s, s[, s]) to (B, widths[-1], s / 2^n, ...), n being the number of widths."""
    layers: list[nn.Module] = []
    channels = in_channels
    for width in widths:
        layers += [
            Conv[Conv.CONV, spatial_dims](channels, width, kernel_size=5, stride=2, padding=2, bias=False),
            Norm[Norm.BATCH, spatial_dims](width),
            Act[Act.LEAKYRELU](0.2, inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers)


def _dense_bottleneck(spatial_dims: int, width: int, side: int, latent_dim: int, dropout: float) -> nn.Sequential:
    """(B, width, side, side[, side]) through a code of ``latent_dim`` numbers, and back to that shape."""
    conv, narrow = Conv[Conv.CONV, spatial_dims], max(width // 8, 1)
    return nn.Sequential(
        conv(width, narrow, kernel_size=1),
        FlattenChannelsLast(),
        nn.Linear(narrow * side**spatial_dims, latent_dim),
        nn.Dropout(dropout),
        nn.Linear(latent_dim, narrow * side**spatial_dims),
        nn.Dropout(dropout),
        UnflattenChannelsLast((side,) * spatial_dims + (narrow,)),
        conv(narrow, width, kernel_size=1),
    )


def _decoder(out_channels: int, spatial_dims: int, features: int, halvings: int, width: int) -> nn.Sequential:
    """(B, width, s, s[, s]) to (B, out_channels, s * 2^halvings, ...), linear at the end."""
    layers: list[nn.Module] = [Norm[Norm.BATCH, spatial_dims](width), Act[Act.RELU](inplace=True)]
    channels = width
    for level in range(halvings):
        width = max(features * 4 // 2**level, features)
        layers += [
            Conv[Conv.CONVTRANS, spatial_dims](
                channels, width, kernel_size=5, stride=2, padding=2, output_padding=1, bias=False
            ),
            Norm[Norm.BATCH, spatial_dims](width),
            Act[Act.LEAKYRELU](0.2, inplace=True),
        ]
        channels = width
    return nn.Sequential(*layers, Conv[Conv.CONV, spatial_dims](channels, out_channels, kernel_size=1))
