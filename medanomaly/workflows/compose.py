"""Configs of a bundle, joined from what all share and what is a detector's own."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError
from medanomaly.shipped import shipped

PROGRAMS = ("train", "inference", "evaluate")


def merge(config: Mapping[str, Any], *overlays: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a config with overlays merged as MONAI merges several config files: ``#`` descends, later wins.

    A key that begins with ``+`` adds to a dictionary or list, and to nothing where the config has none.
    """
    from monai.bundle import ConfigParser
    from monai.bundle.utils import merge_kv

    parser = ConfigParser(config=copy.deepcopy(dict(config)))
    for overlay in overlays:
        for key, value in copy.deepcopy(dict(overlay)).items():
            if not key.startswith("+") or key[1:] in parser:
                merge_kv(parser, key, value)
    return dict(parser.get())


def compose(bundle: Path) -> dict[str, dict[str, Any]]:
    """The configs of a bundle: its ``model.json`` over those that all bundles share.

    ``model.json`` holds ``name`` and ``network`` (the class, by its full name); ``arguments`` of the network, which its
    scores depend on, with their defaults, and ``unscored`` ones, which they do not (``sign`` has calibrations of its
    own); and overlays, in which ``#`` descends: ``both`` (for training and inference), ``train``, ``inference``,
    ``evaluate``, ``metadata``. Each argument becomes a setting at the top, an argument of ``network_def``, and, unless
    it is unscored, an entry of ``settings``, which a calibration keeps and scoring compares. With a ``choose_epoch``
    in ``train``, epochs can be chosen by pseudo-AUC.

    Args:
        bundle: its folder.

    Returns:
        The content of ``train``, ``inference``, ``evaluate`` and ``metadata``.

    Raises:
        InputError: if there is no ``model.json``, or it is no JSON, or says too little.
    """
    model, common = _read_model(bundle), shipped("bundles") / "common"
    scored = model.get("arguments", {})
    arguments = {**scored, **model.get("unscored", {})}
    shared = {
        **arguments,
        "network_def#_target_": model["network"],
        **{f"network_def#{name}": f"@{name}" for name in arguments},
        "settings": "$dict(in_channels=@in_channels, spacing=@spacing, context=@context, quartiles=@quartiles, "
        "**@spec.settings, " + "".join(f"{name}=@{name}, " for name in scored) + "**@more_settings)",
        **model.get("both", {}),
    }
    signed = _read(common / "signed.json") if "sign" in arguments else {}
    choosing = _read(common / "epoch.json") if "choose_epoch" in model.get("train", {}) else {}
    named = {"name": model["name"]}
    overlays = {"train": [shared], "inference": [shared], "evaluate": [named], "metadata": [named]}
    configs = {
        config: merge(
            _read(common / f"{config}.json"), *base, *(more.get(config, {}) for more in (signed, choosing, model))
        )
        for config, base in overlays.items()
    }
    describe_tensors(configs["metadata"], configs["inference"])
    return configs


def describe_tensors(metadata: dict[str, Any], inference: Mapping[str, Any]) -> None:
    """Write into ``metadata`` the channels and the size of patches that ``inference`` says; changed in place."""
    shape = [inference["patch_size"]] * inference["spatial_dims"]
    tensors = metadata["network_data_format"]
    channels = (inference["in_channels"] + len(inference.get("context", []))) * inference["slices"]
    tensors["inputs"]["image"].update(num_channels=channels, spatial_shape=shape)
    tensors["outputs"]["pred"].update(spatial_shape=shape)


def config_text(config: Mapping[str, Any]) -> str:
    """A config as it is written to a file."""
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n"


def write_configs(bundle: Path) -> None:
    """Compose a bundle into its ``configs/``, where ``medanomaly train --bundle`` and MONAI's commands find them."""
    for config, content in compose(bundle).items():
        with written_whole(bundle / "configs" / f"{config}.json") as temporary:
            temporary.write_text(config_text(content), encoding="utf-8")
    shutil.copy(shipped("bundles") / "common" / "logging.conf", bundle / "configs" / "logging.conf")


def _read_model(bundle: Path) -> dict[str, Any]:
    file = bundle / "model.json"
    if not file.is_file():
        raise InputError(f"{bundle} has no model.json, which a bundle is composed from: see docs/own_detector.md.")
    try:
        model = _read(file)
    except (TypeError, ValueError) as error:
        raise InputError(f"{file} is not a JSON dictionary ({error}): see the model.json of another bundle.") from error
    for key in ("name", "network"):
        if key not in model:
            raise InputError(f"{file} has no {key!r}: see the model.json of another bundle.")
    return model


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))
