"""The trivial detectors that every result is held against: how bright a voxel is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers.inferer import Inferer
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import equalize_hist
from torch import Tensor

from medanomaly.errors import ConfigError

KINDS = ("plain", "smoothed", "equalised", "inverted")


class IntensityBaseline(Inferer):
    """Heatmaps from brightness alone; called like the inferer of a detector, with a network that it ignores.

    - ``"plain"``: the normalised intensity.
    - ``"smoothed"``: a Gaussian mean over the brain voxels around (background does not count).
    - ``"equalised"``: the rank of the intensity within the brain, 0 to 1: histogram equalisation of the brain voxels
      with ``n_bins`` bins, interpolated between their centres (Meissen et al. 2021, arXiv 2109.06023).
    - ``"inverted"``: minus the intensity, for what is abnormal because it is dark.

    Args:
        kind: one of the above.
        channel: the image channel; 0 is FLAIR where the cohort has FLAIR and T1.
        sigma: of the Gaussian, in mm.
        spacing: voxel size of the volumes, in mm; None takes that of the volume, if it is a
            MetaTensor, or else 1.
        n_bins: of the equalisation.
    """

    def __init__(
        self,
        kind: str = "plain",
        channel: int = 0,
        sigma: float = 1.5,
        spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
        n_bins: int = 256,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"the intensity baseline {kind!r} is unknown: use one of {', '.join(KINDS)}.")
        self.kind, self.channel, self.sigma, self.n_bins = kind, channel, sigma, n_bins
        self.spacing = None if spacing is None else tuple(spacing)

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on, for a calibration."""
        own: dict[str, dict[str, Any]] = {
            "smoothed": {"sigma": self.sigma, "spacing": self.spacing},
            "equalised": {"n_bins": self.n_bins},
        }
        return {"kind": self.kind, "channel": self.channel, **own.get(self.kind, {})}

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
        maps = [self._score(volume[self.channel], brain, spacing) for volume, brain in zip(volumes, masks, strict=True)]
        heatmaps = torch.as_tensor(np.stack(maps)[:, None], dtype=torch.float32)
        return heatmaps if exclude is None else heatmaps.masked_fill(torch.as_tensor(exclude).cpu() > 0, torch.nan)

    def _score(
        self, image: NDArray[np.float32], brain: NDArray[np.bool_], spacing: Sequence[float]
    ) -> NDArray[np.floating[Any]]:
        if self.kind == "smoothed":
            sigma = [self.sigma / s for s in spacing]
            weight = ndimage.gaussian_filter(brain.astype(np.float32), sigma, mode="constant")
            total = ndimage.gaussian_filter(np.where(brain, image, 0), sigma, mode="constant")
            score = total / np.maximum(weight, 1e-6)
        elif self.kind == "equalised":
            score = equalize_hist(image, self.n_bins, mask=brain)  # type: ignore[no-untyped-call]
        else:
            score = -image if self.kind == "inverted" else image
        return np.where(brain, score, np.nan)


def _spacing_of(inputs: Tensor) -> Sequence[float]:
    """Voxel size of volumes (B, C, H, W, D) in mm."""
    if not isinstance(inputs, MetaTensor):
        return (1.0, 1.0, 1.0)
    return [float(size) for size in np.linalg.norm(np.asarray(inputs.affine)[:3, :3], axis=0)]


def intensity_baselines(
    channel: int = 0, spacing: Sequence[float] | None = (1.0, 1.0, 1.0)
) -> dict[str, IntensityBaseline]:
    """The first rows of an evaluation, by name; ``channel`` and ``spacing`` as in :class:`IntensityBaseline`."""
    names = {"plain": "intensity", "smoothed": "intensity, smoothed", "equalised": "intensity, equalised"}
    return {names[kind]: IntensityBaseline(kind, channel, spacing=spacing) for kind in names}
