"""Intensities of prepared patches: what is inside the region, and what another scanner would have made of it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


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


def biased(patches: Tensor, std: float, n_cells: int = 4) -> Tensor:
    """Patches (B, C, H, W[, D]) times a smooth field of their own, as a coil makes it: exp of cubic noise; 0 stays 0.

    Args:
        std: of the logarithm at the nodes of the field.
        n_cells: nodes a side; between them it is smooth.
    """
    nodes = torch.randn(*patches.shape[:2], *[n_cells] * (patches.ndim - 2), device=patches.device)
    mode = "bicubic" if patches.ndim == 4 else "trilinear"
    field = F.interpolate(nodes, size=patches.shape[2:], mode=mode, align_corners=True)
    return patches * torch.exp(std * field)


def rescanned(patches: Tensor, thickness: int, noise: float) -> Tensor:
    """Patches (B, C, H, W[, D]) as a scanner with thick slices or more noise shows them; 0 stays 0.

    Half of the patches are averaged over 2 to ``thickness`` voxels along an axis of their own, as slices are that cut
    the patch across, and resampled linearly; then all get white noise, for each of a strength from 0 to ``noise``.
    """
    inside = foreground(patches)
    seen = patches
    if thickness > 1:
        weighted = torch.cat([patches * inside, inside.to(patches.dtype)], dim=1)
        axes = torch.randint(2 * (patches.ndim - 2), (len(patches),)).tolist()
        voxels = torch.randint(2, thickness + 1, (len(patches),)).tolist()
        parts = [
            _thick(one, axis, size) if axis < patches.ndim - 2 else one
            for one, axis, size in zip(weighted.split(1), axes, voxels, strict=True)
        ]
        sums = torch.cat(parts)
        seen = sums[:, :-1] / sums[:, -1:].clamp(min=1e-3)
    if noise > 0:
        strength = noise * torch.rand((len(patches),) + (1,) * (patches.ndim - 1), device=patches.device)
        seen = seen + strength * torch.randn_like(seen)
    return torch.where(inside, seen, 0.0)


def _thick(patch: Tensor, axis: int, size: int) -> Tensor:
    """Means over ``size`` voxels along an axis, from a random place on, resampled linearly to the patch's own grid."""
    along, length = 2 + axis, patch.shape[2 + axis]
    before = int(torch.randint(size, ()))
    after = -(before + length) % size
    ends = [patch.narrow(along, 0, 1), patch.narrow(along, length - 1, 1)]
    counts = [[count if n == along else 1 for n in range(patch.ndim)] for count in (before, after)]
    padded = torch.cat([ends[0].repeat(counts[0]), patch, ends[1].repeat(counts[1])], dim=along)
    kernel = [size if n == axis else 1 for n in range(patch.ndim - 2)]
    pool, mode = (F.avg_pool2d, "bilinear") if patch.ndim == 4 else (F.avg_pool3d, "trilinear")
    back = F.interpolate(pool(padded, kernel), size=padded.shape[2:], mode=mode, align_corners=False)
    return back.narrow(along, before, length)
