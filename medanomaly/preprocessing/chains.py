"""The ready chains: a brain MRI into the space where detectors work, and a heatmap back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CopyItemsd, Invertd, MapTransform, Orientationd, Spacingd
from scipy import ndimage

from medanomaly.data.reading import LoadCased
from medanomaly.data.writing import SaveHeatmapd
from medanomaly.errors import ConfigError
from medanomaly.preprocessing.brain_mask import BrainExtractor, BrainMaskd
from medanomaly.preprocessing.normalisation import NormalisePercentilesd

# The mask as it lies on the input's grid, kept while `brain` moves with the image. (MONAI takes a key "brain_..." for
# the metadata of `brain`.)
BRAIN_ON_SCAN = "scan_brain"


def brain_mri(
    in_channels: int | None = None,
    spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    brain_mask: str | BrainExtractor = "given",
    percentiles: tuple[float, float] = (5.0, 95.0),
    clip: bool = False,
) -> Compose:
    """Paths of a case to its ``image`` (C, H, W, D) and ``brain`` (1, H, W, D): RAS, at ``spacing``, normalised.

    Read, find the brain, reorient to RAS (axes are permuted and flipped, so an oblique scan stays oblique), resample
    (image linearly, masks by nearest neighbour), normalise inside the brain. The moves are recorded for the inverse.

    Args:
        in_channels: how many channels a case must have; None for any number.
        spacing: voxel size in mm; None keeps the scan's own.
        brain_mask: see :class:`BrainMaskd`.
        percentiles, clip: see :class:`NormalisePercentiles`.

    Raises:
        ConfigError: if ``spacing`` is not three numbers above 0.
    """
    if spacing is not None and not _is_spacing(spacing):
        raise ConfigError(f"spacing is {spacing!r}: give three voxel sizes in mm above 0, such as [1, 1, 3], or null.")
    keys, modes = ("image", "brain", "label"), ("bilinear", "nearest", "nearest")
    steps: list[Any] = [
        LoadCased(in_channels),
        BrainMaskd(brain_mask),
        CopyItemsd("brain", names=BRAIN_ON_SCAN),
        Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
    ]
    if spacing is not None:
        steps.append(Spacingd(keys, pixdim=tuple(spacing), mode=modes, dtype=np.float32, allow_missing_keys=True))
    return Compose([*steps, NormalisePercentilesd(*percentiles, clip)])


def _is_spacing(spacing: Any) -> bool:
    return (
        isinstance(spacing, list | tuple)
        and len(spacing) == 3
        and all(isinstance(s, int | float) and s > 0 for s in spacing)
    )


def heatmap_to_scan(
    preprocessing: Compose,
    output_dir: str | Path | None = None,
    display: Callable[[Any], Any] | None = None,
) -> Compose:
    """A heatmap ``pred`` (1, H, W, D) in working space back to the grid of the scan, and to files there.

    Args:
        preprocessing: the chain that prepared the case, whose moves are undone.
        output_dir, display: see :class:`SaveHeatmapd`; None writes nothing.
    """
    steps: list[Any] = [
        FillOutsided(),
        Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
        MaskOutsided(),
    ]
    return Compose(steps if output_dir is None else [*steps, SaveHeatmapd(output_dir, display)])


class FillOutsided(MapTransform):
    """Give the voxels of ``pred`` that no patch covers (NaN) the score of the covered voxel that is nearest in mm.

    Linear resampling would otherwise spread the NaNs into the brain's edge. :class:`MaskOutsided` takes them out again.
    """

    def __init__(self) -> None:
        super().__init__(keys="pred")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        heatmap = np.asarray(torch.as_tensor(case["pred"]).cpu())[0]
        missing = np.isnan(heatmap)
        if missing.any():
            spacing = np.linalg.norm(np.asarray(case["image"].affine)[:3, :3], axis=0)
            nearest = ndimage.distance_transform_edt(missing, spacing, return_distances=False, return_indices=True)
            heatmap = heatmap[tuple(nearest)]
        case["pred"] = MetaTensor(heatmap[None])  # Invertd takes the moves of the image only for a MetaTensor
        return case


class MaskOutsided(MapTransform):
    """Set ``pred`` to NaN outside the brain mask of the scan's own grid."""

    def __init__(self) -> None:
        super().__init__(keys="pred")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        heatmap = case["pred"]
        case["pred"] = torch.where(case[BRAIN_ON_SCAN].to(heatmap.device) > 0, heatmap, torch.nan)
        return case
