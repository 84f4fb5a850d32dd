"""Scores of normal cases, from which thresholds come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medanomaly.errors import InputError
from medanomaly.evaluation.calibration import Calibration


def calibrate(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any,
    held_out: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Calibration:
    """Score normal cases and tabulate their in-brain scores.

    Args:
        dataset: prepared cases with ``image`` and ``brain``; what touches a ``label`` is left out.
        inferer: called as ``inferer(volume, network, mask=brain, exclude=label)``.
        network: the trained detector.
        held_out: whether the detector has never seen these cases. If it has, its scores of new normal cases will be
            higher and a threshold lets more of them through; the calibration says so in ``source``.
        settings: what the scores depend on; see :class:`Calibration`.
    """
    scores = []
    for number in tqdm(range(len(dataset)), desc="calibrating on normals", leave=False):
        case = dataset[number]
        lesion = {} if case.get("label") is None else {"exclude": case["label"][None]}
        scored = inferer(case["image"][None], network, mask=case["brain"][None], **lesion)
        heatmap, brain = (np.asarray(torch.as_tensor(v)) for v in (scored[0, 0], case["brain"][0]))
        normal = (brain > 0) & np.isfinite(heatmap)
        if not normal.any():
            raise InputError(
                f"the normal case {case.get('case', number)} has no tissue that is free of lesion at this spacing and "
                "patch size: hold out healthy cases under 'validation', or use smaller patches."
            )
        scores.append(heatmap[normal])
    return Calibration.fit(scores, source=normals_in_words(len(scores), held_out), settings=settings)


def normals_in_words(n_cases: int, held_out: bool = True) -> str:
    """What a calibration was fitted on, for its ``source``."""
    cases = "case" if n_cases == 1 else "cases"
    if held_out:
        return f"{n_cases} held-out normal {cases}"
    return f"{n_cases} training {cases}, because no held-out normal cases were given"
