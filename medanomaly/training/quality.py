"""How far samples that a generator made are from real ones: what coevolution chooses mixtures and cells by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.metrics.fid import get_fid_score
from torch import Tensor

from medanomaly.errors import InputError


Quality = Callable[[Tensor], float]  # of made samples (n, ...): lower is better


class SlicedWasserstein:
    """The sliced Wasserstein distance to real samples (Rabin et al. 2011): lower is better, 0 for the same samples.

    Real and made samples are flattened and projected on the same random directions; on each, the mean absolute
    difference of their quantiles is the distance, and the mean of these over the directions is the result.

    Args:
        real: samples (n, ...).
        directions: how many.
        seed: of the directions.

    Raises:
        InputError: if there are fewer than two real samples.
    """

    def __init__(self, real: Tensor, directions: int = 64, seed: int = 0) -> None:
        if len(real) < 2:
            raise InputError(f"a distance to {len(real)} real samples says nothing: give at least two.")
        flat = real.detach().flatten(1).float().cpu()
        drawn = torch.randn(flat.shape[1], directions, generator=torch.Generator().manual_seed(seed))
        self.directions = drawn / drawn.norm(dim=0)
        self.real = (flat @ self.directions).sort(dim=0).values

    def __call__(self, made: Tensor) -> float:
        """Of made samples (m, ...), any number of them."""
        values = (made.detach().flatten(1).float().cpu() @ self.directions).sort(dim=0).values
        real = self.real
        if len(values) != len(real):
            shares = torch.linspace(0, 1, max(len(values), len(real)))
            values, real = values.quantile(shares, dim=0), real.quantile(shares, dim=0)
        return float((values - real).abs().mean())


class FrechetDistance:
    """The Fréchet distance of two normal distributions fitted to features of real and of made samples (Heusel et al. 2017).

    Args:
        real: samples (n, ...), more of them than there are features.
        features: samples to features (n, f), such as a frozen network in eval mode; the samples themselves, flattened, if
            not given.
    """

    def __init__(self, real: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> None:
        self.features = features
        self.real = self._of(real)

    def __call__(self, made: Tensor) -> float:
        """Of made samples (m, ...), more of them than there are features."""
        return float(get_fid_score(self._of(made), self.real))

    @torch.no_grad()
    def _of(self, samples: Tensor) -> Tensor:
        features = samples if self.features is None else self.features(samples)
        return features.detach().flatten(1).double().cpu()
