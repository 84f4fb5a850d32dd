"""The way back: a heatmap in working space to the grid of the scan that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, MapTransform
from monai.utils import TraceKeys, convert_to_dst_type
from numpy.typing import NDArray
from scipy import ndimage

from medanomaly.data.writing import SaveHeatmapd
from medanomaly.preprocessing.channels import SaveRegistrationd
from medanomaly.preprocessing.region_origin import REGION_ON_SCAN, SaveMaskd

LABEL_ON_SCAN = "scan_label"  # as it lies on the input's grid, while `label` moves with the image


def heatmap_to_scan(
    preprocessing: Compose,
    output_dir: str | Path | None = None,
    display: Callable[[Any], Any] | None = None,
) -> Compose:
    """A heatmap ``pred`` (1, H, W, D) in working space back to the grid of the scan, and to files there.

    Args:
        preprocessing: the chain that prepared the case, whose moves are undone.
        output_dir, display: see :class:`SaveHeatmapd` and :class:`SaveMaskd`; None writes nothing. What was registered
            for the case is written beside the heatmap.
    """
    steps: list[Any] = [
        FillOutsided(),
        Invertd("pred", transform=preprocessing, orig_keys="image", nearest_interp=False),
        MaskOutsided(),
    ]
    if output_dir is not None:
        steps += saving_steps(output_dir, display)
    return Compose(steps)


def saving_steps(output_dir: str | Path, display: Callable[[Any], Any] | None = None) -> list[Any]:
    """What writes the files of a scored case: its maps, its mask, and what was registered for it."""
    return [SaveHeatmapd(output_dir, display), SaveMaskd(output_dir), SaveRegistrationd(output_dir)]


class FillOutsided(MapTransform):
    """Give the voxels of ``pred`` that no patch covers (NaN) the score of the covered voxel that is nearest in mm.

    Linear resampling would otherwise spread the NaNs into the region's edge. :class:`MaskOutsided` takes them out.
    Where nothing will be resampled and the region is covered, there is nothing to do. Further than ``margin`` voxels
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
        needed = (
            missing if "region" not in case or _is_resampled(case["image"]) else missing & inside_of(case["region"])
        )
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
    for step in image.applied_operations:
        source = step.get("extra_info", {}).get("src_affine")  # of a step to another spacing
        if source is None and step.get(TraceKeys.CLASS_NAME) != "Resize":
            continue
        if tuple(step["orig_size"]) != tuple(image.shape[1:]):
            return True
        if source is not None and not np.allclose(source, image.affine, rtol=0, atol=1e-6):
            return True
    return False


def inside_of(mask: torch.Tensor) -> NDArray[np.bool_]:
    """A mask (1, H, W, D) as booleans (H, W, D)."""
    plain: torch.Tensor = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
    return np.asarray(plain[0].cpu()) > 0


class MaskOutsided(MapTransform):
    """Set ``pred`` to NaN outside the region's mask on the scan's own grid."""

    def __init__(self) -> None:
        super().__init__(keys="pred")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        inside, heatmap = inside_of(case[REGION_ON_SCAN]), case["pred"]
        masked = np.where(inside, np.asarray(torch.as_tensor(heatmap).cpu()), np.float32(np.nan))
        case["pred"] = convert_to_dst_type(masked, heatmap)[0]
        return case
