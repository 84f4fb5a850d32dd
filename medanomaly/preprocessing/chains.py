"""The ready chains: a brain MRI into the space where detectors work, and a heatmap back to the scan's own grid."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform, Orientationd, Spacingd
from monai.utils import convert_to_dst_type
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.data.reading import LoadCased
from medanomaly.data.writing import SaveHeatmapd
from medanomaly.errors import ConfigError
from medanomaly.preprocessing.cache import CachedCompose
from medanomaly.preprocessing.normalisation import NormalisePercentilesd
from medanomaly.preprocessing.plausible_grid import PlausibleGridd
from medanomaly.preprocessing.region_mask import RegionFinder, RegionMaskd

# The masks as they lie on the input's grid, kept while `brain` and `label` move with the image. (MONAI takes a key
# "brain_..." for the metadata of `brain`.)
REGION_ON_SCAN, LABEL_ON_SCAN = "scan_region", "scan_label"
LEAST_LESION = 1e-4  # share of a resampled voxel that is lesion: less is the rounding of coordinates


def brain_mri(
    in_channels: int | None = None,
    spacing: Sequence[float] | None = (1.0, 1.0, 1.0),
    region: str | RegionFinder = "given",
    percentiles: tuple[float, float] = (5.0, 95.0),
    clip: bool = False,
    cache_dir: str | Path | None = None,
) -> Compose:
    """Paths of a case to its ``image`` (C, H, W, D) and ``brain`` (1, H, W, D): RAS, at ``spacing``, normalised.

    Read, look at the voxel sizes, find the brain, reorient to RAS (axes are permuted and flipped, so an oblique scan
    stays oblique), resample (image linearly, the brain by nearest neighbour, the label so that every voxel that holds
    any lesion counts: it is there to keep lesions out of training), normalise inside the brain. The moves are recorded
    for the inverse.

    Args:
        in_channels: how many channels a case must have; None for any number.
        spacing: voxel size in mm; None keeps the scan's own.
        region: see :class:`RegionMaskd`.
        percentiles, clip: see :class:`NormalisePercentiles`.
        cache_dir: where prepared cases are kept, see :class:`CachedCompose`; None keeps none. What a callable
            ``region`` depends on cannot be known, so its cases are never kept.

    Raises:
        ConfigError: if ``spacing`` is not three numbers above 0.
    """
    if spacing is not None and not _is_spacing(spacing):
        raise ConfigError(f"spacing is {spacing!r}: give three voxel sizes in mm above 0, such as [1, 1, 3], or null.")
    keys, modes = ("image", "region", "label"), ("bilinear", "nearest", "bilinear")
    steps: list[Any] = [
        LoadCased(in_channels),
        PlausibleGridd(spacing),  # before an extractor works on what will be refused
        RegionMaskd(region),
        _KeepMasksd(),
        Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
    ]
    if spacing is not None:
        steps.append(Spacingd(keys, pixdim=tuple(spacing), mode=modes, dtype=np.float32, allow_missing_keys=True))
        steps.append(_AnyLesiond())
    steps.append(NormalisePercentilesd(*percentiles, clip))
    if cache_dir is None or callable(region):
        return Compose(steps)
    parameters = {
        "in_channels": in_channels,
        "spacing": spacing,
        "region": region,
        "percentiles": percentiles,
        "clip": clip,
    }
    return CachedCompose(steps, parameters, cache_dir)


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


class _KeepMasksd(MapTransform):
    """Keep ``brain`` and ``label`` as they lie on the scan, as booleans (1, H, W, D) that nothing moves."""

    def __init__(self) -> None:
        super().__init__(keys=("region", "label"), allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        for key, kept in (("region", REGION_ON_SCAN), ("label", LABEL_ON_SCAN)):
            if case.get(key) is not None:
                case[kept] = torch.from_numpy(_inside(case[key])[None])
        return case


class _AnyLesiond(MapTransform):
    """A label that was resampled linearly to 1 wherever a voxel holds any lesion, and 0 elsewhere."""

    def __init__(self) -> None:
        super().__init__(keys="label", allow_missing_keys=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        if case.get("label") is not None:
            case["label"] = (case["label"] > LEAST_LESION).float()
        return case


class FillOutsided(MapTransform):
    """Give the voxels of ``pred`` that no patch covers (NaN) the score of the covered voxel that is nearest in mm.

    Linear resampling would otherwise spread the NaNs into the brain's edge. :class:`MaskOutsided` takes them out again.
    Where nothing will be resampled and the brain is covered, there is nothing to do. Further than ``margin`` voxels
    from the box around all covered voxels, where the way back does not look, scores are those of that box's edge.

    Args:
        margin: voxels.
    """

    def __init__(self, margin: int = 8) -> None:
        super().__init__(keys="pred")
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        heatmap = np.asarray(torch.as_tensor(case["pred"]).cpu())[0]
        missing = np.isnan(heatmap)
        needed = missing if "region" not in case or _is_resampled(case["image"]) else missing & _inside(case["region"])
        if needed.any() and not missing.all():
            box = tuple(
                slice(max(covered[0] - self.margin, 0), covered[-1] + self.margin + 1)
                for covered in (np.flatnonzero((~missing).any(axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
            )
            spacing = np.linalg.norm(np.asarray(case["image"].affine)[:3, :3], axis=0)
            nearest = ndimage.distance_transform_edt(missing[box], spacing, return_distances=False, return_indices=True)
            around = [(b.start, max(size - b.stop, 0)) for b, size in zip(box, heatmap.shape, strict=True)]
            heatmap = np.pad(heatmap[box][tuple(nearest)], around, mode="edge")
        case["pred"] = MetaTensor(torch.from_numpy(heatmap[None]))  # Invertd takes the moves only for a MetaTensor
        return case


def _is_resampled(image: MetaTensor) -> bool:
    """Whether the way back to the scan interpolates, or only permutes and flips axes."""
    moves = [step for step in image.applied_operations if "src_affine" in step.get("extra_info", {})]
    return not all(
        tuple(step["orig_size"]) == tuple(image.shape[1:])
        and np.allclose(step["extra_info"]["src_affine"], image.affine, rtol=0, atol=1e-6)
        for step in moves
    )


def _inside(mask: torch.Tensor) -> NDArray[np.bool_]:
    """A mask (1, H, W, D) as booleans (H, W, D)."""
    plain: torch.Tensor = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
    return np.asarray(plain[0].cpu()) > 0


class MaskOutsided(MapTransform):
    """Set ``pred`` to NaN outside the brain mask of the scan's own grid."""

    def __init__(self) -> None:
        super().__init__(keys="pred")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        inside, heatmap = _inside(case[REGION_ON_SCAN]), case["pred"]
        masked = np.where(inside, np.asarray(torch.as_tensor(heatmap).cpu()), np.float32(np.nan))
        case["pred"] = convert_to_dst_type(masked, heatmap)[0]
        return case
