"""Scores of normal cases, from which thresholds come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation.calibration import Calibration

SIGNS = ("both", "bright", "dark")  # those of detectors that are signed


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


def calibrate_signs(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any,
    folder: str | Path,
    held_out: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """:func:`calibrate` a network once for each ``sign`` of its score, and save to :func:`calibration_file`.

    So one training serves them all: the sign may be chosen anew whenever scans are scored. A network that is not
    ``signed`` has "both" alone. Each calibration names its sign among its settings.
    """
    asked = network.sign
    for sign in SIGNS if network.signed else SIGNS[:1]:
        network.set_sign(sign)
        own = {**(settings or {}), "sign": sign}
        calibrate(dataset, inferer, network, held_out, own).save(calibration_file(folder, sign))
    network.set_sign(asked)


def calibration_file(folder: str | Path, sign: str) -> Path:
    """``calibration.json`` for "both", ``calibration_bright.json`` and ``calibration_dark.json``.

    Raises:
        ConfigError: for another sign.
    """
    if sign not in SIGNS:
        raise ConfigError(f"sign is {sign!r}: use one of {', '.join(SIGNS)}.")
    return Path(folder) / ("calibration.json" if sign == "both" else f"calibration_{sign}.json")


def normals_in_words(n_cases: int, held_out: bool = True) -> str:
    """What a calibration was fitted on, for its ``source``."""
    cases = "case" if n_cases == 1 else "cases"
    if held_out:
        return f"{n_cases} held-out normal {cases}"
    return f"{n_cases} training {cases}, because no held-out normal cases were given"
