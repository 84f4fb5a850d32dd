"""What the viewer of a report shows: the scan, and how rare its scores are, small enough to be mailed."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from skimage.measure import block_reduce

from medanomaly.evaluation import Calibration

Floats = NDArray[np.floating[Any]]

RAREST = 5.0  # a calibration tells shares of normal voxels down to 1e-5
RARITY_STEP = 0.02
SCAN_STEPS = 1000  # of which the bulk of a scan's values has so many: its noise is coarser
MOST_VOXELS = 12_000_000  # of a volume: what a browser handles with ease
MOST_BYTES = 20_000_000  # of all volumes, as text: the viewer and the pictures take up to 4 MB more


@dataclass(frozen=True)
class ViewerVolumes:
    """Volumes as text, ready for a page.

    Attributes:
        scans: a NIfTI file for each channel that is shown, compressed, in base64.
        rarity: the same of the heatmap.
        factors: how many voxels of the scan along each axis became one; (1, 1, 1) if none were joined.
    """

    scans: list[str]
    rarity: str
    factors: tuple[int, int, int]


def rarity_of(heatmap: Floats, calibration: Calibration) -> NDArray[np.float32]:
    """How rare a score is in healthy tissue: ``-log10`` of the share of normal voxels that score as high.

    1 means one normal voxel of ten, 3 one of a thousand; at most 5. NaN stays NaN.

    Args:
        heatmap: raw scores, of any shape.
        calibration: of the model.
    """
    rarity = np.full(heatmap.shape, np.nan, np.float32)
    inside = np.isfinite(heatmap)
    rarity[inside] = rarity_of_percent(calibration.percentile(heatmap[inside].astype(np.float64)))
    return rarity


def rarity_of_percent(percent: Floats) -> Floats:
    """The same of ``percent`` (0 to 100) of normal voxels that score lower.

    Examples:
        >>> rarity_of_percent(np.array([0, 90, 99.9, 100])).round(3).tolist()
        [0.0, 1.0, 3.0, 5.0]
    """
    return np.asarray(-np.log10(np.clip(1 - percent / 100, 10**-RAREST, 1))) + 0.0


def viewer_volumes(scans: Sequence[Floats], rarity: Floats, affine: Floats) -> ViewerVolumes:
    """Scan and heatmap as NIfTI files in text, on the grid of the scan, or on a coarser one if that is too large.

    Where voxels are joined, the scan is averaged and the heatmap keeps its highest value. Where all channels are too
    much, the first is shown alone.

    Args:
        scans: the channels, (H, W, D) each.
        rarity: (H, W, D), 0 to 5, NaN where nothing was scored.
        affine: of the grid, voxel to world (RAS, mm).
    """
    factors, channels = _factors((1, 1, 1), rarity.shape, affine, MOST_VOXELS), list(scans)
    while True:
        grid = affine @ np.diag([*factors, 1.0])
        grid[:3, 3] = affine[:3, :3] @ ((np.array(factors) - 1) / 2) + affine[:3, 3]
        found = ViewerVolumes(
            [_as_text(*_scan_codes(_joined(scan, factors, np.mean)), grid) for scan in channels],
            _as_text(*_rarity_codes(_joined(np.nan_to_num(rarity, nan=-1), factors, np.max)), grid),
            factors,
        )
        if sum(map(len, [*found.scans, found.rarity])) <= MOST_BYTES:
            return found
        if len(channels) > 1:
            channels = channels[:1]
        else:
            factors = _factors(factors, rarity.shape, affine, int(np.prod(rarity.shape) / np.prod(factors) / 2))


def _factors(factors: tuple[int, int, int], shape: tuple[int, ...], affine: Floats, most: int) -> tuple[int, int, int]:
    """How many voxels to join along each axis until there are at most ``most``: twice as many of the shortest."""
    grown, sides = list(factors), np.linalg.norm(affine[:3, :3], axis=0)
    while np.prod([-(-size // factor) for size, factor in zip(shape, grown, strict=True)]) > most:
        grown[int(np.argmin(sides * grown))] *= 2
    return grown[0], grown[1], grown[2]


def _joined(volume: Floats, factors: tuple[int, int, int], how: Any) -> Floats:
    if factors == (1, 1, 1):
        return volume
    ends = [(0, -size % factor) for size, factor in zip(volume.shape, factors, strict=True)]
    return np.asarray(block_reduce(np.pad(volume, ends, mode="edge"), factors, how))


def _scan_codes(scan: Floats) -> tuple[NDArray[Any], float, float]:
    """Whole numbers, and the step and the start that turn them into values again; outliers are kept."""
    low, high = np.percentile(scan, [0.1, 99.9])
    step = float(high - low) / SCAN_STEPS or float(np.ptp(scan)) / SCAN_STEPS or 1.0
    codes = np.clip(np.rint((scan - low) / step), -32768, 32767)
    return codes.astype(np.int16), step, float(low)


def _rarity_codes(rarity: Floats) -> tuple[NDArray[Any], float, float]:
    """0 where nothing was scored, which is read as a number below 0, and from 1 on what was."""
    codes = np.where(rarity < 0, 0, 1 + np.rint(rarity / RARITY_STEP))
    return codes.astype(np.uint8), RARITY_STEP, -RARITY_STEP


def _as_text(codes: NDArray[Any], step: float, start: float, affine: Floats) -> str:
    """A compressed NIfTI file with a header of its own: nothing of the scan's goes along but its grid."""
    image = nib.Nifti1Image(codes, affine)
    image.header.set_slope_inter(step, start)
    image.header.set_xyzt_units("mm")
    return base64.b64encode(gzip.compress(image.to_bytes(), compresslevel=5, mtime=0)).decode()
