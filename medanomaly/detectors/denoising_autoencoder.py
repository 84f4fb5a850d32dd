"""Denoising autoencoder with coarse noise: what it would clean away is abnormal.

A U-Net learns to take blurry noise out of normal patches (Kascenas et al., MIDL 2022). Lesions look to it like such
noise. At test nothing is added: the score is what the network takes away from the patch as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four, signed_residual
from medanomaly.errors import ConfigError
from medanomaly.networks.intensities import foreground, jittered
from medanomaly.networks.noise import same_draws, smooth_noise
from medanomaly.networks.stages import Stage
from medanomaly.networks.unet import unet


class DenoisingAutoencoder(Detector):
    """Denoising autoencoder on patches; scores (B, 1, H, W[, D]), one a voxel.

    Differences from the paper: patches instead of slices, 16 channels instead of 64 at full size, convolutions without
    weight standardisation, and intensities scaled at random in training (``jitter``), for cohorts of a few scans.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is a multiple of 16.
        features: channels of the U-Net at full size.
        noise_std: standard deviation of the noise before it is enlarged (paper: 0.2).
        noise_voxels: side of a cell of the noise's grid (paper: 128 / 16 = 8).
        jitter: standard deviation of a random factor (in its logarithm) and half of that of a random shift, drawn for
            each patch and channel in training.
        gamma: standard deviation of the logarithm of a random power, drawn likewise: see :func:`jittered`.
        learning_rate: of AdamW (paper: 1e-4, over many more steps).
        sign: "both", "bright" or "dark": see :func:`signed_residual`.
    """

    signed = True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        features: int = 16,
        noise_std: float = 0.2,
        noise_voxels: int = 8,
        jitter: float = 0.1,
        gamma: float = 0.2,
        learning_rate: float = 1e-3,
        sign: str = "both",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if not 1 <= noise_voxels <= patch_size // 2:
            raise ConfigError(f"noise_voxels is {noise_voxels}; it must be 1 to half of the patch, {patch_size // 2}.")
        self.noise_std, self.n_cells, self.jitter = noise_std, patch_size // noise_voxels, jitter
        self.gamma = gamma
        self.learning_rate = learning_rate
        self.set_sign(sign)
        self.network = unet(in_channels, in_channels, patch_size, spatial_dims, features)

    def stages(self) -> Iterator[Stage]:
        parameters = self.network.parameters()
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=1e-5, amsgrad=True)
        yield Stage("denoising", {"network": optimizer})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        clean = jittered(batch, self.jitter, self.gamma)
        loss = self._loss(clean)
        stage.optimizers["network"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["network"].step()
        return {"denoising": loss.detach()}

    def validation_loss(self, batch: Tensor) -> Tensor:
        with same_draws(), torch.no_grad():
            return self._loss(batch)

    def _loss(self, clean: Tensor) -> Tensor:
        """Mean squared error over the foreground, of what is made of ``clean`` with noise."""
        inside = foreground(clean)
        noisy = clean + self.noise_std * smooth_noise(clean, self.n_cells) * inside
        squared = torch.square(self.network(noisy).float() - clean) * inside
        return squared.sum() / (inside.sum() * self.in_channels).clamp(min=1)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """Patches (B, C, H, W[, D]) as the network would have them, of that shape."""
        reconstructed: Tensor = self.network(at_least_four(patches))[: patches.shape[0]]
        return reconstructed

    def score(self, patches: Tensor) -> Tensor:
        return signed_residual((patches - self.reconstruct(patches)) * foreground(patches), self.sign)
