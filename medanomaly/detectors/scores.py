"""What scores are made of in several detectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from medanomaly.networks.strength import Strength, amount_of


def signed_residual(residual: Tensor, sign: str) -> Tensor:
    """A score a voxel (B, 1, H, W[, D]) from ``x - x_hat`` (B, C, H, W[, D]).

    "both": the mean absolute residual of the channels; "bright" and "dark": the positive and the negative part of the
    first channel's.
    """
    if sign == "bright":
        return residual[:, :1].clamp(min=0)
    if sign == "dark":
        return (-residual[:, :1]).clamp(min=0)
    return residual.abs().mean(dim=1, keepdim=True)


class ModifiedScore(nn.Module):
    """Errors of the code's elements on a common scale: (e - median) / MAD (Madzia-Madzou & Kuijf, section 2.2.2).

    The median of each element and its median absolute deviation are those of training patches.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.median = nn.Buffer(torch.zeros(latent_dim))
        self.mad = nn.Buffer(torch.ones(latent_dim))

    def fit(self, errors: Tensor) -> None:
        """Median and MAD of errors (N, latent_dim)."""
        self.median.copy_(errors.median(dim=0).values)
        self.mad.copy_((errors - self.median).abs().median(dim=0).values)

    def forward(self, errors: Tensor) -> Tensor:
        """(B, latent_dim) to (B, n), without the elements that never varied in training; if none did, ``errors``."""
        alive = self.mad > 1e-12
        if bool(alive.any()):
            errors = ((errors - self.median) / (self.mad + 1e-8))[:, alive]
        return errors


def at_least_four(patches: Tensor) -> Tensor:
    """Fewer than four patches (B, C, H, W[, D]) four times over; more, as they are.

    For a few patches torch takes other kernels, which sum in another order: a score would depend on how many there are.
    """
    return torch.cat([patches] * 4) if patches.shape[0] < 4 else patches


def fit_parts(
    batches: Iterable[Tensor],
    parts: Callable[[Tensor], Tensor],
    medians: Tensor,
    strength: Strength,
    least: float = 1e-8,
) -> None:
    """Fit what a score of several parts needs to know of training patches, in one pass.

    Args:
        batches: training patches (B, C, H, W[, D]).
        parts: what gives the parts of the score of a batch, (B, n).
        medians: a buffer (n,), which gets the median of each part, but at least ``least``.
        strength: gets how much patches usually show.
    """
    found, amounts = [], []
    for batch in batches:
        found.append(parts(batch))
        amounts.append(amount_of(batch))
    medians.copy_(torch.cat(found).median(dim=0).values.clamp(min=least))
    strength.fit(torch.cat(amounts))
