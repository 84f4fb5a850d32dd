"""What the viewer of a report shows of an image of one slice: two pictures, and where their pixels lie."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medanomaly.report.figures import canonical
from medanomaly.report.pages import png_data
from medanomaly.report.viewer_volumes import RAREST

Floats = NDArray[np.floating[Any]]


def film_layers(scan: Floats, rarity: Floats, affine: Floats) -> dict[str, Any]:
    """An image of one slice and its heatmap as grey PNG files, as radiologists look at them.

    The patient's right is on the left of an axial or coronal slice, the front on the left of a sagittal one.

    Args:
        scan, rarity: (H, W, D), of which one is 1; rarity is NaN where nothing was scored.
        affine: voxel to world (RAS, mm).

    Returns:
        ``scan`` and ``rarity`` are addresses of pictures. ``step`` and ``start`` make values of the scan's 0 to 255;
        rarity is 0 where nothing was scored, and 1 to 255 stand for 0 to 5. ``affine`` (3, 4) makes world coordinates
        of (column, row, 0, 1), ``sides`` names the left and the right edge, ``pixel`` is (width, height) in mm.
    """
    grey, grid = canonical(scan, affine)
    heat = canonical(rarity, affine)[0]
    flat = grey.shape.index(1)
    across, down = (axis for axis in range(3) if axis != flat)
    turned = np.eye(4)  # (column, row, 0) to the voxels of the canonical image
    turned[:3, :3] = 0
    for place, axis in enumerate((across, down)):
        turned[axis, place], turned[axis, 3] = -1, grey.shape[axis] - 1
    low, high = float(grey.min()), float(grey.max())
    step = (high - low) / 255 or 1.0
    codes = np.where(np.isnan(heat), 0, 1 + np.rint(np.nan_to_num(heat) * 254 / RAREST))
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    return {
        "scan": _png(np.rint((grey - low) / step), flat),
        "rarity": _png(codes, flat),
        "step": step,
        "start": low,
        "affine": (grid @ turned)[:3].tolist(),
        "sides": ["A", "P"] if across == 1 else ["R", "L"],
        "pixel": [float(spacing[across]), float(spacing[down])],
    }


def _png(volume: Floats, flat: int) -> str:
    """The slice of a canonical volume with both axes turned round, columns first: anterior or superior is up."""
    file = io.BytesIO()
    Image.fromarray(volume.squeeze(flat)[::-1, ::-1].T.astype(np.uint8)).save(file, format="PNG")
    return png_data(file.getvalue())
