"""Noise that is smooth in space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def smooth_noise(patches: Tensor, n_cells: int) -> Tensor:
    """Noise N(0, 1) on a grid of ``n_cells`` a side, enlarged linearly to ``patches`` and rolled at random.

    Of the shape of ``patches`` (B, C, H, W[, D]); enlarging makes the standard deviation smaller than 1.
    """
    spatial_dims = patches.ndim - 2
    coarse = torch.randn(*patches.shape[:2], *[n_cells] * spatial_dims, device=patches.device)
    mode = "bilinear" if spatial_dims == 2 else "trilinear"
    noise = F.interpolate(coarse, size=patches.shape[2:], mode=mode, align_corners=False)
    shifts = [int(torch.randint(size, ())) for size in patches.shape[2:]]
    return noise.roll(shifts, dims=list(range(2, patches.ndim)))
