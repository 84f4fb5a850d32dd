"""Films on one grid: a single slice whose axes run the same way in every format."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, Orientation, Resized
from monai.utils import convert_to_dst_type
from torch.nn import functional

from medanomaly.errors import InputError

KEYS = ("image", "region", "label")

# The anatomical axis across a film to the directions of its three axes: in its plane those of RAS, in their order.
PLANES = {"S": "RAS", "A": "RSA", "R": "ASR"}


class OneSliced(MapTransform):
    """Refuse an ``image`` (C, H, W, D) that is not a single slice, on whichever axis.

    Raises:
        InputError: if no axis has the length 1.
    """

    def __init__(self) -> None:
        super().__init__(keys="image")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        image = data["image"]
        if 1 not in image.shape[1:]:
            file = image.meta.get("filename_or_obj", data.get("case", "the image"))
            raise InputError(
                f"{file} is a volume of {' x '.join(map(str, image.shape[1:]))} voxels, but this model takes images of "
                "one slice, such as radiographs: give one of them, or use a model of volumes."
            )
        return dict(data)


class FilmResized(Resized):
    """Resize ``image`` (C, x, y, 1), its ``region`` and its ``label`` to another number of pixels.

    The image is smoothed by a triangle as wide as two new pixels before it is sampled, as Pillow does, so that no fine
    structure turns into a coarse one. (The Gaussian of MONAI's ``Resize`` takes 18 seconds for a film of 7 million
    pixels, this half a second.) The region goes by nearest neighbour, and a pixel of the label is the share of it that
    is lesion. On the way back, a heatmap is interpolated linearly.

    Args:
        size: height (of y) and width (of x) in pixels.
    """

    def __init__(self, size: Sequence[int]) -> None:
        modes, corners = ("trilinear", "nearest-exact", "area"), (False, None, None)
        super().__init__(KEYS, (size[1], size[0], 1), "all", modes, corners, allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any], lazy: bool | None = None) -> dict[Hashable, Any]:  # type: ignore[override]
        case: dict[Hashable, Any] = super().__call__(data, lazy)
        slices = data["image"].as_tensor()[..., 0][None]
        size = tuple(case["image"].shape[1:3])
        smooth = functional.interpolate(slices, size, mode="bilinear", align_corners=False, antialias=True)
        case["image"] = convert_to_dst_type(smooth[0, ..., None], case["image"])[0]
        return case


class FilmOrientationd(MapTransform, InvertibleTransform):
    """Permute and flip the axes of a single slice (C, H, W, D), so that it becomes (C, x, y, 1).

    Of a film as it is seen, and of an axial slice, x runs to the patient's right and y up (to the front). A NIfTI film
    may say that it stands upright: of a coronal slice, x runs to the right and y up (to the head); of a sagittal one,
    x runs to the front and y up. Voxels keep their world coordinates.
    """

    def __init__(self) -> None:
        MapTransform.__init__(self, KEYS, allow_missing_keys=True)
        self.turns = {codes: Orientation(axcodes=codes, labels=None) for codes in PLANES.values()}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        turn = self.turns[_codes_of(case["image"])]
        for key in self.key_iterator(case):
            case[key] = turn(case[key])
        return case

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The slice as it lay in its file."""
        case = dict(data)
        for key in self.key_iterator(case):
            case[key] = self.turns[_codes_of(case[key])].inverse(case[key])
        return case


def _codes_of(image: MetaTensor) -> str:
    """The directions of the axes that a slice is turned to; the same before and after."""
    axes = nib.io_orientation(np.asarray(image.affine))[:, 0].astype(int)
    across = max(axis for axis in range(3) if image.shape[1 + axis] == 1)
    return PLANES["RAS"[axes[across]]]
