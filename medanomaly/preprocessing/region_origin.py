"""Where the mask of a case came from and what is odd about it: kept with the mask, through the cache, to its results.

Both are texts in the metadata of ``region``, as these pass through the cache, a batch and MONAI's transforms.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from medanomaly.data.writing import heatmap_path, save_on_grid, written_whole

ORIGIN, PROBLEMS = "region_from", "region_problems"  # in the metadata
# The mask as it lies on the input's grid, kept while `region` moves with the image. (MONAI takes a key "region_..." for
# the metadata of `region`.)
REGION_ON_SCAN = "scan_region"
NOT_COMPUTED = ("given", "nonzero", "all")  # origins of masks that the user has, or can have at once
LOOK = "look at it over the scan, and give another mask (--brain MASK) if it is not one of the brain"


def note_origin(region: MetaTensor, origin: str, problems: Sequence[str]) -> MetaTensor:
    """``region`` with where it came from, and what is odd about it, in its metadata."""
    region.meta[ORIGIN], region.meta[PROBLEMS] = origin, "; ".join(problems)
    return region


def warn_of_mask(region: Tensor) -> None:
    """Warn of what is odd about a mask, if anything is: when it is made, and when the cache gives it."""
    if isinstance(region, MetaTensor) and region.meta.get(PROBLEMS):
        file = region.meta.get("filename_or_obj", "the image")
        warnings.warn(f"{file}: {_warning_of(region)}", stacklevel=2)


def _warning_of(region: MetaTensor) -> str:
    problems = region.meta[PROBLEMS]
    return f"{problems} (mask from: {region.meta[ORIGIN]}); {LOOK}" if problems else ""


def origin_path(folder: str | Path, case: str) -> Path:
    """Where it is written what the mask of a case is."""
    return heatmap_path(folder, case).with_name(f"{case}_mask.json")


def read_origin(folder: str | Path, case: str) -> dict[str, str]:
    """``from`` and ``warning`` of the mask of a case that was scored into ``folder``; empty if none was kept."""
    file = origin_path(folder, case)
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


class SaveMaskd(MapTransform):
    """Write ``<case>_mask.json`` beside the heatmap of a case, and, if its mask was computed, ``<case>_mask.nii.gz``.

    The first says where the mask came from (``from``), its volume in ml, and what is odd about it (``warning``). The
    second is the mask, 0 and 1, on the grid of the scan: to be looked at, corrected, and given. Of films, and where all
    of an image is the region, nothing is written; what an earlier run wrote is taken away.
    """

    def __init__(self, output_dir: str | Path) -> None:
        super().__init__(keys="pred")
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        file = origin_path(self.output_dir, case["case"])
        drawn = file.with_name(f"{case['case']}_mask.nii.gz")
        mask = np.asarray(case[REGION_ON_SCAN].cpu())[0] > 0
        origin = getattr(case["region"], "meta", {}).get(ORIGIN)
        if origin is None or origin == "all" or 1 in mask.shape:
            for old in (file, drawn):
                old.unlink(missing_ok=True)
            return case
        affine = np.asarray(case["pred"].affine)
        volume = float(mask.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)
        if origin in NOT_COMPUTED:
            drawn.unlink(missing_ok=True)
        else:
            save_on_grid(mask, drawn, case["image"].meta["filename_or_obj"], affine)
        told = {"from": origin, "volume_ml": round(volume, 1), "warning": _warning_of(case["region"])}
        with written_whole(file) as temporary:
            temporary.write_text(json.dumps(told, indent=1), encoding="utf-8")
        return case
