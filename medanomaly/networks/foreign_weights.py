"""Weights that others trained, or an earlier run: read from a file or downloaded, and put where they fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.errors import ConfigError, InputError

IMAGENET = "https://download.pytorch.org/models/"  # the number in a name is the beginning of its SHA-256
MEDICALNET = "https://huggingface.co/TencentMedicalNet/"
# by name of the weights and of the backbone
URLS = {
    "imagenet": {
        "resnet18": f"{IMAGENET}resnet18-f37072fd.pth",
        "resnet34": f"{IMAGENET}resnet34-b627a593.pth",
        "resnet50": f"{IMAGENET}resnet50-0676ba61.pth",
        "wide_resnet50_2": f"{IMAGENET}wide_resnet50_2-95faca4d.pth",
    },
    "medicalnet": {
        f"resnet{n}": f"{MEDICALNET}MedicalNet-Resnet{n}/resolve/main/resnet_{n}_23dataset.pth"
        for n in (10, 18, 34, 50)
    },
}
DIMS = {"imagenet": 2, "medicalnet": 3}
WRAPPED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep their weights
PREFIXES = ("module.", "network.")  # of a network trained on several GPUs; of a detector of this package
FIRST = "conv1.weight"  # of a ResNet
SHOWN = 3  # names in a message


def find_weights(source: str, backbone: str, spatial_dims: int) -> str | Path:
    """Where weights are: a URL or a file.

    Args:
        source: "imagenet", "medicalnet", a file, or the folder of a model that was trained here.
        backbone: whose weights are wanted, of those with a name.
        spatial_dims: 2 or 3.

    Raises:
        ConfigError: if there are no weights of that name for the backbone.
        InputError: if there is no such file.
    """
    if source in URLS:
        if backbone not in URLS[source] or spatial_dims != DIMS[source]:
            raise ConfigError(
                f"backbone_weights is {source!r}, which there is in {DIMS[source]}-D for {', '.join(URLS[source])}, "
                f"but the backbone is {backbone} in {spatial_dims}-D: choose another of the two."
            )
        return URLS[source][backbone]
    path = Path(source)
    path = path / "models" / "model.pt" if path.is_dir() else path
    if not path.is_file():
        raise InputError(
            f"there are no weights at {path}: set backbone_weights to a file, to the folder of a trained model, or to "
            f"one of {', '.join(URLS)}, random."
        )
    return path


def read_weights(place: str | Path) -> dict[str, Tensor]:
    """Weights by the names that a backbone has for them; no code in a file is run.

    What was downloaded before is taken from the cache of torch (``$TORCH_HOME``).

    Raises:
        InputError: if a file cannot be read, or a URL cannot be loaded.
    """
    try:
        if isinstance(place, Path):
            content: Any = torch.load(place, map_location="cpu", weights_only=True)
        else:
            content = torch.hub.load_state_dict_from_url(
                place, map_location="cpu", progress=False, check_hash=place.startswith(IMAGENET), weights_only=True
            )
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if isinstance(place, Path):
            raise InputError(f"{place} holds no weights that can be read: {reason}") from error
        raise InputError(
            f"{place} cannot be downloaded ({reason}): load it on a machine with a network, and set backbone_weights "
            "to the file."
        ) from error
    for key in WRAPPED:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    found = dict(content) if isinstance(content, Mapping) else {}
    return {_plain(str(name)): value for name, value in found.items() if isinstance(value, Tensor)}


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def fitted_weights(found: Mapping[str, Tensor], network: nn.Module, otherwise: str) -> dict[str, Tensor]:
    """A whole state dictionary of ``network`` from what a file holds; parts that it does not have are left out.

    The first convolution of a ResNet may be of another number of channels: it gets weights that give the same for
    images whose channels are alike.

    Raises:
        InputError: if weights are missing, are of another shape, or there are more in a part of the network than it
            has (a deeper one's); it begins with ``otherwise`` and names some.
    """
    wanted, found = network.state_dict(), dict(found)
    if FIRST in wanted and FIRST in found and found[FIRST].shape[2:] == wanted[FIRST].shape[2:]:
        grey, channels = found[FIRST].sum(dim=1, keepdim=True), wanted[FIRST].shape[1]
        if found[FIRST].shape[1] != channels:
            found[FIRST] = grey.expand(-1, channels, *grey.shape[2:]) / channels
    parts = {name.partition(".")[0] for name in wanted}
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}  # old files have none
    missing = [name for name in wanted if name not in found and name not in counters]
    more = [name for name in found if name.partition(".")[0] in parts and name not in wanted]
    others = [
        f"{name} {tuple(found[name].shape)} in place of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in found and found[name].shape != wanted[name].shape
    ]
    wrong = {"it lacks": missing, "it has": others, "it has, besides,": more}
    if any(wrong.values()):
        told = "; ".join(f"{words} {_some(names)}" for words, names in wrong.items() if names)
        hint = "; it holds a U-Net, so set backbone to unet" if "conv_0.conv_0.conv.weight" in found else ""
        raise InputError(
            f"{otherwise}: {told}{hint}. Backbone, spatial_dims and, of a U-Net, features and in_channels must be as "
            "they were when the weights were trained."
        )
    return {name: found.get(name, value) for name, value in wanted.items()}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
