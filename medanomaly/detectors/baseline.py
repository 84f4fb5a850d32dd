"""What the detectors without a network have in common: they are called like an inferer, a volume at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medanomaly.errors import ConfigError


class Baseline(Inferer, ABC):
    """Heatmaps of volumes, each from its own voxels; called like the inferer of a detector, with a network to ignore.

    Args:
        channel: the image channel that is looked at, or whose brightness is meant.
        spacing: voxel size of the volumes, in mm; None takes that of the volume, if it is a MetaTensor, or else 1.
    """

    def __init__(self, channel: int, spacing: Sequence[float] | None) -> None:
        super().__init__()
        self.channel, self.spacing = channel, None if spacing is None else tuple(spacing)

    def __call__(
        self,
        inputs: Tensor,
        network: Callable[..., Tensor] | None = None,
        *args: Any,
        mask: Tensor | None = None,
        exclude: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """``inputs`` (B, C, H, W, D) to (B, 1, H, W, D), NaN outside ``mask`` and inside ``exclude``, of that shape."""
        if self.channel >= inputs.shape[1]:
            raise ConfigError(f"channel {self.channel} was asked for, but the volume has {inputs.shape[1]} channel(s).")
        volumes = torch.as_tensor(inputs).cpu().numpy()
        masks = (volumes != 0).any(axis=1) if mask is None else torch.as_tensor(mask).cpu().numpy()[:, 0] > 0
        spacing = self.spacing or _spacing_of(inputs)
        maps = [
            np.where(brain, self.score_volume(volume, brain, spacing), np.nan)
            for volume, brain in zip(volumes, masks, strict=True)
        ]
        heatmaps = torch.as_tensor(np.stack(maps)[:, None], dtype=torch.float32)
        return heatmaps if exclude is None else heatmaps.masked_fill(torch.as_tensor(exclude).cpu() > 0, torch.nan)

    @abstractmethod
    def score_volume(
        self, volume: NDArray[np.float32], brain: NDArray[np.bool_], spacing: Sequence[float]
    ) -> NDArray[np.floating[Any]]:
        """Scores (H, W, D) of a volume (C, H, W, D), of which only those in ``brain`` count; ``spacing`` in mm."""


def gaussian_mean(
    image: NDArray[Any], brain: NDArray[np.bool_], sigma: float, spacing: Sequence[float]
) -> NDArray[np.floating[Any]]:
    """A Gaussian mean of ``image`` (H, W, D) over the brain voxels around each; ``sigma`` and ``spacing`` in mm."""
    in_voxels = [sigma / s for s in spacing]
    weight = ndimage.gaussian_filter(brain.astype(np.float32), in_voxels, mode="constant")
    total = ndimage.gaussian_filter(np.where(brain, image, 0), in_voxels, mode="constant")
    return np.asarray(total / np.maximum(weight, 1e-6))


def _spacing_of(inputs: Tensor) -> Sequence[float]:
    """Voxel size of volumes (B, C, H, W, D) in mm."""
    if not isinstance(inputs, MetaTensor):
        return (1.0, 1.0, 1.0)
    return [float(size) for size in np.linalg.norm(np.asarray(inputs.affine)[:3, :3], axis=0)]
