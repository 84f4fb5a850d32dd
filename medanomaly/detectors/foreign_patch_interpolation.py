"""Foreign patch interpolation: a network learns to find what was blended in from another patch.

Tan et al. 2020 (arXiv 2011.04197), first in the MOOD challenge of that year: self-supervised, as the places and shares
of what is foreign are known in training. At test nothing is blended in, and what looks foreign is abnormal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.networks.noise import same_draws
from medanomaly.networks.stages import Stage
from medanomaly.networks.unet import unet


class ForeignPatchInterpolation(Detector):
    """Foreign patch interpolation; scores (B, 1, H, W[, D]), one a voxel.

    The score is the logit of the predicted share of foreign tissue: any number, below 0 where less than half is
    foreign, mostly within -15 and 15. The share itself would be exactly 1 in float32 from a logit of 17 on, and the
    order of the most abnormal voxels would be lost.

    Differences from the paper: a U-Net instead of a WideResNet encoder and decoder; patches instead of slices, so that
    the foreign tissue comes from the same place of another patch, not of another subject in the same slice.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` is a multiple of 16.
        features: channels of the U-Net at full size.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        features: int = 16,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        self.learning_rate = learning_rate
        self.network = unet(in_channels, 1, patch_size, spatial_dims, features)

    def stages(self) -> Iterator[Stage]:
        yield Stage("interpolation", {"network": torch.optim.Adam(self.network.parameters(), lr=self.learning_rate)})

    def training_step(self, batch: Tensor, stage: Stage) -> dict[str, Tensor]:
        loss = self._loss(batch)
        stage.optimizers["network"].zero_grad()
        torch.autograd.backward(loss)
        stage.optimizers["network"].step()
        return {"interpolation": loss.detach()}

    @torch.no_grad()
    def validation_loss(self, batch: Tensor) -> Tensor:
        with same_draws():
            return self._loss(batch)

    def _loss(self, batch: Tensor) -> Tensor:
        """Mean cross-entropy of predicted and true share over all voxels."""
        blended, share = blend_in(batch, batch.roll(1, dims=0))  # a sampler's patches come in random order
        return F.binary_cross_entropy_with_logits(self.network(blended).float(), share)

    def score(self, patches: Tensor) -> Tensor:
        logits: Tensor = self.network(at_least_four(patches))
        return logits[: patches.shape[0]]


def blend_in(patches: Tensor, foreign: Tensor) -> tuple[Tensor, Tensor]:
    """Blend a square or cube of ``foreign`` into ``patches``, both (B, C, H, W[, D]), at a random place of each.

    Inside, ``alpha * patches + (1 - alpha) * foreign`` with alpha from U(0.05, 0.95); the half-width is 5 to 20 % of
    the patch's side, the centre lies in its central 80 %.

    Returns:
        The blended patches, and the share of ``foreign``, (B, 1, H, W[, D]): 1 - alpha inside, but 0 where both are
        equal, as nothing can be seen there.
    """
    n, spatial_dims, side = patches.shape[0], patches.ndim - 2, patches.shape[2]
    alpha, half_width, *centres = torch.rand(2 + spatial_dims, n, *[1] * (1 + spatial_dims), device=patches.device)
    alpha, half_width = 0.05 + 0.9 * alpha, side * (0.05 + 0.15 * half_width)
    inside = torch.ones_like(patches[:, :1], dtype=torch.bool)
    for dimension, centre in enumerate(centres, start=2):
        shape = [1] * patches.ndim
        shape[dimension] = -1
        place = (torch.arange(side, device=patches.device) + 0.5).view(shape)
        inside &= (place - side * (0.1 + 0.8 * centre)).abs() <= half_width
    blended = torch.where(inside, alpha * patches + (1 - alpha) * foreign, patches)
    differ = (patches != foreign).any(dim=1, keepdim=True)
    return blended, (1 - alpha) * (inside & differ)
