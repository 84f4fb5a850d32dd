"""Where the brain mask of a case comes from."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from medanomaly.data.reading import LoadCased
from medanomaly.errors import ConfigError, InputError

BrainExtractor = Callable[[MetaTensor], Any]


class BrainMaskd(MapTransform):
    """Set ``brain`` (1, H, W, D), 0 or 1, on the grid of ``image``, before anything moves the voxels.

    Args:
        source: one of

            - ``"given"``: the case names a mask file (the key ``brain`` of the datalist);
            - ``"nonzero"``: voxels that are not 0 in some channel, for scans that are brain-extracted already;
            - a command line that holds ``{image}`` and ``{mask}``: it is run with the first channel's file and must
              write a mask there, for example ``"hd-bet -i {image} -o {mask}"``; no shell is involved;
            - a callable from the image, a MetaTensor (C, H, W, D) in the orientation of its file, to a mask
              (H, W, D) or (1, H, W, D).

            A mask that the case names wins over all but ``"nonzero"``: what is there need not be computed.

    Raises:
        InputError: if the mask is missing, empty or of the wrong shape, or the command fails.
    """

    def __init__(self, source: str | BrainExtractor = "given") -> None:
        super().__init__(keys="image")
        is_command = isinstance(source, str) and "{image}" in source and "{mask}" in source
        if not callable(source) and source not in ("given", "nonzero") and not is_command:
            raise ConfigError(
                f"brain_mask is {source!r}: use 'given', 'nonzero', a callable, or a command line with {{image}} and "
                "{mask}."
            )
        self.source = source

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image = case["image"]
        file = image.meta.get("filename_or_obj", case.get("case", "the image"))
        if self.source == "nonzero":
            mask = (image.as_tensor().numpy() != 0).any(axis=0, keepdims=True)
        elif case.get("brain") is not None:
            mask = case["brain"].as_tensor().numpy()
        elif self.source == "given":
            raise InputError(
                f"{file} has no brain mask: name one under 'brain', or choose another brain_mask ('nonzero' if the "
                "scan is brain-extracted, or a command that extracts the brain)."
            )
        elif callable(self.source):
            mask = np.asarray(self.source(image))
            mask = mask[None] if mask.ndim == 3 else mask
        else:
            mask = self._run(str(file))
        if tuple(mask.shape) != (1, *image.shape[1:]):
            raise InputError(
                f"the brain mask of {file} has shape {tuple(mask.shape)}, but {(1, *image.shape[1:])} is needed."
            )
        inside = mask > 0
        if not inside.any():
            raise InputError(
                f"the brain mask of {file} is empty: look at it over the scan, or choose another brain_mask."
            )
        case["brain"] = MetaTensor(torch.from_numpy(inside.astype(np.float32)), meta=dict(image.meta))
        return case

    def _run(self, file: str) -> NDArray[np.float32]:
        with tempfile.TemporaryDirectory(prefix="medanomaly_brain_") as folder:
            mask = Path(folder) / "mask.nii.gz"
            command = [part.format(image=file, mask=mask) for part in shlex.split(str(self.source))]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except FileNotFoundError as error:
                raise InputError(f"the brain extractor {command[0]!r} is not installed or not on the PATH.") from error
            except OSError as error:
                raise InputError(f"the brain extractor {command[0]!r} cannot be run: {error.strerror}.") from error
            if done.returncode != 0 or not mask.exists():
                raise InputError(
                    f"the brain extractor failed on {file} (exit {done.returncode}, mask written: {mask.exists()}): "
                    f"{' '.join(command)}\n{(done.stderr or done.stdout).strip()[-500:]}"
                )
            return np.asarray(LoadCased()({"image": file, "brain": str(mask)})["brain"].as_tensor())
