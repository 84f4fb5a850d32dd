"""Artificial lesions: disks of one intensity, as Madzia-Madzou & Kuijf puts them into healthy heads (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from torch import Tensor

from medanomaly.errors import InputError

TOLERANCE = 1e-3  # mm; headers are rounded
# what the results say of how a disk becomes voxels
RULE = (
    "The disk is a cylinder along the axial direction whose axis runs through the centre of a voxel; a voxel belongs "
    "to it whole if the centre lies within the radius of the axis, so that a disk thinner than a voxel fills one."
)


@dataclass(frozen=True)
class DiskPlace:
    """Where the disks of a volume in RAS stand.

    Args:
        centre: (i, j), the voxel of the axis in each axial slice.
        slices: (first, last + 1) along the third axis.
    """

    centre: tuple[int, int]
    slices: tuple[int, int]


def disk_in_plane(
    shape: Sequence[int], centre: Sequence[int], spacing: Sequence[float], diameter_mm: float
) -> NDArray[np.bool_]:
    """The voxels (H, W) of an axial slice whose centres are at most half of ``diameter_mm`` from that of ``centre``.

    Args:
        shape: (H, W).
        spacing: voxel size in mm along both axes (further ones are ignored).
    """
    x, y = ((np.arange(n) - c) * s for n, c, s in zip(shape, centre, spacing[:2], strict=True))
    inside: NDArray[np.bool_] = np.hypot(x[:, None], y[None, :]) <= diameter_mm / 2 + TOLERANCE
    return inside


def place_disk(
    brain: NDArray[np.bool_],
    spacing: Sequence[float],
    diameter_mm: float,
    height_mm: float,
    rng: np.random.Generator,
    least_inside: float = 0.99,
) -> DiskPlace:
    """A random place in the middle of the brain where the disk lies in the brain.

    The slices are those in the middle of the brain from top to bottom. The axis is drawn from the voxels around which
    at least ``least_inside`` of the disk's voxels are brain.

    Args:
        brain: (H, W, D), in RAS.
        spacing: voxel size in mm.
        diameter_mm, height_mm: of the largest disk that is to stand there.
        rng: what draws.

    Raises:
        InputError: if the brain is too small for the disk.
    """
    (high,) = np.nonzero(brain.any(axis=(0, 1)))
    n_slices = max(round(height_mm / spacing[2]), 1)
    first = (int(high[0]) + int(high[-1]) + 1 - n_slices) // 2 if len(high) else 0
    reach = [int(diameter_mm / 2 / s) for s in spacing[:2]]
    kernel = disk_in_plane([2 * r + 1 for r in reach], reach, spacing, diameter_mm).astype(np.float64)
    inside = np.zeros(brain.shape[:2])
    if first >= 0 and first + n_slices <= brain.shape[2]:
        in_slices = brain[:, :, first : first + n_slices].mean(axis=2)
        inside = fftconvolve(in_slices, kernel, mode="same") / kernel.sum()
    places = np.argwhere(inside >= least_inside - 1e-9)
    if len(places) == 0:
        raise InputError(
            f"a disk of {diameter_mm:g} mm and {height_mm:g} mm height has no place in the brain: at best "
            f"{100 * inside.max():.0f} % of it are brain, and {100 * least_inside:g} % are needed. Is the brain mask "
            "that of an adult, and are its voxel sizes right?"
        )
    i, j = rng.choice(places)
    return DiskPlace((int(i), int(j)), (first, first + n_slices))


def insert_disk(volume: Tensor, disk: Tensor, intensity: float) -> Tensor:
    """A copy of ``volume`` (C, H, W, D) with ``intensity`` in the voxels of ``disk`` (H, W, D)."""
    return torch.where(disk, torch.tensor(intensity, dtype=volume.dtype), volume)
