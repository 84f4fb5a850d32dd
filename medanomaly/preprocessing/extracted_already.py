"""Scans whose brain was extracted by somebody else: recognised by their image alone."""

from __future__ import annotations

import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.preprocessing.mask_check import brain_mask_problems

LEAST_FACE = 0.96  # of the two faces of the image on each axis: of a whole head, the neck takes 10 % and more
LEAST_EDGE = 0.3  # of the median: brightness of the outermost voxels; 0.43 to 1.2 of brains, up to 0.18 of heads


def extracted_brain(image: MetaTensor) -> NDArray[np.bool_] | None:
    """The brain (H, W, D) in ``image`` (C, H, W, D) if it was extracted already, or else None.

    It was if, in the first channel, one value fills the faces of the image, and what has another value is a brain by
    its volume and its edges (:func:`brain_mask_problems`) and begins with tissue: what begins with the noise and the
    skin of a head, whose background was set to 0, is faint at first. Further channels add their voxels where they have
    been extracted, too. The background need not be 0: normalisation moves it.
    """
    channels = np.asarray(image.as_tensor())
    mask = _not_background(channels[0])
    if mask is None or not _begins_with_tissue(channels[0], mask) or brain_mask_problems(mask, image):
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


def _begins_with_tissue(channel: NDArray[np.float32], mask: NDArray[np.bool_]) -> bool:
    values = channel - channel[~mask][0]
    outermost = mask & ~ndimage.binary_erosion(mask, iterations=2)
    return bool(np.abs(values[outermost].mean()) >= LEAST_EDGE * np.abs(np.median(values[mask])))
