"""How much there is of what a patch shows, for scores that are relative to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def amount_of(patches: Tensor) -> Tensor:
    """Mean absolute intensity of each patch: (B, C, H, W[, D]) to (B,)."""
    return patches.abs().flatten(1).mean(dim=1)


class Strength(nn.Module):
    """Mean absolute intensity of a patch, but at least a tenth of what is usual, for empty patches' sake."""

    def __init__(self) -> None:
        super().__init__()
        self.least = nn.Buffer(torch.tensor(1e-8))

    def fit(self, amounts: Tensor) -> None:
        """Learn what is usual from the amounts (N,) of training patches: their median."""
        self.least.copy_(0.1 * amounts.median().clamp(min=1e-7))

    @torch.jit.export
    def divide(self, scores: Tensor, patches: Tensor) -> Tensor:
        """Scores (B, 1) or (B, 1, H, W[, D]) relative to the strength of their patches."""
        return scores / self.forward(patches).view([-1] + [1] * (scores.dim() - 1))

    def of_amounts(self, amounts: Tensor) -> Tensor:
        """The same of patches of which the mean absolute intensities (B,) are known."""
        return torch.maximum(amounts, self.least)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, C, H, W[, D]) to (B,)."""
        return self.of_amounts(amount_of(patches))
