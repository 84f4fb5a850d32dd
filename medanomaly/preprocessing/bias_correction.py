"""N4 bias field correction (Tustison et al., 2010) of an image inside its region."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray

from medanomaly.errors import InputError

COARSE = 4.0  # mm: the field is fitted on voxels of about this size, and then given to all
ITERATIONS = (50, 50, 50)  # at most, on each of three levels of finer and finer fields
MOST_DARK = 0.1  # share of the region that may be 0 or below, where there is no logarithm


class CorrectBiasd(MapTransform):
    """Divide each channel of ``image`` (C, H, W, D) by the smooth field that N4 finds in ``region``.

    The field is fitted in the region and applied to the whole image, on the grid that it has; the mean of the region
    stays as it is.

    Raises:
        InputError: if more than a tenth of the region is 0 or below, as in an image that was normalised already.
    """

    def __init__(self) -> None:
        super().__init__(keys="image")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image, region = case["image"], np.asarray(case["region"].as_tensor()[0]) > 0
        file = image.meta.get("filename_or_obj", "the image") if isinstance(image, MetaTensor) else "the image"
        spacing = np.linalg.norm(np.asarray(image.affine, np.float64)[:3, :3], axis=0)
        corrected = np.empty(image.shape, np.float32)
        for number, channel in enumerate(np.asarray(image.as_tensor(), np.float32)):
            dark = float((channel[region] <= 0).mean())
            if dark > MOST_DARK:
                raise InputError(
                    f"channel {number} of {file} is 0 or below in {100 * dark:.0f} % of the region, where N4 takes at "
                    f"most {100 * MOST_DARK:g} %: give the scan as it was before it was normalised, or leave out "
                    "bias_correction."
                )
            flat = channel / bias_field(channel, region & (channel > 0), spacing)
            corrected[number] = flat * (channel[region].mean() / flat[region].mean())
        case["image"] = convert_to_dst_type(corrected, image, corrected.dtype)[0]
        return case


def bias_field(
    volume: NDArray[np.float32], region: NDArray[np.bool_], spacing: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The field (H, W, D), above 0, by which N4 would divide a volume (H, W, D) with values above 0 in ``region``.

    Args:
        volume: the image.
        region: from which the field is taken, (H, W, D).
        spacing: mm along H, W and D.
    """
    import SimpleITK as sitk  # noqa: N813, as it is called everywhere

    image = sitk.GetImageFromArray(volume.T)
    image.SetSpacing(spacing.tolist())
    mask = sitk.GetImageFromArray(region.T.astype(np.uint8))
    mask.CopyInformation(image)
    step = [int(max(1, min(COARSE // size, n // 8))) for size, n in zip(spacing, volume.shape, strict=True)]
    corrector = sitk.N4BiasFieldCorrectionImageFilter()
    corrector.SetMaximumNumberOfIterations(ITERATIONS)
    corrector.Execute(sitk.Shrink(image, step), sitk.Shrink(mask, step))
    field: NDArray[np.float32] = np.exp(sitk.GetArrayFromImage(corrector.GetLogBiasFieldAsImage(image)).T)
    return field.astype(np.float32)
