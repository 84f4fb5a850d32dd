"""A baseline without training: how far a voxel is from the tissue classes of its own scan."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from medanomaly.detectors.baseline import Baseline, gaussian_mean
from medanomaly.errors import ConfigError

SIGNS = ("both", "bright", "dark")
FITTED_ON = 50_000  # voxels of a scan: its classes do not change with more


class TissueOutlier(Baseline):
    """Mahalanobis distance to the nearest tissue class of the scan's own brain, in all of its channels.

    The classes are a Gaussian mixture (for a brain, roughly fluid, grey and white matter), fitted in rounds: each
    leaves out the voxels that the one before finds least likely, so that a lesion does not become a class. The same is
    done in lesion segmentation by trimmed likelihood (Ait-Ali et al., STREM, MICCAI 2005).

    Args:
        sign: "bright" or "dark" keeps the distance of what is brighter, or darker, in ``channel`` than the brain's
            median, and gives 0 to the rest.
        channel: that the sign is of; 0 is FLAIR where the cohort has FLAIR and T1.
        n_classes: of tissue.
        left_out: share of the voxels, 0 to 1, that each round leaves out.
        rounds: fits, the first of all voxels.
        sigma: of the Gaussian mean over the distances of the brain voxels around, in mm.
        spacing: voxel size of the volumes, in mm; None takes that of the volume, if it is a MetaTensor, or else 1.

    Raises:
        ConfigError: for another sign, or a number that cannot work.
    """

    def __init__(
        self,
        sign: str = "both",
        channel: int = 0,
        n_classes: int = 3,
        left_out: float = 0.05,
        rounds: int = 4,
        sigma: float = 1.5,
        spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__(channel, spacing)
        if sign not in SIGNS:
            raise ConfigError(f"sign is {sign!r}: use one of {', '.join(SIGNS)}.")
        if n_classes < 1 or rounds < 1 or not 0 <= left_out < 1:
            raise ConfigError(
                f"n_classes={n_classes}, rounds={rounds}, left_out={left_out}: the first two must be at least 1, the "
                "last from 0 to below 1."
            )
        self.sign, self.n_classes, self.left_out, self.rounds, self.sigma = sign, n_classes, left_out, rounds, sigma

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on, for a calibration."""
        names = ("sign", "channel", "n_classes", "left_out", "rounds", "sigma", "spacing")
        return {"kind": "tissue outlier", **{name: getattr(self, name) for name in names}}

    def score_volume(
        self, volume: NDArray[np.float32], brain: NDArray[np.bool_], spacing: Sequence[float]
    ) -> NDArray[np.floating[Any]]:
        voxels = volume[:, brain].T.astype(np.float64)
        if len(voxels) < 10 * self.n_classes:  # of too few there are no classes: nothing is unusual
            return np.zeros(brain.shape)
        distance = distance_to_classes(voxels, self._classes(voxels))
        value = voxels[:, self.channel]
        if self.sign == "bright":
            distance[value <= np.median(value)] = 0
        elif self.sign == "dark":
            distance[value >= np.median(value)] = 0
        scores = np.zeros(brain.shape)
        scores[brain] = distance
        return gaussian_mean(scores, brain, self.sigma, spacing)

    def _classes(self, voxels: NDArray[np.float64]) -> GaussianMixture:
        """The mixture of a scan, by its own voxels (N, C) and nothing drawn anew: the same for the same scan."""
        sample = voxels
        if len(voxels) > FITTED_ON:
            sample = voxels[np.random.default_rng(0).choice(len(voxels), FITTED_ON, replace=False)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # near enough, after 100 steps or of an even image
            mixture = GaussianMixture(self.n_classes, reg_covar=1e-5, random_state=0).fit(sample)
            for _ in range(self.rounds - 1):
                likelihood = mixture.score_samples(sample)
                kept = sample[likelihood >= np.quantile(likelihood, self.left_out)]
                begin = {
                    "weights_init": mixture.weights_,
                    "means_init": mixture.means_,
                    "precisions_init": mixture.precisions_,
                }
                mixture = GaussianMixture(self.n_classes, reg_covar=1e-5, **begin).fit(kept)
        return mixture


def distance_to_classes(voxels: NDArray[np.float64], mixture: GaussianMixture) -> NDArray[np.float64]:
    """Mahalanobis distance of voxels (N, C) to the nearest class of a mixture: (N,), 0 or more."""
    squares = [
        np.square((voxels - mean) @ root).sum(axis=1)
        for mean, root in zip(mixture.means_, mixture.precisions_cholesky_, strict=True)
    ]
    return np.asarray(np.sqrt(np.min(squares, axis=0)))
