"""Configs of the bundles that come with the package, joined from what all share and what is a detector's own."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medanomaly.data.writing import written_whole

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
    """The configs of a bundle: its ``model.json`` over those of ``common/``, which lies beside its folder.

    ``model.json`` holds ``name`` and ``network`` (the class, by its full name); ``arguments`` of the network, which its
    scores depend on, with their defaults, and ``unscored`` ones, which they do not (``sign`` has calibrations of its
    own); and overlays, in which ``#`` descends: ``both`` (for training and inference), ``train``, ``inference``,
    ``evaluate``, ``metadata``. Each argument becomes a setting at the top, an argument of ``network_def``, and, unless
    it is unscored, an entry of ``settings``, which a calibration keeps and scoring compares.

    Args:
        bundle: its folder.

    Returns:
        The content of ``train``, ``inference``, ``evaluate`` and ``metadata``.
    """
    model, common = _read(bundle / "model.json"), bundle.parent / "common"
    scored = model.get("arguments", {})
    arguments = {**scored, **model.get("unscored", {})}
    shared = {
        **arguments,
        "network_def#_target_": model["network"],
        **{f"network_def#{name}": f"@{name}" for name in arguments},
        "settings": "$dict(in_channels=@in_channels, spacing=@spacing, **@spec.settings, "
        + "".join(f"{name}=@{name}, " for name in scored)
        + "**@more_settings)",
        **model.get("both", {}),
    }
    signed = _read(common / "signed.json") if "sign" in arguments else {}
    named = {"name": model["name"]}
    overlays = {"train": [shared], "inference": [shared], "evaluate": [named], "metadata": [named]}
    configs = {
        config: merge(_read(common / f"{config}.json"), *base, signed.get(config, {}), model.get(config, {}))
        for config, base in overlays.items()
    }
    describe_tensors(configs["metadata"], configs["inference"])
    return configs


def describe_tensors(metadata: dict[str, Any], inference: Mapping[str, Any]) -> None:
    """Write into ``metadata`` the channels and the size of patches that ``inference`` says; changed in place."""
    shape = [inference["patch_size"]] * inference["spatial_dims"]
    tensors = metadata["network_data_format"]
    tensors["inputs"]["image"].update(num_channels=inference["in_channels"], spatial_shape=shape)
    tensors["outputs"]["pred"].update(spatial_shape=shape)


def config_text(config: Mapping[str, Any]) -> str:
    """A config as it is written to a file."""
    return json.dumps(config, indent=4, ensure_ascii=False) + "\n"


def write_configs(folder: Path) -> list[Path]:
    """Compose every bundle of a folder into its ``configs/``; the bundles that it has."""
    bundles = sorted(file.parent for file in folder.glob("*/model.json"))
    for bundle in bundles:
        for config, content in compose(bundle).items():
            with written_whole(bundle / "configs" / f"{config}.json") as temporary:
                temporary.write_text(config_text(content), encoding="utf-8")
        shutil.copy(folder / "common" / "logging.conf", bundle / "configs" / "logging.conf")
    return bundles


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))
