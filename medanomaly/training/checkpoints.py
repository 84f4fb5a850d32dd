"""Checkpoints that are complete or absent, and that a training can go on from exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from medanomaly.data.writing import written_whole
from medanomaly.errors import InputError


def load_checkpoint(path: Path) -> Any:
    """What was saved, on the CPU; no code in the file is run (``weights_only``).

    Raises:
        InputError: if the file is missing or is not a checkpoint.
    """
    if not path.exists():
        raise InputError(f"there is no model at {path}: train one first, or give the folder of a trained bundle.")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint of this project: {reason}") from error


def save_whole(content: Any, path: Path) -> None:
    """Write a checkpoint so that it is whole or not there."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # to a stream: a path would put the temporary name into the file


def load_detector(network: nn.Module, path: str | Path) -> nn.Module:
    """``network`` with the weights of ``path``, in eval mode.

    Raises:
        InputError: if the file is missing or does not fit the network.
    """
    weights = load_checkpoint(Path(path))
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(
            f"the weights in {path} do not fit the network of the config (channels, patch_size, variant, ...): use the "
            f"config that the model was trained with. {str(error).splitlines()[-1].strip()}"
        ) from error
    return network.eval()
