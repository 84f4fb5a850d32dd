"""Noise that is smooth in space."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import log2

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


def noise_of_any_grain(patches: Tensor, most: float) -> Tensor:
    """Noise like ``patches`` (B, C, H, W[, D]): white, or blots as large as half of a patch, or between the two.

    :func:`smooth_noise` with 2, 4, 8, ... cells a side, up to one for each voxel, drawn anew at each call, and for each
    patch a strength of its own, uniform from 0 to ``most``.
    """
    n_cells = 2 ** int(torch.randint(1, max(int(log2(min(patches.shape[2:]))), 1) + 1, ()))
    strength = most * torch.rand((len(patches),) + (1,) * (patches.ndim - 1), device=patches.device)
    return strength * smooth_noise(patches, n_cells)


@contextmanager
def same_draws() -> Iterator[None]:
    """What is drawn inside is the same each time, and what is drawn afterwards as if nothing had been.

    For losses of held-out patches, which are to differ between epochs by the weights alone.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
