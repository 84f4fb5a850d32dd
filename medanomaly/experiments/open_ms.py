"""The patients of the Open MS data (Lesjak et al. 2017) that the white-matter experiment trains on and tests on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose
from numpy.typing import NDArray
from torch import Tensor

from medanomaly.errors import InputError
from medanomaly.patches.layout import plain

ALL_CHANNELS = ["FLAIR", "T1", "T2"]
TRAINING_PATIENT, TEST_PATIENT = "patient07", "patient26"
HELD_OUT_SHARE = 0.2  # of the training patient's brain, as of the paper's patches

Mask = NDArray[np.bool_]
Score = Callable[..., Tensor]  # score(volume, mask=brain), each (1, C, H, W, D)


class Patient:
    """A patient in RAS: ``image`` (C, H, W, D), the first of its ``channels``; ``brain`` and ``lesions`` (H, W, D).

    All channels are read, whatever the detector sees: the brain is where any of them is not 0, and every row of a table
    is to be measured on the same voxels.
    """

    def __init__(self, name: str, data_root: Path | None, prepare: Compose, n_channels: int) -> None:
        self.scans = [_file(data_root, name, channel) for channel in ALL_CHANNELS]
        self.label = _file(data_root, name, "lesions")
        self.case = prepare({"case": name, "image": self.scans, "label": self.label})
        self.channels, brain, label = (plain(self.case[key]) for key in ("image", "region", "label"))
        self.image = self.channels[:n_channels]
        self.brain: Mask = brain[0].numpy() > 0
        self.lesions: Mask = (label[0].numpy() > 0) & self.brain

    def part(self, slices: Mask) -> dict[str, Any]:
        """The case as patches are drawn from it, with the brain of some axial slices (D,) alone."""
        brain, label = (torch.from_numpy(mask[None]) for mask in (self.brain & slices, self.lesions))
        return {"case": self.case["case"], "image": self.image, "region": brain, "label": label}

    @property
    def normal(self) -> Mask:
        """The brain without its lesions, (H, W, D)."""
        return self.brain & ~self.lesions

    def heatmap(self, score: Score) -> NDArray[np.float32]:
        """Scores (H, W, D), NaN where no patch lies."""
        return np.asarray(score(self.image[None], mask=torch.from_numpy(self.brain)[None, None])[0, 0])


def _file(data_root: Path | None, patient: str, kind: str) -> str:
    file = Path(data_root or "") / patient / f"{kind}.nii.gz"
    if data_root is None or not file.exists():
        raise InputError(
            f"there is no {file}: set --data-root to the folder of the patients of the Open MS data, {patient} among "
            "them (see data_manifests/open_ms.json)."
        )
    return str(file)


def held_out_slices(brain: Mask) -> Mask:
    """Which axial slices (D,) of a brain (H, W, D) are held out: the uppermost, which hold a fifth of its voxels.

    Both parts are cut there, so no patch of one holds a voxel of the other.
    """
    below = np.cumsum(brain.sum(axis=(0, 1))) / brain.sum()
    return np.asarray((below > 1 - HELD_OUT_SHARE) & brain.any(axis=(0, 1)))


def cut(part: dict[str, Any], slices: Mask) -> dict[str, Any]:
    """A case without the axial slices outside the range of ``slices``: coronal and sagittal patches end there, too."""
    first, last = np.flatnonzero(slices & part["region"][0].any(dim=0).any(dim=0).numpy())[[0, -1]]
    return {
        key: value[..., first : last + 1] if isinstance(value, torch.Tensor) else value for key, value in part.items()
    }
