"""Patches as series in time, and series as windows that overlap."""

from __future__ import annotations

import torch
from torch import Tensor


def as_series(patches: Tensor) -> Tensor:
    """Patches (B, C, H, W[, D]) as series (B, H, C * W [* D]): a row of voxels, or a plane of them, is a step."""
    return patches.transpose(1, 2).flatten(2)


def as_patches(series: Tensor, in_channels: int, spatial_dims: int) -> Tensor:
    """Series (B, H, C * W [* D]) as patches (B, C, H, W[, D]) with sides of one length: back from :func:`as_series`."""
    side = series.shape[1]
    return series.reshape([-1, side, in_channels] + [side] * (spatial_dims - 1)).transpose(1, 2)


def window_starts(steps: int, length: int, apart: int) -> list[int]:
    """Where windows of ``length`` begin in a series of ``steps``: every ``apart``, and the last ends where it ends.

    >>> window_starts(32, 16, 10)
    [0, 10, 16]
    >>> window_starts(16, 16, 10)
    [0]
    """
    last = steps - length
    return [*range(0, last, apart), last]


def cut_windows(series: Tensor, length: int, starts: list[int]) -> Tensor:
    """Series (B, T, F) as windows (B * n, length, F), n being the number of ``starts``; those of a series together."""
    return torch.stack([series[:, start : start + length] for start in starts], dim=1).flatten(0, 1)


def join_windows(windows: Tensor, steps: int, starts: list[int]) -> Tensor:
    """Windows (B * n, length, F) as series (B, steps, F): the mean of the windows that hold a step."""
    length = windows.shape[1]
    of_series = windows.unflatten(0, [-1, len(starts)])
    total = windows.new_zeros([of_series.shape[0], steps, windows.shape[2]])
    held = windows.new_zeros([steps, 1])
    for number, start in enumerate(starts):
        total[:, start : start + length] += of_series[:, number]
        held[start : start + length] += 1
    return total / held
