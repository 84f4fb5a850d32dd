"""Principal components: what the directions in which normal patches differ most cannot reconstruct is abnormal.

The best linear reconstruction (Pearson, Philosophical Magazine 2:559, 1901; Jolliffe, Principal Component Analysis,
2002); its squared error as a test of what is abnormal is the Q of Jackson & Mudholkar, Technometrics 21:341, 1979. A
classifier of major and minor components: Shyu et al., ICDM Foundations Workshop 2003.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from sklearn import decomposition
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import first_samples
from medanomaly.errors import ConfigError, TrainingError


class PCA(Detector):
    """Squared error of the reconstruction from ``n_components`` numbers; scores (B, 1, H, W[, D]), one a voxel.

    It is fitted on flattened patches, all channels together. Patches, and an error a voxel (mean over channels)
    instead of one sum a patch, are ours; minor components are not weighted as in Shyu et al.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        n_components: numbers that are kept of a patch, fewer than it has. One fewer than there are training patches
            are all that these tell of; the others stay 0.
        max_samples: most patches to fit on; they are all in memory at once.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        n_components: int = 50,
        max_samples: int = 10_000,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        numbers = in_channels * patch_size**spatial_dims
        if not 1 <= n_components < numbers:
            raise ConfigError(f"PCA: n_components is {n_components}: give 1 to {numbers - 1}, fewer than a patch has.")
        if max_samples < 2:
            raise ConfigError(f"PCA: max_samples is {max_samples}, but it needs at least 2 patches to fit on.")
        self.max_samples = max_samples
        self.mean = nn.Buffer(torch.zeros(numbers))
        self.components = nn.Buffer(torch.zeros(n_components, numbers))

    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fit on the first ``max_samples`` patches.

        Raises:
            TrainingError: if there are fewer than 2 patches, or a value is not finite.
        """
        samples = first_samples(batches, self.max_samples)
        if len(samples) < 2:
            raise TrainingError(f"PCA: it needs at least 2 training patches, but there are {len(samples)}.")
        n = min(len(self.components), len(samples) - 1)
        pca = decomposition.PCA(n, random_state=0).fit(samples)  # random for long patches, always the same
        self.mean.copy_(torch.as_tensor(pca.mean_))
        self.components.zero_()[:n] = torch.as_tensor(pca.components_)

    def reconstruct(self, patches: Tensor) -> Tensor:
        """The nearest patches that the components can make: (B, C, H, W[, D]), like ``patches``."""
        return (patches - self._residual(patches)).float()

    def score(self, patches: Tensor) -> Tensor:
        return self._residual(patches).square().mean(dim=1, keepdim=True).float()

    def _residual(self, patches: Tensor) -> Tensor:
        # in double precision, in which a matrix product is the same for one patch as for many
        centred, components = patches.flatten(1).double() - self.mean, self.components.double()
        return (centred - centred @ components.t() @ components).view(patches.shape)
