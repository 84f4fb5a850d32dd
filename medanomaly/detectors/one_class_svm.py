"""One-class SVM on the voxels of a patch: a boundary around normal patches; abnormal is what lies outside.

The nu-formulation with a Gaussian kernel (Schölkopf et al., Neural Computation 13:1443, 2001), fitted by scikit-learn;
the baseline of Madzia-Madzou & Kuijf, SPIE 2022, arXiv 2206.03876.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from sklearn.svm import OneClassSVM as ScikitOneClassSVM
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import first_samples
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.networks.any_length import AnyLength

CACHE_MB = 1000  # for rows of the kernel matrix while fitting: all of them for 10,000 patches


class OneClassSVM(AnyLength, Detector):
    """One-class SVM with kernel ``exp(-gamma * |x - y|^2)`` on flattened patches, all channels together.

    It is fitted, not trained: there are no stages, :meth:`fit_statistics` does all, and nothing is random. The score
    is minus scikit-learn's decision value: above 0 outside the boundary. Its size grows with the number of training
    patches, so compare scores of one model only. Before the fit there is no score, but a TrainingError.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        nu: share of the training patches that may lie outside, above 0 and at most 1. The paper gives none; its
            specificity of 49 % is that of 0.5.
        gamma: of the kernel; ``1 / (numbers in a patch * variance of all training values)`` if not given.
        max_samples: most patches to fit on; the time grows with their square.
    """

    any_length: ClassVar[tuple[str, ...]] = ("support_vectors", "dual_coef")
    keeps_patches = True  # the support vectors are patches

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        nu: float = 0.5,
        gamma: float | None = None,
        max_samples: int = 10_000,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if not 0 < nu <= 1:
            raise ConfigError(f"one-class SVM: nu is {nu}, but it is a share: above 0 and at most 1.")
        if gamma is not None and not gamma > 0:
            raise ConfigError(f"one-class SVM: gamma is {gamma}: give a number above 0, or none to have it computed.")
        if max_samples < 2:
            raise ConfigError(f"one-class SVM: max_samples is {max_samples}: it needs at least 2 patches to fit on.")
        self.nu, self.gamma, self.max_samples = nu, gamma, max_samples
        self.distances_at_once = 2**24  # 128 MiB, whatever the batch
        self.support_vectors = nn.Buffer(torch.zeros(0, in_channels * patch_size**spatial_dims))
        self.dual_coef = nn.Buffer(torch.zeros(0, dtype=torch.float64))
        self.fitted_gamma = nn.Buffer(torch.zeros((), dtype=torch.float64))
        self.offset = nn.Buffer(torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fit on the first ``max_samples`` patches; ``batches`` must be shuffled, as those of a sampler are.

        Raises:
            TrainingError: if there are no patches, all are the same, or a value is not finite.
        """
        samples = first_samples(batches, self.max_samples)
        if (samples == samples[:1]).all():
            raise TrainingError(
                f"one-class SVM: the {len(samples)} training patches do not differ, but it needs at least 2 that do: "
                "check the training scans and their brain masks."
            )
        gamma = self.gamma or 1 / (samples.shape[1] * samples.var())
        svm = ScikitOneClassSVM(nu=self.nu, gamma=gamma, cache_size=CACHE_MB).fit(samples)
        self.hold("support_vectors", torch.as_tensor(svm.support_vectors_))
        self.hold("dual_coef", torch.as_tensor(svm.dual_coef_[0]))
        self.fitted_gamma.fill_(gamma)
        self.offset.fill_(float(svm.offset_[0]))

    def score(self, patches: Tensor) -> Tensor:
        if len(self.dual_coef) == 0:
            raise TrainingError("one-class SVM: it is not fitted yet, so it has no scores: train it, or load a model.")
        # in double precision: |x - y|^2 is computed by a matrix product, whose single-precision errors (other ones for
        # one patch than for many, and far larger ones in bfloat16) would show in the score
        vectors = self.support_vectors.double()
        scores = []
        for rows in patches.flatten(1).split(max(self.distances_at_once // len(vectors), 1)):
            distances = torch.cdist(rows.double(), vectors)
            scores.append(self.offset - torch.exp(-self.fitted_gamma * distances.square()) @ self.dual_coef)
        return torch.cat(scores)[:, None].float()
