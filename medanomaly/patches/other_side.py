"""Scores relative to the other side of the brain: anatomy is nearly the same on both, a lesion seldom is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medanomaly.errors import ConfigError
from medanomaly.patches.layout import plain, regions_of
from medanomaly.patches.places import Floats, Mask

NEAR = 1e-3  # of the Gaussian's weight: with less of the brain around it, a voxel has no other side


class RelativeToOtherSide(Inferer):
    """An inferer whose scores are less what is usual on the other side of the brain; called like the inferer.

    The other side of a voxel is the one that lies as far from the other end of the brain, from left to right, and what
    is usual there is the Gaussian mean of the scores around: nothing is registered. Of a detector that tells signs and
    is asked for both, a voxel has the higher of bright and dark, each less its own other side.

    A lesion on both sides is found less well, and one in the middle not at all better.

    Args:
        inferer: volumes (B, C, H, W, D), in RAS, to heatmaps (B, 1, H, W, D), or (B, len(signs), H, W, D) where it is
            asked for ``signs``, as :class:`PatchScoreInferer` is.
        sigma: of the Gaussian in voxels, above 0; None leaves scores as they are.

    Raises:
        ConfigError: if ``sigma`` is not above 0.
    """

    def __init__(self, inferer: Callable[..., Tensor], sigma: float | None) -> None:
        super().__init__()
        if sigma is not None and not sigma > 0:
            raise ConfigError(f"other_side is {sigma}: give the Gaussian's sigma in voxels, above 0, or null.")
        self.inferer, self.sigma = inferer, sigma

    def __call__(
        self, inputs: Tensor, network: Any = None, *args: Any, mask: Tensor | None = None, **kwargs: Any
    ) -> Tensor:
        """Scores (B, 1, H, W, D) float32 on the CPU; NaN wherever the inferer gave NaN."""
        if self.sigma is None:
            return self.inferer(inputs, network, *args, mask=mask, **kwargs)
        both = getattr(network, "sign", None) == "both" and network.signed
        asked = {"signs": ("bright", "dark")} if both else {}
        heatmaps = plain(self.inferer(inputs, network, *args, mask=mask, **asked, **kwargs)).cpu().numpy()
        pairs = zip(heatmaps, regions_of(inputs, mask).cpu().numpy()[:, 0], strict=True)
        found = [
            np.maximum.reduce([relative_to_other_side(heatmap, brain, self.sigma) for heatmap in maps])
            for maps, brain in pairs
        ]
        return torch.from_numpy(np.stack(found)[:, None])


def relative_to_other_side(heatmap: Floats, brain: Mask, sigma: float) -> NDArray[np.float32]:
    """A heatmap (H, W, D), its first axis from left to right, less what is usual on the other side of the ``brain``.

    Where the other side has no score, the mean of all scores is taken off.
    """
    scored = np.isfinite(heatmap)
    if not scored.any():
        return heatmap.astype(np.float32)
    box = ndimage.find_objects(scored.astype(np.uint8))[0]  # what lies outside has no score, and weighs nothing
    weight, total = (
        ndimage.gaussian_filter(values[box].astype(np.float32), sigma, mode="constant")
        for values in (scored, np.where(scored, heatmap, 0))
    )
    usual = np.full(heatmap.shape, np.nan, np.float32)
    usual[box] = np.where(scored[box] & (weight > NEAR), total / np.maximum(weight, NEAR), np.nan)
    ends = np.flatnonzero((brain if brain.any() else scored).any(axis=(1, 2)))
    opposite = ends[0] + ends[-1] - np.arange(heatmap.shape[0])
    there = (opposite >= 0) & (opposite < heatmap.shape[0])
    other = np.full(heatmap.shape, np.nan, np.float32)
    other[there] = usual[opposite[there]]
    return np.asarray(heatmap - np.where(np.isfinite(other), other, heatmap[scored].mean()), dtype=np.float32)
