"""Where one volume of a head lies against another: found by mutual information, the same each time it is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_otsu
from skimage.metrics import normalized_mutual_information

from medanomaly.errors import InputError
from medanomaly.preprocessing.mask_check import main_piece

Array = NDArray[np.floating[Any]]

LEVELS_MM = (8.0, 4.0, 2.0)  # voxel sizes of the pyramid, coarse to fine; slices that are thicker stay as they are
SAMPLES = 60_000  # voxels that a step of the search looks at
SEED = 1  # of which voxels
BINS = 32
FEWEST_SLICES = 4  # along each axis
HEAD_MM = 100.0  # a cube of this side is the smallest of usual heads; for smaller ones all lengths here are smaller
MARGIN_MM = 8.0  # around the head, so that its edge is seen
TILTS = (-20.0, 20.0)  # degrees about each axis from which the search begins, beside none
STARTS = 3  # of which the search is carried on
USUAL_OVERLAP = 0.4  # of the head, below which a start counts for less
CHANCE = (30.0, 30.0)  # mm and degrees: displaced so far, nothing fits any more
ROUNDING = 1e-6  # by which a matrix may differ from a rotation
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # what SimpleITK counts in


@dataclass(frozen=True)
class Volume:
    """Values (H, W, D) and their affine (4, 4), from voxels to RAS in mm."""

    values: NDArray[np.float32]
    affine: Array


@dataclass(frozen=True)
class Registration:
    """How a volume, ``moving``, lies against another, ``fixed``.

    Args:
        matrix: (4, 4), takes a point of ``fixed`` (RAS, mm) to the same point of the anatomy in ``moving``.
        shift_mm: how far it takes the centre of the head.
        rotation_degrees: how much it turns.
        stretch: smallest and largest factor of length, (1, 1) where it is rigid.
        similarity, similarity_before: normalised mutual information in the head, 0 (unrelated) to 1 (the same).
        sharpness: the similarity, divided by the highest of those where ``moving`` is displaced by 30 mm or turned by
            30 degrees from there: about 1.5 for two scans of one head, 1 or less where nothing was found.
        covered: share (0 to 1) of the head of ``fixed`` that ``moving`` shows.
    """

    matrix: Array
    shift_mm: float
    rotation_degrees: float
    stretch: tuple[float, float]
    similarity: float
    similarity_before: float
    sharpness: float
    covered: float


def register(
    fixed: Volume, moving: Volume, affine: bool = False, head: NDArray[np.bool_] | None = None
) -> Registration:
    """Find the motion between two volumes, of any contrasts, orientations, voxel sizes and fields of view.

    Mattes' mutual information (SimpleITK) from coarse to fine. The search begins where the headers put the volumes,
    with their middles together and with their heads' centres of mass together, each upright and tilted by 20 degrees,
    and goes on from the best of these. One thread, and the same voxels each time: the result does not depend on the
    machine's load or number of cores.

    Args:
        fixed, moving: volumes of finite values.
        affine: also stretch and shear, for the heads of two people.
        head: (H, W, D), where to compare, on the grid of ``fixed``; found if not given.

    Raises:
        InputError: if a volume has fewer than 4 voxels along an axis, holds one value only, or the two have no place in
            common wherever the search begins.
    """
    for volume in (fixed, moving):
        if min(volume.values.shape) < FEWEST_SLICES:
            raise InputError(
                f"a volume of {' x '.join(map(str, volume.values.shape))} voxels cannot be registered: at least "
                f"{FEWEST_SLICES} along each axis are needed."
            )
        if not volume.values.max() > volume.values.min():
            raise InputError(f"a volume that is {volume.values.min():g} everywhere cannot be registered.")
    scale = min(1.0, _size_of(fixed, head) / HEAD_MM)
    levels = [scale * mm for mm in LEVELS_MM]
    clipped = [_clipped(volume) for volume in (fixed, moving)]
    pairs = [tuple(_coarser(volume, mm) for volume in clipped) for mm in levels]
    masks = [head_of(level) if head is None else _on_grid(head, fixed, level) for level, _ in pairs]
    coarse, other = pairs[0]
    centre = _centre(masks[0], coarse)
    starts = list(_starts(coarse, other, centre))
    rated = sorted(starts, key=lambda matrix: -_rating(coarse, other, masks[0], matrix))[:STARTS]
    wide = [_grown(mask, level, scale * MARGIN_MM) for mask, (level, _) in zip(masks, pairs, strict=True)]
    found = [m for start in rated if (m := _search(coarse, other, wide[0], start, centre, levels[0])) is not None]
    if not found:
        raise InputError("the two volumes share no place of the head, wherever the search begins.")
    matrix = max(found, key=lambda matrix: _rating(coarse, other, masks[0], matrix))
    for mask, (level, partner), mm in zip(wide[1:], pairs[1:], levels[1:], strict=True):
        better = _search(level, partner, mask, matrix, centre, mm / 2, affine)
        matrix = matrix if better is None else better
    similarity, covered = similarity_of(coarse, other, masks[0], matrix)
    left, stretch, right = np.linalg.svd(matrix[:3, :3])
    rotation = Rotation.from_matrix(left @ right)  # the rotation that is nearest to an affine matrix
    return Registration(
        matrix=matrix,
        shift_mm=float(np.linalg.norm(nib.affines.apply_affine(matrix, centre) - centre)),
        rotation_degrees=float(np.degrees(rotation.magnitude())),
        stretch=(float(stretch.min()), float(stretch.max())),
        similarity=similarity,
        similarity_before=similarity_of(coarse, other, masks[0], np.eye(4))[0],
        sharpness=similarity / max(_chance(coarse, other, masks[0], matrix, centre, scale * CHANCE[0]), 1e-6),
        covered=covered,
    )


def resampled(
    moving: Volume, shape: Sequence[int], affine: Array, matrix: Array
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``moving`` at the voxels of another grid, linearly, and which of them it covers: two of (H, W, D).

    A voxel is covered if its centre lies in a voxel of ``moving``. The others are 0.

    Args:
        shape, affine: of the grid.
        matrix: takes a point of the grid (RAS, mm) to the point of ``moving`` that is to be shown there.
    """
    to_moving = np.linalg.inv(moving.affine) @ matrix @ affine
    values = ndimage.affine_transform(
        moving.values, to_moving[:3, :3], to_moving[:3, 3], tuple(shape), order=1, mode="nearest"
    )
    covered = np.ones(tuple(shape), bool)
    steps = np.ogrid[tuple(slice(n) for n in shape)]
    for row, size in zip(to_moving[:3], moving.values.shape, strict=True):
        place = sum(factor * step for factor, step in zip(row[:3], steps, strict=True)) + row[3]
        covered &= (place >= -0.501) & (place <= size - 0.499)
    values[~covered] = 0
    return values, covered


def similarity_of(fixed: Volume, moving: Volume, mask: NDArray[np.bool_], matrix: Array) -> tuple[float, float]:
    """Normalised mutual information where both are in ``mask``, 0 to 1, and the share of it that ``moving`` covers."""
    values, covered = resampled(moving, fixed.values.shape, fixed.affine, matrix)
    both = mask & covered
    a, b = fixed.values[both], values[both]
    share = float(both.sum() / max(mask.sum(), 1))
    if a.size < BINS**2 // 4 or not (a.max() > a.min() and b.max() > b.min()):
        return 0.0, share
    return float(normalized_mutual_information(a, b, bins=BINS)) - 1, share


def head_of(volume: Volume) -> NDArray[np.bool_]:
    """Where there is tissue (H, W, D): what is not the one value that surrounds it, or else what is not dark."""
    values, counts = np.unique(volume.values[::2, ::2, ::2], return_counts=True)
    if counts.max() > 0.2 * counts.sum():
        tissue = volume.values != values[counts.argmax()]
    else:
        tissue = volume.values > 0.6 * threshold_otsu(volume.values)
    opened = ndimage.binary_opening(tissue)
    tissue = opened if opened.any() else tissue
    return main_piece(tissue)


def _clipped(volume: Volume) -> Volume:
    """Without the brightest and the darkest half percent, which would take most of the bins."""
    low, high = np.percentile(volume.values, [0.5, 99.5])
    if not high > low:
        return volume
    return Volume(np.clip(volume.values, low, high).astype(np.float32), volume.affine)


def _coarser(volume: Volume, mm: float) -> Volume:
    """Smoothed and thinned out to voxels of about ``mm``, on the axes where they are smaller."""
    factors = np.maximum(1, np.round(mm / nib.affines.voxel_sizes(volume.affine))).astype(int)
    factors = np.minimum(factors, np.array(volume.values.shape) // FEWEST_SLICES)
    if (factors == 1).all():
        return volume
    smooth = ndimage.gaussian_filter(volume.values, np.where(factors > 1, factors / 2.355, 0))
    first = (np.array(volume.values.shape) - 1) % factors // 2
    move = nib.affines.from_matvec(np.diag(factors), first)
    thin = smooth[tuple(slice(start, None, step) for start, step in zip(first, factors, strict=True))]
    return Volume(np.ascontiguousarray(thin), volume.affine @ move)


def _on_grid(mask: NDArray[np.bool_], of: Volume, level: Volume) -> NDArray[np.bool_]:
    """A mask on the grid of ``of`` at the voxels of ``level``."""
    values, _ = resampled(Volume(mask.astype(np.float32), of.affine), level.values.shape, level.affine, np.eye(4))
    return np.asarray(values >= 0.5)


def _size_of(fixed: Volume, head: NDArray[np.bool_] | None) -> float:
    """Side in mm of a cube as large as the head."""
    extent = nib.affines.voxel_sizes(fixed.affine) * fixed.values.shape
    rough = _coarser(fixed, float(extent.max()) / 32)
    mask = head_of(rough) if head is None else _on_grid(head, fixed, rough)
    return float(np.cbrt(mask.sum() * abs(np.linalg.det(rough.affine[:3, :3]))))


def _grown(mask: NDArray[np.bool_], volume: Volume, mm: float) -> NDArray[np.bool_]:
    distance = ndimage.distance_transform_edt(~mask, nib.affines.voxel_sizes(volume.affine))
    return np.asarray(ndimage.binary_fill_holes(distance <= mm), bool)


def _centre(mask: NDArray[np.bool_], volume: Volume) -> Array:
    return np.asarray(nib.affines.apply_affine(volume.affine, np.argwhere(mask).mean(axis=0)))


def _starts(fixed: Volume, moving: Volume, centre: Array) -> Iterator[Array]:
    """Matrices from which the search may begin."""
    middles = [nib.affines.apply_affine(v.affine, (np.array(v.values.shape) - 1) / 2) for v in (fixed, moving)]
    shifts = (np.zeros(3), middles[1] - middles[0], _centre(head_of(moving), moving) - centre)
    tilts = [np.zeros(3), *(angle * axis for axis in np.eye(3) for angle in TILTS)]
    for shift in shifts:
        for tilt in tilts:
            yield _about(centre, Rotation.from_euler("xyz", tilt, degrees=True).as_matrix(), shift)


def _about(centre: Array, turn: Array, shift: Array) -> Array:
    """Turn about a point, then shift."""
    return np.asarray(nib.affines.from_matvec(turn, centre - turn @ centre + shift))


def _rating(fixed: Volume, moving: Volume, mask: NDArray[np.bool_], matrix: Array) -> float:
    similarity, covered = similarity_of(fixed, moving, mask, matrix)
    return similarity * min(1.0, covered / USUAL_OVERLAP)


def _chance(
    fixed: Volume, moving: Volume, mask: NDArray[np.bool_], matrix: Array, centre: Array, shift: float
) -> float:
    """The highest similarity where ``moving`` is displaced from where it was found."""
    angle = CHANCE[1]
    similarities = []
    for axis in (*np.eye(3), *-np.eye(3)):
        for turn, by in (
            (Rotation.from_rotvec(angle * axis, degrees=True).as_matrix(), np.zeros(3)),
            (np.eye(3), shift * axis),
        ):
            similarity, covered = similarity_of(fixed, moving, mask, matrix @ _about(centre, turn, by))
            if covered > 0.1:
                similarities.append(similarity)
    return max(similarities, default=0.0)


def _search(
    fixed: Volume,
    moving: Volume,
    mask: NDArray[np.bool_],
    start: Array,
    centre: Array,
    step: float,
    affine: bool = False,
) -> Array | None:
    """The matrix nearby that makes the mutual information highest; None if the volumes have too little in common."""
    import SimpleITK

    lps, about = RAS_TO_LPS @ start @ RAS_TO_LPS, RAS_TO_LPS[:3, :3] @ centre
    transform: Any = SimpleITK.AffineTransform(3) if affine else SimpleITK.Euler3DTransform()
    transform.SetCenter(about.tolist())
    transform.SetMatrix(lps[:3, :3].ravel().tolist(), *([] if affine else [ROUNDING]))
    transform.SetTranslation((lps[:3, 3] - about + lps[:3, :3] @ about).tolist())
    method = SimpleITK.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetNumberOfWorkUnits(1)  # sums over parts differ in their last digits, and the search goes elsewhere
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(_to_itk(mask.astype(np.uint8), fixed.affine))
    share = min(1.0, SAMPLES / max(mask.sum(), 1))
    if share < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(SimpleITK.sitkLinear)
    # steps shrink slowly: with the usual half, shifts converge and rotations are left a degree behind
    method.SetOptimizerAsRegularStepGradientDescent(step, step / 500, 200, 0.8, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(_to_itk(fixed.values, fixed.affine), _to_itk(moving.values, moving.affine))
    except RuntimeError:  # all samples lie outside of the other volume
        return None
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    found = nib.affines.from_matvec(linear, np.array(transform.GetTranslation()) + about - linear @ about)
    return np.asarray(RAS_TO_LPS @ found @ RAS_TO_LPS)


def _to_itk(values: NDArray[Any], affine: Array) -> Any:
    import SimpleITK

    lps, spacing = RAS_TO_LPS @ affine, nib.affines.voxel_sizes(affine)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(values.T))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image
