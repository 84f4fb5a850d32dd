"""PaDiM: abnormal is what a frozen network sees in a place where normal images do not show it.

Defard et al., 2020, arXiv 2011.08785: for each position a Gaussian of the features of a network that was trained
elsewhere, and the Mahalanobis distance from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from medanomaly.detectors.base import Detector
from medanomaly.detectors.scores import at_least_four
from medanomaly.errors import ConfigError, TrainingError
from medanomaly.networks.frozen_features import FrozenFeatures, ScoreMap

MOST_CHANNELS = 100  # of the paper with ResNet-18
BYTES = 8  # of a number in the sums of squares


class PaDiM(Detector):
    """Mahalanobis distance of features from what is normal at their position.

    **Positions must mean the same in all patches**: whole films, or whole slices or volumes of heads that lie alike.
    Of patches that are drawn at random, each position sees all tissues, and its Gaussian says nothing of the place.

    It is fitted in one pass, without stages: sums and sums of squares of features, for each position. They take
    ``side**dims * n_channels**2`` numbers. Ours: other backbones; fewer channels where the sums would be too large.

    Args:
        in_channels, patch_size, spatial_dims: see :class:`Detector`.
        backbone, layers, features: see :class:`FrozenFeatures`.
        backbone_weights: see :meth:`FrozenFeatures.take`. They are read by the fit alone: a saved model has its own.
        n_channels: channels of the features that are kept, drawn at random; 100 (paper), or as many as there are or as
            fit into ``max_gb``, if not given.
        regularisation: what is added to the variances.
        smoothing: standard deviation in voxels of the Gaussian that smooths the map (paper: 4).
        score: "map", a score a voxel (B, 1, H, W[, D]), or "patch", the highest of the map for each patch (B, 1).
        max_gb: what the sums of the fit may take.

    Raises:
        ConfigError: if a setting cannot work, or the sums would take more than ``max_gb``.
    """

    def __init__(
        self,
        in_channels: int = 1,
        patch_size: int = 64,
        spatial_dims: int = 2,
        backbone: str = "resnet18",
        backbone_weights: str | None = None,
        layers: Sequence[int] = (1, 2, 3),
        features: int = 16,
        n_channels: int | None = None,
        regularisation: float = 0.01,
        smoothing: float = 4.0,
        score: str = "map",
        max_gb: float = 1.0,
    ) -> None:
        super().__init__(in_channels, patch_size, spatial_dims)
        if score not in ("map", "patch"):
            raise ConfigError(f"PaDiM: score is {score!r}; use one of 'map', 'patch'.")
        if not regularisation > 0:
            raise ConfigError(f"PaDiM: regularisation is {regularisation}: variances need something above 0 added.")
        self.backbone_weights, self.regularisation, self.score_kind = backbone_weights, regularisation, score
        self.backbone = FrozenFeatures(in_channels, patch_size, spatial_dims, backbone, layers, features)
        self.exportable = self.backbone.exportable
        positions, available = self.backbone.positions, self.backbone.channels
        fitting = int((max_gb * 1e9 / BYTES / positions) ** 0.5)
        kept = min(MOST_CHANNELS, available, max(fitting, 1)) if n_channels is None else n_channels
        if not 1 <= kept <= available:
            raise ConfigError(f"PaDiM: n_channels is {kept}, but the layers {list(layers)} have {available} channels.")
        if kept > fitting:
            raise ConfigError(
                f"PaDiM: {kept} channels at {positions} positions take {BYTES * positions * kept**2 / 1e9:.3g} GB to "
                f"fit, more than max_gb={max_gb:g}: set n_channels to {fitting} or fewer, use deeper layers or smaller "
                "patches, or allow more."
            )
        self.chosen = nn.Buffer(torch.randperm(available)[:kept].sort().values)
        self.mean = nn.Buffer(torch.zeros(positions, kept))
        self.whitening = nn.Buffer(torch.zeros(positions, kept, kept))  # W with W W' the inverse of the covariance
        self.n_fitted = nn.Buffer(torch.zeros(()))
        self.at_once = 256  # positions whose distances are computed together
        self.map = ScoreMap(self.backbone.side, patch_size, smoothing)

    def _at_positions(self, patches: Tensor) -> Tensor:
        """The features that are kept, by position: (positions, B, n_channels)."""
        found: Tensor = self.backbone(patches)[:, self.chosen].flatten(2).permute(2, 0, 1)
        return found

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Mean and covariance of the features at each position, of all patches.

        Raises:
            ConfigError: if there are no weights for the backbone.
            InputError: if they cannot be read or do not fit.
            TrainingError: if there are fewer than 2 patches, or a feature is not finite.
        """
        self.backbone.take(self.backbone_weights)
        n, origin = 0, torch.zeros(())
        sums, squares = torch.zeros_like(self.mean, dtype=torch.float64), torch.zeros(())
        for batch in batches:
            found = self._at_positions(batch).double()
            if n == 0:  # near the mean, so that no digits are lost
                origin = found.mean(dim=1, keepdim=True)
                squares = torch.zeros_like(self.whitening, dtype=torch.float64)
            found = found - origin
            n += found.shape[1]
            sums += found.sum(dim=1)
            squares.baddbmm_(found.transpose(1, 2), found)
        if n < 2 or not (torch.isfinite(sums).all() and torch.isfinite(squares).all()):
            raise TrainingError(
                f"PaDiM: it needs at least 2 training patches with finite values, and there are {n}: check the "
                "training scans and their preprocessing, or give more (patches_per_epoch)."
            )
        self.mean.copy_(sums / n + origin[:, 0])
        one = torch.eye(sums.shape[1], dtype=torch.float64, device=sums.device)
        for place in range(len(sums)):  # one by one: all at once would take the memory several times
            covariance = (squares[place] - torch.outer(sums[place], sums[place]) / n) / (
                n - 1
            ) + self.regularisation * one
            lower = torch.linalg.cholesky(covariance)
            self.whitening[place] = torch.linalg.solve_triangular(lower, one, upper=False).t()
        self.n_fitted.fill_(n)

    def cautions(self) -> list[str]:
        return self.backbone.cautions()

    def squared_distances(self, patches: Tensor) -> Tensor:
        """Squared Mahalanobis distances (B, 1, side, side[, side]) of patches (B, C, H, W[, D])."""
        apart = self._at_positions(patches) - self.mean[:, None]
        squared: list[Tensor] = []
        # in double precision, which autocast leaves alone, and not all at once, for its memory
        for some, whitening in zip(apart.split(self.at_once), self.whitening.split(self.at_once)):  # noqa: B905
            squared.append(torch.matmul(some.double(), whitening.double()).square().sum(dim=2))
        grid = [patches.shape[0], 1] + [self.backbone.side] * self.spatial_dims
        return torch.cat(squared).t().reshape(grid).float()

    def score(self, patches: Tensor) -> Tensor:
        if self.n_fitted == 0:
            raise TrainingError("PaDiM: it is not fitted yet: train it, or load a model.")
        scores: Tensor = self.map(self.squared_distances(at_least_four(patches)).sqrt())[: patches.shape[0]]
        return scores if self.score_kind == "map" else scores.flatten(1).amax(dim=1, keepdim=True)
