"""Thresholds from a site's own normal cases, for a model that was trained elsewhere, without training it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from medanomaly.data import read_datalist
from medanomaly.data.training_cases import take_other_normals
from medanomaly.errors import InputError
from medanomaly.workflows import bundles
from medanomaly.workflows.settings import device_setting


def calibrate(
    model: str | Path,
    datalist: str | Path,
    output: str | Path,
    *,
    section: str = "validation",
    data_root: str | Path | None = None,
    region: str | None = None,
    device: str | None = None,
) -> Path:
    """Copy a model and take its thresholds, and those of plain intensity beside it, from other normal cases.

    The weights stay as they are, and so do the scores; percentiles, thresholds and what calls a case abnormal change.

    Args:
        model: folder of a trained model, or the name of one that comes with the package.
        datalist: JSON whose ``section`` names normal cases of the site: of its scanner, sequence and people. At least
            19 are needed to promise 5 % of false alarms for cases.
        output: folder of the new model, which must not be there yet.
        section, data_root: of the datalist; what its relative paths start from.
        region: how the brain is found, see :func:`~medanomaly.workflows.score`; as the model was trained if not given.
        device: cpu, cuda or cuda:1; the GPU if there is one, when not given.

    Returns:
        The folder of the new model.

    Raises:
        InputError: if ``model`` is not a trained model, ``output`` is there, or a case is one that was trained on or
            has the label 1.
        ConfigError: if the device is not there.
    """
    model, output = bundles.find_model(model), Path(output)
    weights = model / "models" / "model.pt"
    if not weights.exists():
        raise InputError(f"there is no {weights}: give the folder of a trained model.")
    if output.exists():
        raise InputError(f"{output} is there already: choose another --output.")
    cases = read_datalist(datalist, section, data_root)
    try:
        root = bundles.copy_bundle(model, output, {} if region is None else {"region": region})
        (root / "models").mkdir()
        further = [weights.with_name(name) for name in bundles.FURTHER]
        for file in [weights, *(path for path in further if path.exists())]:
            shutil.copy(file, root / "models")
        take_other_normals(model, root, cases, datalist)
        _take_thresholds(root, cases, **device_setting(device))
    except BaseException:
        shutil.rmtree(output, ignore_errors=True)
        raise
    return root


def _take_thresholds(root: Path, cases: list[dict[str, Any]], **settings: Any) -> None:
    """Do what the last step of a training does, with the weights as they are."""
    from medanomaly.evaluation import calibrate_model
    from medanomaly.training import load_detector

    given = {"training_cases": tuple(cases), "held_out_cases": tuple(cases)}
    with bundles.open_bundle(root, "train", **given, **settings) as workflow:
        content = workflow.parser.get_parsed_content
        network = load_detector(content("network_def"), root / "models" / "model.pt").to(content("device"))
        dataset, inferer = content("validate#dataset"), content("train#inferer")
        known, chain, baselines = content("settings"), content("train#preprocessing"), content("baselines")
        calibrate_model(dataset, inferer, network, root / "models", True, known, chain, baselines)


def closing_words(root: Path, model: str | Path) -> str:
    """What the thresholds of the new model, which the user calls ``model``, promise."""
    calibration = json.loads((root / "models" / "calibration.json").read_text(encoding="utf-8"))
    return (
        f"The model with thresholds from {calibration['source']} is in {root}. Score scans with it:\n"
        f"  medanomaly score SCAN --model {model} --output out"
    )
