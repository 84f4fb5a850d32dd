"""How far samples that a generator made are from real ones: what coevolution chooses mixtures and cells by."""

from __future__ import annotations

from collections.abc import Callable

import torch
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
            n = max(len(values), len(real))
            values, real = _quantiles(values, n), _quantiles(real, n)
        return float((values - real).abs().mean())


def _quantiles(values: Tensor, n: int) -> Tensor:
    """``n`` quantiles, evenly spaced from the least to the greatest, of sorted values (m, ...): (n, ...)."""
    places = torch.linspace(0, len(values) - 1, n)
    below = places.long().clamp(max=max(len(values) - 2, 0))
    share = (places - below)[:, None]
    return values[below].lerp(values[(below + 1).clamp(max=len(values) - 1)], share)


class FrechetDistance:
    """The Fréchet distance of normal distributions fitted to features of real and made samples (Heusel et al. 2017).

    Args:
        real: samples (n, ...), more of them than there are features.
        features: samples to features (n, f), such as a frozen network in eval mode; the samples themselves, flattened,
            if not given.
    """

    def __init__(self, real: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> None:
        self.features = features
        self.real = self._of(real)

    def __call__(self, made: Tensor) -> float:
        """Of made samples (m, ...), more of them than there are features."""
        from monai.metrics.fid import get_fid_score

        return float(get_fid_score(self._of(made), self.real))

    @torch.no_grad()
    def _of(self, samples: Tensor) -> Tensor:
        features = samples if self.features is None else self.features(samples)
        return features.detach().flatten(1).double().cpu()
