"""The trivial detectors that every result is held against: how bright a voxel is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.exposure import equalize_hist

from medanomaly.detectors.baseline import Baseline, gaussian_mean
from medanomaly.errors import ConfigError

KINDS = ("plain", "smoothed", "equalised", "inverted", "mean")


class IntensityBaseline(Baseline):
    """Heatmaps from brightness alone; see :class:`~medanomaly.detectors.baseline.Baseline` for how it is called.

    - ``"plain"``: the normalised intensity.
    - ``"smoothed"``: a Gaussian mean over the brain voxels around (background does not count).
    - ``"equalised"``: the rank of the intensity within the brain, 0 to 1: histogram equalisation of the brain voxels
      with ``n_bins`` bins, interpolated between their centres (Meissen et al. 2021, arXiv 2109.06023).
    - ``"inverted"``: minus the intensity, for what is abnormal because it is dark.
    - ``"mean"``: the mean intensity of the brain, at each of its voxels: for whole images, such as films.

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
        super().__init__(channel, spacing)
        if kind not in KINDS:
            raise ConfigError(f"the intensity baseline {kind!r} is unknown: use one of {', '.join(KINDS)}.")
        self.kind, self.sigma, self.n_bins = kind, sigma, n_bins

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on, for a calibration."""
        own: dict[str, dict[str, Any]] = {
            "smoothed": {"sigma": self.sigma, "spacing": self.spacing},
            "equalised": {"n_bins": self.n_bins},
        }
        return {"kind": self.kind, "channel": self.channel, **own.get(self.kind, {})}

    def score_volume(
        self, volume: NDArray[np.float32], brain: NDArray[np.bool_], spacing: Sequence[float]
    ) -> NDArray[np.floating[Any]]:
        image = volume[self.channel]
        if self.kind == "smoothed":
            return gaussian_mean(image, brain, self.sigma, spacing)
        if self.kind == "equalised":
            return np.asarray(equalize_hist(image, self.n_bins, mask=brain))  # type: ignore[no-untyped-call]
        if self.kind == "mean":
            return np.full(image.shape, image[brain].mean(dtype=np.float64))
        return np.asarray(-image if self.kind == "inverted" else image)


def intensity_baselines(
    channel: int = 0, spacing: Sequence[float] | None = (1.0, 1.0, 1.0)
) -> dict[str, IntensityBaseline]:
    """The first rows of an evaluation, by name; ``channel`` and ``spacing`` as in :class:`IntensityBaseline`."""
    names = {"plain": "intensity", "smoothed": "intensity, smoothed", "equalised": "intensity, equalised"}
    return {names[kind]: IntensityBaseline(kind, channel, spacing=spacing) for kind in names}
