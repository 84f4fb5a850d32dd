"""A look at voxel sizes before anything is resampled: what a wrong header would make of a scan."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import prod
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medanomaly.errors import InputError

VOXEL_SIZES = (0.05, 20.0)  # mm, of scans of patients: what lies outside is micrometres, metres, or a mistake
MOST_VOXELS = 5e8  # of a volume at the working spacing: 2 GB a channel, and a multiple of that on the way there


class PlausibleGridd(MapTransform):
    """Refuse an ``image`` (C, H, W, D) whose voxel sizes cannot be right, or which would become huge.

    Args:
        spacing: to which it will be resampled, mm along the axes of RAS; None where it will not be.

    Raises:
        InputError: if a voxel size is not within 0.05 to 20 mm, or more than 5e8 voxels would be made.
    """

    def __init__(self, spacing: Sequence[float] | None = None) -> None:
        super().__init__(keys="image")
        self.spacing = spacing

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"]
        file = image.meta.get("filename_or_obj", data.get("case", "the image"))
        sizes, (low, high) = _voxel_sizes(image), VOXEL_SIZES
        if any(not low <= size <= high for size in sizes):
            raise InputError(
                f"{file} has voxels of {_product(sizes)} mm, but sizes of {low:g} to {high:g} mm are needed: correct "
                "the header (its unit may be wrong), or convert the scan again from DICOM."
            )
        if self.spacing is not None:
            shape = resampled_shape(image, self.spacing)
            if prod(shape) > MOST_VOXELS:
                raise InputError(
                    f"{file} has {_product(image.shape[1:])} voxels of {_product(sizes)} mm and would become "
                    f"{_product(shape)} voxels of {_product(self.spacing)} mm, {prod(shape):.2g} where {MOST_VOXELS:g} "
                    "are the most: choose a coarser `spacing`, or correct the header."
                )
        return dict(data)


def resampled_shape(image: MetaTensor, spacing: Sequence[float]) -> tuple[int, ...]:
    """The shape of ``image`` (C, H, W, D) when it is turned to RAS and resampled to ``spacing`` (mm)."""
    sizes, target = _voxel_sizes(image), list(image.shape[1:])
    for axis, ras in enumerate(nib.io_orientation(image.affine.numpy())[:, 0].astype(int)):
        target[ras] = round((image.shape[1 + axis] - 1) * sizes[axis] / spacing[ras]) + 1
    return tuple(target)


def _voxel_sizes(image: MetaTensor) -> list[float]:
    """mm along H, W and D; what single precision in a header rounds off does not decide over a limit."""
    return [float(f"{size:.6g}") for size in np.linalg.norm(image.affine.numpy()[:3, :3], axis=0)]


def _product(numbers: Sequence[float]) -> str:
    return " x ".join(f"{number:g}" for number in numbers)
