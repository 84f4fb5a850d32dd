"""Where the heatmaps of an evaluation come from: files that were scored before, or volumes scored on the spot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from medanomaly.data import heatmap_path, read_provenance
from medanomaly.data.films import with_third_axis
from medanomaly.errors import InputError
from medanomaly.preprocessing import heatmap_to_scan

HeatmapSource = Callable[[Mapping[str, Any]], NDArray[np.float32]]


class HeatmapFolder:
    """The raw heatmaps ``<folder>/<case>/<case>_heatmap.nii.gz`` that scoring wrote.

    Attributes:
        epoch: which of the training made them and how it was chosen, if unlabelled cases chose it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        told = read_provenance(self.folder).get("epoch") if (self.folder / "run.json").exists() else None
        self.epoch: str | None = None if told is None else str(told)

    def __call__(self, case: Mapping[str, Any]) -> NDArray[np.float32]:
        """The heatmap (H, W, D) of a case on the grid of its scan; InputError if it was not scored."""
        path = heatmap_path(self.folder, case["case"])
        if not path.exists():
            raise InputError(
                f"there is no heatmap {path}: score the case {case['case']} first, or correct the scores folder."
            )
        heatmap: Any = nib.load(path)
        scan = str(case["image"][0]) if case.get("image") else ""
        if scan.endswith((".nii", ".nii.gz")):
            reference: Any = nib.load(scan)
            if not np.allclose(heatmap.affine, with_third_axis(reference.affine), rtol=0, atol=1e-3):
                raise InputError(
                    f"{path} does not lie on the grid of {scan} (another affine): score this very scan again."
                )
        return np.asarray(heatmap.dataobj, dtype=np.float32)


class HeatmapOnTheSpot:
    """Prepare a case, score it, bring the heatmap back to its scan: for detectors that cost less than a file.

    Args:
        preprocessing: the chain that prepares a case.
        inferer: called as ``inferer(volume, network, mask=region)``.
        network: the detector, where the inferer needs one.
    """

    def __init__(self, preprocessing: Compose, inferer: Callable[..., Tensor], network: Any = None) -> None:
        self.preprocessing, self.inferer, self.network = preprocessing, inferer, network
        self.to_scan = heatmap_to_scan(preprocessing)

    def __call__(self, case: Mapping[str, Any]) -> NDArray[np.float32]:
        """The heatmap (H, W, D) of a case on the grid of its scan."""
        prepared = self.preprocessing(dict(case))
        prepared["pred"] = self.inferer(prepared["image"][None], self.network, mask=prepared["region"][None])[0]
        return np.asarray(torch.as_tensor(self.to_scan(prepared)["pred"][0]), dtype=np.float32)


def heatmap_sources(
    preprocessing: Compose, baselines: Mapping[str, Callable[..., Tensor]], name: str, folder: str | Path
) -> dict[str, HeatmapSource]:
    """The rows of an evaluation: the baselines, scored on the spot, and then the detector ``name`` from its folder."""
    on_the_spot = {key: HeatmapOnTheSpot(preprocessing, baseline) for key, baseline in baselines.items()}
    return {**on_the_spot, name: HeatmapFolder(folder)}
