"""Scans whose brain was extracted by somebody else: recognised by their image alone."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.preprocessing.mask_check import VOLUME, edge_problems, piece_problem, thinning, volume_in_ml

LEAST_FACE = 0.96  # of the two faces of the image on each axis: of a whole head, the neck takes 10 % and more
EDGE, LEAST_EDGE = 2.0, 0.3  # of the median, the outermost mm: 0.43 to 1.2 of brains, up to 0.18 of heads
BELOW, DARK, MOST_DARK = (
    4.0,
    0.2,
    0.08,
)  # share as dark below these mm: up to 0.06 of brains, mostly 0.1 of heads


def extracted_brain(image: MetaTensor) -> NDArray[np.bool_] | None:
    """The brain (H, W, D) in ``image`` (C, H, W, D) if it was extracted already, or else None.

    It was if, in the first channel, one value fills the faces of the image, and what has another value is one piece, no
    larger than brains are, has their edges (:func:`edge_problems`), begins with tissue and has no bone in it. (What
    begins with the noise and the skin of a head, whose background was set to 0, is faint at first.) Further channels
    add their voxels where they have been extracted, too. The background need not be 0: normalisation moves it.
    """
    channels = np.asarray(image.as_tensor())
    mask = _not_background(channels[0])
    if mask is None or volume_in_ml(mask, image) > VOLUME[1] or not _is_tissue_to_its_edge(image, mask):
        return None
    if piece_problem(mask[thinning(image)]) or edge_problems(mask, image):
        return None
    for channel in channels[1:]:
        further = _not_background(channel)
        if further is not None and further.sum() < 1.2 * mask.sum():
            mask = mask | further
    return mask


def _not_background(channel: NDArray[np.float32]) -> NDArray[np.bool_] | None:
    """Where a volume (H, W, D) differs from the value that fills its faces; None if none does."""
    if 1 in channel.shape:
        return None
    faces = [np.take(channel, (0, -1), axis) for axis in range(3)]
    found, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    background = found[counts.argmax()]
    if any((face == background).mean() < LEAST_FACE for face in faces):
        return None
    mask = channel != background
    return mask if mask.any() else None


def _is_tissue_to_its_edge(image: MetaTensor, mask: NDArray[np.bool_]) -> bool:
    """Whether what lies in ``mask`` (H, W, D) begins with tissue, and has no bone or air below."""
    thin = thinning(image)
    spacing = np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0) * [step.step for step in thin]
    background = float(image[0][tuple(np.argwhere(~mask)[0])])
    values = np.asarray(image.as_tensor()[0])[thin] - background
    whole = ndimage.binary_fill_holes(mask[thin])
    if not whole.any():
        return False
    depth = ndimage.distance_transform_edt(np.pad(whole, 1), spacing)[1:-1, 1:-1, 1:-1]
    typical = np.abs(np.median(values[whole]))
    edge = np.abs(values[whole & (depth <= max(EDGE, spacing.min()))].mean())
    below = np.abs(values[whole & (depth > BELOW)])
    return bool(edge >= LEAST_EDGE * typical and below.size and (below < DARK * typical).mean() <= MOST_DARK)
