"""Intensities of prepared patches: what is inside the region, and random changes of contrast for training."""

from __future__ import annotations

import torch
from torch import Tensor


def foreground(patches: Tensor) -> Tensor:
    """Where a patch (B, C, H, W[, D]) is not 0 in some channel: (B, 1, H, W[, D]); preparation writes 0 outside."""
    return (patches != 0).any(dim=1, keepdim=True)


def jittered(patches: Tensor, std: float, gamma: float = 0.0) -> Tensor:
    """Patches with a random factor exp(N(0, std)) and shift N(0, std / 2) for each and each channel; 0 stays 0.

    Then, if ``gamma`` is not 0, what is above 0 is raised to a random power exp(N(0, gamma)): the contrast of tissues.
    """
    shape = (*patches.shape[:2], *[1] * (patches.ndim - 2))
    factor, shift = (torch.randn(shape, device=patches.device) for _ in range(2))
    changed = patches * torch.exp(std * factor) + std / 2 * shift
    if gamma != 0:
        power = torch.exp(gamma * torch.randn(shape, device=patches.device))
        changed = torch.where(changed > 0, changed.clamp(min=0) ** power, changed)
    return torch.where(foreground(patches), changed, 0.0)
