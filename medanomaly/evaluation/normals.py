"""Scores of normal cases, from which thresholds come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from medanomaly.evaluation.calibration import Calibration


def calibrate(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any,
    held_out: bool = True,
    patch_size: int = 16,
    settings: Mapping[str, Any] | None = None,
) -> Calibration:
    """Score normal cases and tabulate their in-brain scores.

    Args:
        dataset: prepared cases with ``image`` and ``brain``; voxels that can share a patch with a ``label`` are left
            out.
        inferer: called as ``inferer(volume, network, mask=brain)``.
        network: the trained detector.
        held_out: whether the detector has never seen these cases. If it has, its scores of new normal cases will be
            higher and a threshold lets more of them through; the calibration says so in ``source``.
        patch_size: of the detector, in voxels.
        settings: what the scores depend on; see :class:`Calibration`.
    """
    scores = []
    for number in tqdm(range(len(dataset)), desc="calibrating on normals", leave=False):
        case = dataset[number]
        heatmap = inferer(case["image"][None], network, mask=case["brain"][None])[0, 0]
        normal = torch.as_tensor(case["brain"][0]).numpy() > 0
        if case.get("label") is not None:
            lesion = torch.as_tensor(case["label"][0]).numpy() > 0
            normal &= ~ndimage.maximum_filter(lesion, size=2 * patch_size - 1)
        scores.append(np.asarray(torch.as_tensor(heatmap))[normal])
    kind = "held-out normal cases" if held_out else "training cases, because no held-out normal cases were given"
    return Calibration.fit(scores, source=f"{len(scores)} {kind}", settings=dict(settings or {}))
