"""Scores of normal cases, from which thresholds come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import Compose
from torch import Tensor

from medanomaly.data.digests import file_digest
from medanomaly.data.provenance import read_provenance
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation.calibration import Calibration
from medanomaly.preprocessing import LABEL_ON_SCAN, heatmap_to_scan
from medanomaly.terminal import progress

SIGNS = ("both", "bright", "dark")  # those of detectors that are signed
LEFT_OUT = 1e-3  # share of a voxel that is left out, above which it counts as such: less is rounding


def calibrate(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any = None,
    held_out: bool = True,
    settings: Mapping[str, Any] | None = None,
    preprocessing: Compose | None = None,
) -> Calibration:
    """Score normal cases and tabulate their scores, on the grid where thresholds are applied: the scan's.

    Resampling from the working grid smooths a heatmap or picks from it, so a threshold that was fitted there would let
    another share through on the scan.

    Args:
        dataset: prepared cases with ``image`` and ``region``; what touches a ``label`` is left out.
        inferer: called as ``inferer(volume, network, mask=region, exclude=label)``.
        network: the trained detector, where the inferer needs one.
        held_out: whether the detector has never seen these cases. If it has, its scores of new normal cases will be
            higher and a threshold lets more of them through; the calibration says so in ``source``.
        settings: what the scores depend on; see :class:`Calibration`.
        preprocessing: the chain that prepared the cases; None if their grid is that of the scan.

    Raises:
        InputError: if a case has no tissue that is free of lesion.
    """
    to_scan = None if preprocessing is None else heatmap_to_scan(preprocessing)
    scores = []
    for number in progress(range(len(dataset)), "calibrating on normals"):
        normal = _normal_scores(dataset[number], inferer, network, to_scan)
        if normal.size == 0:
            raise InputError(
                f"the normal case {dataset[number].get('case', number)} has no tissue that is free of lesion at this "
                "spacing and patch size: hold out healthy cases under 'validation', or use smaller patches."
            )
        scores.append(normal)
    return Calibration.fit(scores, normals_in_words(len(scores), held_out), settings, held_out)


def _normal_scores(
    case: Mapping[str, Any], inferer: Callable[..., Tensor], network: Any, to_scan: Compose | None
) -> npt.NDArray[np.float32]:
    """Scores (N,) in the region of a prepared case, on the grid of its scan; without what touches a label."""
    region, label = case["region"], case.get("label")
    lesion = {} if label is None else {"exclude": label[None]}
    scored = inferer(case["image"][None], network, mask=region[None], **lesion)[0]

    scored, inside = torch.as_tensor(scored).cpu(), torch.as_tensor(region).cpu() > 0

    def on_scan(values: Tensor) -> npt.NDArray[np.float32]:
        moved = torch.where(inside, values, torch.nan) if to_scan is None else to_scan({**case, "pred": values})["pred"]
        return np.asarray(torch.as_tensor(moved)[0])

    left_out = inside & ~torch.isfinite(scored)
    if bool((left_out == inside).all()):
        return np.empty(0, np.float32)
    heatmap = on_scan(scored)
    normal = np.isfinite(heatmap)
    if label is not None:
        normal &= on_scan(torch.where(inside, left_out.float(), torch.nan)) < LEFT_OUT
        normal &= np.asarray(torch.as_tensor(case.get(LABEL_ON_SCAN, label))[0]) == 0
    return heatmap[normal]


def calibrate_model(
    dataset: Sequence[Mapping[str, Any]],
    inferer: Callable[..., Tensor],
    network: Any,
    folder: str | Path,
    held_out: bool = True,
    settings: Mapping[str, Any] | None = None,
    preprocessing: Compose | None = None,
    baselines: Mapping[str, Any] | None = None,
) -> None:
    """:func:`calibrate` a network once for each ``sign`` of its score, and the baselines on the same normals.

    One training serves every sign: it may be chosen anew whenever scans are scored. A network that is not ``signed``
    has "both" alone. Each calibration names its sign among its settings.

    Args:
        folder: of the model; see :func:`calibration_file`.
        baselines: name to inferer that needs no network, with ``settings``, such as ``intensity_baselines``.
        dataset, inferer, network, held_out, settings, preprocessing: see :func:`calibrate`.
    """
    for name, baseline in (baselines or {}).items():
        own = calibrate(dataset, baseline, None, held_out, baseline.settings, preprocessing)
        own.save(calibration_file(folder, baseline=name))
    asked = network.sign
    for sign in SIGNS if network.signed else SIGNS[:1]:
        network.set_sign(sign)
        named = {**(settings or {}), "sign": sign}
        calibrate(dataset, inferer, network, held_out, named, preprocessing).save(calibration_file(folder, sign))
    network.set_sign(asked)


def calibration_file(folder: str | Path, sign: str = "both", baseline: str | None = None) -> Path:
    """``calibration.json`` for "both", ``calibration_bright.json`` and ``calibration_dark.json``; those of baselines.

    Raises:
        ConfigError: for another sign.
    """
    if sign not in SIGNS:
        raise ConfigError(f"sign is {sign!r}: use one of {', '.join(SIGNS)}.")
    if baseline is not None:
        return Path(folder) / f"calibration_{baseline.replace(', ', '_')}.json"
    return Path(folder) / ("calibration.json" if sign == "both" else f"calibration_{sign}.json")


def calibration_of_scores(scores: str | Path, model: str | Path | None = None) -> Calibration:
    """The calibration that the display maps in a folder of scores were made with.

    Args:
        scores: folder that scoring wrote; its ``run.json`` names the model and the sign.
        model: where the model lies now, if it was moved.

    Raises:
        InputError: if there are no scores, or the calibration is not there or is another one now.
    """
    found = read_provenance(Path(scores))
    root = Path(model or found["model"])
    file = calibration_file(root / "models", found["sign"])
    if not file.exists():
        raise InputError(
            f"there is no {file}, which says what the scores in {scores} mean: give the model that made them, now in "
            "another place, with --model."
        )
    if found.get("calibration_sha256") not in (None, file_digest(file)):
        raise InputError(
            f"the scores in {scores} were made with another calibration than {file} is now: score again into a new "
            "folder, or name the model that made them with --model."
        )
    return Calibration.load(file)


def load_calibrations(file: str | Path, name: str, baselines: Mapping[str, Any]) -> dict[str, Calibration]:
    """What :func:`calibrate_model` saved: of the detector ``name``, in ``file``, and of the baselines beside it.

    Raises:
        InputError: if one is missing or malformed.
        ConfigError: if a baseline had other settings then.
    """
    loaded = {
        key: Calibration.load(calibration_file(Path(file).parent, baseline=key), baseline.settings)
        for key, baseline in baselines.items()
    }
    return {**loaded, name: Calibration.load(file)}


def normals_in_words(n_cases: int, held_out: bool = True) -> str:
    """What a calibration was fitted on, for its ``source``."""
    cases = "case" if n_cases == 1 else "cases"
    if held_out:
        return f"{n_cases} held-out normal {cases}"
    return f"{n_cases} training {cases}, because no held-out normal cases were given"
