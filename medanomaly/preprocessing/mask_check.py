"""Whether a mask can be the brain of its scan: volume, pieces, the border of the image, and the image's own edges.

Limits are those within which all masks of 28 T1 heads, 7 thick FLAIR heads and 14 brain-extracted scans lie that were
looked at (docs/how-to/brain.md), with some room.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

LEAST_SHARE, MOST_SHARE = 0.01, 0.95  # of an image; a brain of 1.4 litres fills 8 % of a cube of 256 mm
VOLUME = (950.0, 2100.0)  # ml, of adults; 1,076 to 1,845 were seen
LEAST_MAIN = 0.98  # share of the mask that its largest piece is; 1.00 was seen
MOST_CUT = 0.15  # of its largest cross-section that it has on a face of the image; the brainstem has up to 0.05
COARSE = 2.0  # mm: voxels that are smaller are thinned out to about this for what is measured around the border
INSIDE_BANDS = ((-8.0, -5.0), (-5.0, -2.0))  # mm from the border, inside: cortex, and the fluid between its folds
OUTSIDE_BANDS = (
    (2.0, 4.0),
    (4.0, 6.0),
    (6.0, 8.0),
    (8.0, 10.0),
)  # mm, outside: bone in one of them, dark in MRI
LEAST_INSIDE, LEAST_TOP = 0.42, 0.25  # of the brightness of the region: darkest band inside; 0.50 and 0.29 were seen
MOST_OUTSIDE = 0.85  # darkest band outside; up to 0.76 was seen
DARK = 0.25  # of the brightness of the region: bone, air, and some fluid
MOVE, MOST_GAIN = 15.0, 0.015  # mm; share of dark voxels that a moved mask loses: -0.009 was seen at most
SIDES = {
    "right": (0, 1),
    "left": (0, -1),
    "front": (1, 1),
    "back": (1, -1),
    "top": (2, 1),
}  # of RAS; not the neck
LEAST_VOXELS = 100  # of a band on one side


def region_share_warning(share: float) -> str:
    """What is odd about a brain mask that covers ``share`` (0 to 1) of its image; empty if nothing.

    Of the region of a film, or where all of an image was asked for, nothing is odd: do not ask.
    """
    if share > MOST_SHARE:
        amount, usual = "nearly all", f"at most {100 * MOST_SHARE:g} %"
    elif share < LEAST_SHARE:
        amount, usual = "next to nothing", f"at least {100 * LEAST_SHARE:g} %"
    else:
        return ""
    return f"the brain mask covers {100 * share:.1f} % of the image, {amount} of it, where {usual} is usual"


def brain_mask_problems(mask: NDArray[np.bool_], image: MetaTensor) -> list[str]:
    """What is odd about a mask (H, W, D) as the brain of a head in MRI; each with the value found and what is usual.

    The edges are looked at on five sides, all but that of the neck. Below the border, a brain is not much darker than
    in the middle; and within 10 mm above it, there is bone, or nothing, which is darker in every sequence. A mask that
    is shifted has bone and air in it, and would have less if it were moved back. What is too small and in its place
    is told by its volume alone.

    Args:
        mask: with a voxel at least.
        image: (C, H, W, D) in mm, of which the first channel is looked at.
    """
    found = [region_share_warning(float(mask.mean()))]
    volume = volume_in_ml(mask, image)
    if not VOLUME[0] <= volume <= VOLUME[1]:
        usual = f"{VOLUME[0]:,.0f} to {VOLUME[1]:,.0f} ml is usual of adults"
        found.append(f"the brain mask has {volume:,.0f} ml, where {usual}")
    coarse = mask[thinning(image)]
    if coarse.any():
        found += [piece_problem(coarse), _cut(coarse), *edge_problems(mask, image)]
    return [problem for problem in found if problem]


def volume_in_ml(mask: NDArray[np.bool_], image: MetaTensor) -> float:
    """How large a mask (H, W, D) on the grid of ``image`` is."""
    return float(mask.sum() * abs(np.linalg.det(_steps_of(image))) / 1000)


def main_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The largest connected piece of a mask (H, W, D), its holes filled; empty if the mask is."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax())
    return filled


def _steps_of(image: MetaTensor) -> NDArray[np.float64]:
    return np.asarray(image.affine, np.float64)[:3, :3]


def thinning(image: MetaTensor) -> tuple[slice, ...]:
    """Every so many voxels (H, W, D) of ``image`` that they are about ``COARSE`` mm apart, or as far as they are."""
    steps = np.floor(COARSE / np.linalg.norm(_steps_of(image), axis=0) + 0.01).astype(int)
    return tuple(slice(None, None, max(1, int(step))) for step in steps)


def piece_problem(mask: NDArray[np.bool_]) -> str:
    """What is odd about the pieces of a mask (H, W, D) with a voxel at least; empty if it has one large one."""
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(labels.ravel())[1:]
    main = float(sizes.max() / sizes.sum())
    if main >= LEAST_MAIN:
        return ""
    return (
        f"the brain mask is in {count} pieces, the largest of which has {100 * main:.1f} % of it, where at least "
        f"{100 * LEAST_MAIN:g} % is usual"
    )


def _cut(mask: NDArray[np.bool_]) -> str:
    worst = 0.0
    for axis in range(3):
        areas = mask.sum(axis=tuple({0, 1, 2} - {axis}))
        worst = max(worst, float(areas[[0, -1]].max() / areas.max()))
    if worst <= MOST_CUT:
        return ""
    return (
        f"the brain mask is cut by the border of the image, where it has {100 * worst:.0f} % of its largest "
        f"cross-section and at most {100 * MOST_CUT:g} % is usual"
    )


def edge_problems(mask: NDArray[np.bool_], image: MetaTensor) -> list[str]:
    """What of the first channel of ``image`` (C, H, W, D) does not fit the border of a mask (H, W, D), see above."""
    thin = thinning(image)
    mask, scan = mask[thin], np.asarray(image.as_tensor()[0])[thin]
    axes = _steps_of(image) * np.array([step.step for step in thin])  # of a voxel in RAS, mm, as columns
    spacing = np.linalg.norm(axes, axis=0)
    background = float(np.percentile(scan, 1))
    bright = float(np.median(scan[mask])) - background
    spread = float(np.percentile(scan, 99)) - background
    if not bright > 0.05 * spread:
        return [
            f"the image is as dark in the brain mask as around it (median {bright:.3g} above the background, and "
            f"{0.05 * spread:.3g} is the least that is usual here)"
        ]
    margin = np.ceil(OUTSIDE_BANDS[-1][1] / spacing).astype(int) + 1
    where = np.argwhere(mask)
    box = tuple(
        slice(max(int(low - more), 0), int(high + more + 1))
        for low, high, more in zip(where.min(0), where.max(0), margin, strict=True)
    )
    inside, values = mask[box], (scan[box] - background) / bright
    edt: Any = ndimage.distance_transform_edt
    depth = edt(~inside, spacing) - edt(inside, spacing)
    middle = np.argwhere(inside).mean(axis=0)
    away = np.indices(inside.shape, np.float32) - middle.astype(np.float32).reshape(3, 1, 1, 1)
    direction = np.tensordot(axes.astype(np.float32), away, 1)
    direction /= np.linalg.norm(direction, axis=0) + 1e-6

    def least_of(bands: Sequence[tuple[float, float]], side: NDArray[np.bool_]) -> float:
        chosen = [side & (depth > low) & (depth <= high) for low, high in bands]
        means = [float(values[band].mean()) for band in chosen if np.count_nonzero(band) >= LEAST_VOXELS]
        return min(means, default=float("nan"))

    dark: list[str] = []
    above: dict[str, float] = {}
    for name, (axis, sign) in SIDES.items():
        side = (sign * direction[axis] > 0.6) & (direction[2] > -0.2)
        below = least_of(INSIDE_BANDS, side)
        above[name] = least_of(OUTSIDE_BANDS, side)
        least = LEAST_TOP if name == "top" else LEAST_INSIDE
        if below < least:
            dark.append(f"{100 * below:.0f} % at the {name}")
    problems = []
    if dark:
        problems.append(
            f"below the border of the brain mask the image is darker than a brain: it has {', '.join(dark)} of the "
            f"brightness of the mask (at least {100 * LEAST_INSIDE:g} %, at the top {100 * LEAST_TOP:g} %, is usual)"
        )
    bright_sides = [f"{100 * level:.0f} % at the {name}" for name, level in above.items() if level > MOST_OUTSIDE]
    if bright_sides:
        problems.append(
            "above the border of the brain mask the image does not become dark, as bone is: it keeps "
            f"{', '.join(bright_sides)} of the brightness of the mask (at most {100 * MOST_OUTSIDE:g} % is usual)"
        )
    moved = _better_moved(mask, scan - background < DARK * bright, axes)
    return [*problems, moved] if moved else problems


def _better_moved(mask: NDArray[np.bool_], dark: NDArray[np.bool_], axes: NDArray[np.float64]) -> str:
    """Where a mask would hold less that is dark if it were moved; empty if it lies well."""
    held = float(dark[mask].mean())
    best, where = held, ""
    for axis in range(3):
        voxels = round(MOVE / float(np.linalg.norm(axes[:, axis])))
        for sign in (-1, 1):
            moved = dark[_moved(mask, axis, sign * voxels)]
            if moved.size and moved.mean() < best:
                best = float(moved.mean())
                direction = sign * axes[:, axis]
                side = int(np.abs(direction).argmax())
                where = (("left", "right"), ("back", "front"), ("bottom", "top"))[side][int(direction[side] > 0)]
    if held - best <= MOST_GAIN:
        return ""
    return (
        f"the brain mask holds {100 * held:.0f} % of dark voxels, as bone and air are, and would hold "
        f"{100 * best:.0f} % if it lay {MOVE:g} mm nearer to the {where} (that a move takes away at most "
        f"{100 * MOST_GAIN:g} % is usual)"
    )


def _moved(mask: NDArray[np.bool_], axis: int, voxels: int) -> NDArray[np.bool_]:
    """The mask so many voxels along an axis; what leaves the image is lost."""
    moved = np.roll(mask, voxels, axis)
    lost = slice(0, voxels) if voxels > 0 else slice(mask.shape[axis] + voxels, None)
    moved[(slice(None),) * axis + (lost,)] = False
    return moved
