"""Nearest neighbours on the voxels of a patch: abnormal is what lies far from all normal patches that are known.

The distance to the k-th nearest as a test of outliers is that of Ramaswamy et al., SIGMOD 2000; the mean distance to
the k nearest, that of Angiulli & Pizzuti, PKDD 2002. A plain baseline: what a network finds should be more than this.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import first_samples
from medanomaly.errors import ConfigError, TrainingError, check_count
from medanomaly.networks.any_length import AnyLength
from medanomaly.networks.nearest import nearest


class NearestNeighbours(AnyLength, Detector):
    """Mean Euclidean distance to the ``n_neighbours`` nearest training patches; scores (B, 1).

    Patches are flattened, all channels together. Training patches are only kept: there are no stages, and nothing is
    random. Before the fit there is no score, but a TrainingError.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`; ``patch_size`` may be any.
        n_neighbours: how many of the nearest training patches count.
        max_samples: most patches to keep, at least ``n_neighbours``; the time to score grows with them.
    """

    any_length: ClassVar[tuple[str, ...]] = ("bank",)
    keeps_patches = True

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 16,
        spatial_dims: int = 2,
        n_neighbours: int = 5,
        max_samples: int = 10_000,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("n_neighbours", n_neighbours)
        if max_samples < n_neighbours:
            raise ConfigError(
                f"nearest neighbours: max_samples is {max_samples}, but {n_neighbours} neighbours are to be found "
                "among the patches that are kept: keep more, or set n_neighbours lower."
            )
        self.n_neighbours, self.max_samples = n_neighbours, max_samples
        self.distances_at_once = 2**24  # 128 MiB, whatever the batch
        self.bank = nn.Buffer(torch.zeros(0, in_channels * patch_size**spatial_dims))

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Keep the first ``max_samples`` patches; ``batches`` must be shuffled, as those of a sampler are.

        Raises:
            TrainingError: if there are fewer than ``n_neighbours`` patches, or a value is not finite.
        """
        samples = first_samples(batches, self.max_samples)
        if len(samples) < self.n_neighbours:
            raise TrainingError(
                f"nearest neighbours: there are {len(samples)} training patches, but each patch is compared with "
                f"{self.n_neighbours} of them: give more (patches_per_epoch), or set n_neighbours lower."
            )
        self.hold("bank", torch.as_tensor(samples))

    def score(self, patches: Tensor) -> Tensor:
        if len(self.bank) == 0:
            raise TrainingError("nearest neighbours: it is not fitted yet: train it, or load a model.")
        distances, _ = nearest(patches.flatten(1), self.bank, self.n_neighbours, self.distances_at_once)
        return distances.mean(dim=1, keepdim=True).float()
