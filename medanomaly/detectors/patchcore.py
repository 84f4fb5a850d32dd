"""PatchCore: abnormal is what a frozen network sees and has seen nothing like in normal images, wherever it was.

Roth et al., 2021, arXiv 2106.08265: a bank of features of normal images, thinned to a core set that leaves none far
away, and the distance to the nearest of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import floor
from typing import ClassVar

import numpy as np
import torch
from sklearn.random_projection import SparseRandomProjection, johnson_lindenstrauss_min_dim
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.samples import sampled_rows
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError, TrainingError, check_count
from medanomaly.networks.any_length import AnyLength
from medanomaly.networks.frozen_features import FrozenFeatures, ScoreMap
from medanomaly.networks.nearest import greedy_centres, nearest


class PatchCore(AnyLength, Detector):
    """Distance of features to the nearest of a core set of normal ones.

    It is fitted, without stages: features of all training patches, of them ``max_features`` at random, of these the
    core set by greedy k-centre, with distances in a sparse random projection. What is kept is features, not patches.

    Ours: other backbones; the random choice before the core set, as greedy k-centre of 10 % of N features takes
    ``0.1 * N**2`` distances.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`.
        backbone, layers, features: see :class:`FrozenFeatures`.
        backbone_weights: see :meth:`FrozenFeatures.take`. They are read by the fit alone: a saved model has its own.
        ratio: size of the core set as a share of the features it is chosen from, above 0 and at most 1 (paper: 0.01 to
            0.25).
        max_features: most features that the core set is chosen from; fewer positions than this are all taken.
        eps: error of the random projection, as Johnson and Lindenstrauss bound it; features that have fewer channels
            than it would need are not projected.
        n_neighbours: of the nearest of the bank, by which the patch's score is weighed; 1 leaves the weight out.
        smoothing: standard deviation in voxels of the Gaussian that smooths the map (paper: 4).
        score: "map", a score a voxel (B, 1, H, W[, D]), or "patch", the paper's for an image (B, 1): the distance of
            the farthest position, less where the bank is dense around its nearest.

    Raises:
        ConfigError: if a setting cannot work.
    """

    any_length: ClassVar[tuple[str, ...]] = ("bank",)

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        backbone: str = "resnet18",
        backbone_weights: str | None = None,
        layers: Sequence[int] = (2, 3),
        features: int = 16,
        ratio: float = 0.1,
        max_features: int = 100_000,
        eps: float = 0.9,
        n_neighbours: int = 9,
        smoothing: float = 4.0,
        score: str = "map",
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        check_count("max_features", max_features)
        check_count("n_neighbours", n_neighbours)
        if score not in ("map", "patch"):
            raise ConfigError(f"PatchCore: score is {score!r}; use one of 'map', 'patch'.")
        if not 0 < ratio <= 1:
            raise ConfigError(f"PatchCore: ratio is {ratio}, but it is a share: above 0 and at most 1.")
        if not 0 < eps < 1:
            raise ConfigError(f"PatchCore: eps is {eps}, but it is a relative error: between 0 and 1.")
        self.backbone_weights, self.score_kind = backbone_weights, score
        self.ratio, self.max_features, self.eps, self.n_neighbours = ratio, max_features, eps, n_neighbours
        self.backbone = FrozenFeatures(in_channels, patch_size, spatial_dims, backbone, layers, features, pool=3)
        self.exportable = self.backbone.exportable
        self.bank = nn.Buffer(torch.zeros(0, self.backbone.channels))
        self.map = ScoreMap(self.backbone.side, patch_size, smoothing)

    def _rows(self, patches: Tensor) -> Tensor:
        """Features (B * positions, channels); those of a patch together."""
        rows: Tensor = self.backbone(patches).flatten(2).transpose(1, 2).flatten(0, 1)
        return rows

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Fill the bank with ``floor(ratio * N)`` features of N.

        Raises:
            ConfigError: if there are no weights for the backbone.
            InputError: if they cannot be read or do not fit.
            TrainingError: if there are too few features for the ratio, or one is not finite.
        """
        self.backbone.take(self.backbone_weights)
        rows = sampled_rows((self._rows(batch) for batch in batches), self.max_features)
        n = floor(self.ratio * len(rows) + 1e-9)  # 0.29 * 100 is a little less than 29
        if n < 1 or not torch.isfinite(rows).all():
            raise TrainingError(
                f"PatchCore: a share of {self.ratio} of {len(rows)} features is {n}, but it needs at least 1, "
                "and finite values: check the training scans and their preprocessing, or give more (patches_per_epoch)."
            )
        self.hold("bank", rows[greedy_centres(self._projected(rows), n)])

    def _projected(self, rows: Tensor) -> Tensor:
        """Features in fewer dimensions, in which distances are about what they were."""
        dimensions = johnson_lindenstrauss_min_dim(max(len(rows), 2), eps=self.eps)
        if dimensions >= rows.shape[1]:
            return rows
        projection = SparseRandomProjection(dimensions, random_state=int(torch.randint(2**31, ())))
        axes = projection.fit(np.zeros((1, rows.shape[1]), dtype=np.float32)).components_.toarray()
        return rows @ torch.as_tensor(axes, dtype=rows.dtype, device=rows.device).t()

    def cautions(self) -> list[str]:
        kept = "The model file holds features of training images. These are no images, but may be traced back to them."
        return [kept, *self.backbone.cautions()]

    def score(self, patches: Tensor) -> Tensor:
        if self.bank.shape[0] == 0:
            raise TrainingError("PatchCore: it is not fitted yet: train it, or load a model.")
        n = patches.shape[0]
        rows = self._rows(at_least_four(patches))[: n * self.backbone.positions]
        distances, places = nearest(rows, self.bank, 1)
        if self.score_kind == "patch":
            return self._of_patches(rows.unflatten(0, [n, -1]), distances.view(n, -1), places.view(n, -1)).float()
        grid = [n, 1] + [self.backbone.side] * self.spatial_dims
        scores: Tensor = self.map(distances.view(grid))
        return scores

    def _of_patches(self, rows: Tensor, distances: Tensor, places: Tensor) -> Tensor:
        """The farthest position of each patch, weighed: (B, 1), of rows (B, positions, channels)."""
        farthest, where = distances.max(dim=1, keepdim=True)
        k = min(self.n_neighbours, self.bank.shape[0])
        if k == 1:
            return farthest
        # the bank's own neighbours of the one that is nearest, and how far they are from the position
        around = nearest(self.bank[places.gather(1, where)[:, 0]], self.bank, k)[1]
        row = rows.gather(1, where[:, :, None].expand(-1, -1, rows.shape[2])).double()
        apart = (self.bank[around].double() - row).square().sum(dim=2).sqrt()
        return farthest * (1 - torch.exp(farthest - torch.logsumexp(apart, dim=1, keepdim=True)))
