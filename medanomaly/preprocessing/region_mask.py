"""Where scores mean something: the brain of a head, or everything. Where the mask of a case comes from."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from medanomaly.data.reading import INSIDE, LoadCased
from medanomaly.data.writing import save_on_grid
from medanomaly.errors import ConfigError, InputError

RegionFinder = Callable[[MetaTensor], Any]

LEAST_SHARE, MOST_SHARE = 0.01, 0.95  # of an image; a brain of 1.4 litres fills 8 % of a cube of 256 mm
WORD = re.compile(r"{[^{}]*}")  # of a command line, that something is to be put in for


def region_share_warning(share: float) -> str:
    """What is odd about a brain mask that covers ``share`` (0 to 1) of its image, and what to do; empty if nothing.

    Of the region of a film, or where all of an image was asked for, nothing is odd: do not ask.
    """
    if share > MOST_SHARE:
        amount, usual = "nearly all", f"at most {100 * MOST_SHARE:g} %"
    elif share < LEAST_SHARE:
        amount, usual = "next to nothing", f"at least {100 * LEAST_SHARE:g} %"
    else:
        return ""
    return (
        f"the brain mask covers {100 * share:.1f} % of the image, {amount} of it, where {usual} is usual: look at it "
        "over the scan, and give a mask of the brain if it is not one"
    )


class RegionMaskd(MapTransform):
    """Set ``region`` (1, H, W, D), 0 or 1, on the grid of ``image``, before anything moves the voxels.

    Args:
        source: one of

            - ``"given"``: the case names a mask file (the key ``region``, or ``brain``, of the datalist);
            - ``"nonzero"``: voxels that are not 0 in some channel, for scans that are brain-extracted already;
            - ``"all"``: every voxel, for images that are all tissue, such as a radiograph;
            - a command line that holds ``{image}`` and ``{mask}``: it is run with the first channel's file and must
              write a mask there, for example ``"hd-bet -i {image} -o {mask}"``; no shell is involved, and braces
              may stand around these two words alone;
            - a callable from the image, a MetaTensor (C, H, W, D) in the orientation of its file, to a mask
              (H, W, D) or (1, H, W, D).

            A mask that the case names wins over all but ``"nonzero"`` and ``"all"``: what is there need not be
            computed.

    A voxel is in the region from a value of 0.5 on, so an extractor may give probabilities. A mask of nearly the whole
    of a volume or of next to nothing is warned of.

    Raises:
        ConfigError: if ``source`` is none of these.
        InputError: if the mask is missing, empty or of the wrong shape, the command fails, or ``"nonzero"`` is asked of
            a scan whose background is not 0.
    """

    def __init__(self, source: str | RegionFinder = "given") -> None:
        super().__init__(keys="image")
        is_command = isinstance(source, str) and "{image}" in source and "{mask}" in source
        if not callable(source) and source not in ("given", "nonzero", "all") and not is_command:
            raise ConfigError(
                f"region is {source!r}: use 'given', 'nonzero', 'all', a callable, or a command line with {{image}} "
                "and {mask}."
            )
        self.source = source
        self.command = _words_of(source) if isinstance(source, str) and is_command else []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image = case["image"]
        file = image.meta.get("filename_or_obj", case.get("case", "the image"))
        organ = "region" if 1 in image.shape[1:] else "brain"  # of a film, or of a head
        if self.source == "nonzero":
            mask = (image.as_tensor().numpy() != 0).any(axis=0, keepdims=True)
            _check_background(image.as_tensor().numpy(), mask[0], str(file))
        elif self.source == "all":
            mask = np.ones((1, *image.shape[1:]), np.float32)
        elif case.get("region") is not None:
            mask = case["region"].as_tensor().numpy()
        elif self.source == "given":
            others = "'all'" if organ == "region" else "'nonzero' if the scan is brain-extracted"
            raise InputError(
                f"{file} has no {organ} mask: name one under {organ!r}, or choose another region ({others}, or a "
                f"command that extracts the {organ})."
            )
        elif callable(self.source):
            mask = np.asarray(self.source(image))
            mask = mask[None] if mask.ndim == 3 else mask
        else:
            mask = self._run(image, str(file))
        if tuple(mask.shape) != (1, *image.shape[1:]):
            raise InputError(
                f"the {organ} mask of {file} has shape {tuple(mask.shape)}, but {(1, *image.shape[1:])} is needed."
            )
        inside = mask >= INSIDE  # NaN is not
        if not inside.any():
            raise InputError(
                f"the {organ} mask of {file} is empty (no voxel of {INSIDE:g} or more): look at it over the scan, or "
                "choose another region."
            )
        odd = "" if self.source == "all" or organ == "region" else region_share_warning(float(inside.mean()))
        if odd:
            warnings.warn(f"{file}: {odd}", stacklevel=2)
        case["region"] = MetaTensor(torch.from_numpy(inside.astype(np.float32)), meta=dict(image.meta))
        return case

    def _run(self, image: MetaTensor, file: str) -> NDArray[np.float32]:
        with tempfile.TemporaryDirectory(prefix="medanomaly_brain_") as folder:
            mask, scan = Path(folder) / "mask.nii.gz", file
            if not os.path.exists(file):  # a DICOM series: programs read NIfTI, and a path may name the patient
                scan = str(Path(folder) / "image.nii.gz")
                save_on_grid(image.as_tensor()[0].numpy(), Path(scan), file, image.affine.numpy())
            paths = {"{image}": scan, "{mask}": str(mask)}
            command = [WORD.sub(lambda word: paths[word[0]], part) for part in self.command]
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
            return np.asarray(LoadCased()({"image": scan, "region": str(mask)})["region"].as_tensor())


def _words_of(command: str) -> list[str]:
    """The words of a command line; ConfigError if a quote stays open or it asks for more than {image} and {mask}."""
    for word in WORD.findall(command):
        if word not in ("{image}", "{mask}"):
            raise ConfigError(
                f"the brain extractor {command!r} holds {word}, but nothing is put in for other words than {{image}} "
                "and {mask}: correct it, or put the command into a script of its own."
            )
    try:
        return shlex.split(command)
    except ValueError as error:
        raise ConfigError(
            f"the brain extractor {command!r} has a quotation mark that is not closed, or ends in a backslash "
            f"({error}): close it, or put a backslash before it if it is part of a name."
        ) from error


def _check_background(image: NDArray[np.float32], nonzero: NDArray[np.bool_], file: str) -> None:
    """Raise InputError if what surrounds the head in ``image`` (C, H, W, D) is not 0.

    It is looked for on the faces of the volume, on each axis by itself: a slab that is cut from a brain has brain on
    two of its faces, but air on the others.
    """
    faces = [axis for axis in range(3) if nonzero.shape[axis] > 1]
    if not faces or any(np.take(nonzero, (0, -1), axis).mean() <= 0.5 for axis in faces):
        return
    values = [np.concatenate([np.take(channel, (0, -1), axis).ravel() for axis in faces]) for channel in image]
    number = int(np.argmax([np.count_nonzero(v) for v in values]))
    found, counts = np.unique(values[number], return_counts=True)
    usual, share = found[counts.argmax()], np.count_nonzero(values[number]) / values[number].size
    intercept = _intercept(file) if number == 0 else 0.0
    because = f", as its header has the intercept (scl_inter) {intercept:g}" if intercept else ""
    where = file if len(image) == 1 else f"channel {number} of {file}"
    raise InputError(
        f"'nonzero' takes what is not 0 for brain, but {100 * share:.0f} % of the voxels on the faces of {where} are "
        f"not 0; most common there is {usual:g}{because}. Give a brain mask or a command that extracts the brain; if "
        "the scan is brain-extracted, write it again with a background of 0."
    )


def _intercept(file: str) -> float:
    """What the header of a NIfTI file adds to each voxel; 0 for other files."""
    image: Any = nib.load(file) if file.endswith((".nii", ".nii.gz")) else None
    return float(getattr(getattr(image, "dataobj", None), "inter", 0.0))
