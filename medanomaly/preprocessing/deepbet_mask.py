"""The brain of a whole head by deepbet (Fisch et al., 2024), whose two networks come with its package.

Of the package deepbet, the two TorchScript files alone are used: its Python code would import
compiled libraries (connected components, hole filling) that SciPy has, too, and it can only read files. The files are
found by the package's own list, and are known by their SHA-256: they lie in a folder ``data`` that other packages may
write to, and TorchScript is a program.
"""

from __future__ import annotations

import hashlib
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from medanomaly.errors import InputError
from medanomaly.preprocessing.mask_check import main_piece

VERSION = "1.0.2"
FINDER = ("data/models/bbox_model.pt", "39a7b2b5f799faa1391ea97bfcdc0b9299f20d84f2316a4ff8918dc4685e40aa")
DRAWER = ("data/models/model.pt", "de8ee7c69654d0dd3935dc4a5d84571d8ecf4637a6bfc01df399c4c2bc86e0fd")
COARSE, FINE = (128, 128, 128), (256, 256, 256)  # voxels that the networks take: of the image, and of the brain's box
RANGE = (0.005, 0.995)  # quantiles of the image that become the ends of the networks' range
LEVEL, SCALE = 0.449, 0.226  # mean and standard deviation of the networks' input
LEAST_FILLED = 0.02  # of a slice: what a slice of the brain's box has of it
MARGIN = 0.2  # that the box is larger than what was found, so 10 % on each side


def deepbet_mask(image: MetaTensor) -> NDArray[np.bool_]:
    """The brain (H, W, D) in the first channel of ``image`` (C, H, W, D), a whole head in any orientation.

    One network finds the brain in the whole image at 128^3 voxels, a second one draws it in a box around it at 256^3;
    what it draws is brought back to the scan's own grid, and its largest piece is taken, without holes. It was trained
    on T1 scans of adults. It runs on the processor, with the threads that torch has, and takes 1 GB of memory.

    Raises:
        InputError: if deepbet is not installed, its files are not those of version 1.0.2, or it finds no brain.
    """
    file = str(image.meta.get("filename_or_obj", "the image"))
    to_ras = nib.io_orientation(np.asarray(image.affine, np.float64))
    volume = nib.apply_orientation(np.asarray(image.as_tensor()[0], np.float32), to_ras)
    head = torch.from_numpy(np.ascontiguousarray(volume))[None, None]
    with torch.inference_mode():
        whole = interpolate(head, COARSE, mode="nearest-exact")
        low, high = (whole.quantile(share) for share in RANGE)
        if not high > low:
            raise InputError(f"deepbet finds no brain in {file}: {_SAME_VALUE}; {_OTHERWISE}")
        found = main_piece(_network(*FINDER)(_in_range(whole, low, high))[0, 1].numpy() > 0.5)
        if not found.any():
            raise InputError(f"deepbet finds no brain in {file}; {_OTHERWISE}")
        box = _box_of(found, volume.shape)
        there = (slice(None), slice(None), *box)
        around = head[there]
        drawn = _network(*DRAWER)(_in_range(interpolate(around, FINE, mode="nearest-exact"), low, high))[:, 1:]
        share = interpolate(drawn, around.shape[2:], mode="trilinear", align_corners=False)[0, 0].numpy()
    mask = np.zeros(volume.shape, bool)
    mask[box] = main_piece(share > 0.5)
    if not mask.any():
        raise InputError(f"deepbet finds no brain in {file}; {_OTHERWISE}")
    back = nib.orientations.ornt_transform(nib.io_orientation(np.eye(4)), to_ras)
    return np.ascontiguousarray(nib.apply_orientation(mask, back))


_SAME_VALUE = "99 % of its voxels have one and the same value"
_OTHERWISE = (
    "look whether it is an MRI of a head, and, if it is, give a mask of its brain (--brain MASK) or choose another way "
    "to find it (--brain hd-bet, or --brain synthstrip)."
)


def _in_range(volume: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    cut = ((volume - low) / (high - low)).clamp(0, 1)
    return SCALE * (cut - cut.mean()) / cut.std() + LEVEL


def _box_of(found: NDArray[np.bool_], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Where in an image of ``shape`` the brain lies that was found in a coarse copy of it, with a margin."""
    box = []
    for axis, size in enumerate(shape):
        filled = found.mean(axis=tuple({0, 1, 2} - {axis}))
        slices = np.flatnonzero(filled > min(LEAST_FILLED, filled.max() / 2))
        first, last = (edge * size / found.shape[axis] for edge in (slices[0], slices[-1] + 1))
        reach = (last - first) * (1 + MARGIN) / 2
        middle = (first + last) / 2
        box.append(slice(max(0, round(middle - reach)), min(size, round(middle + reach))))
    return tuple(box)


@cache
def _network(name: str, sha256: str) -> Any:
    try:
        package = distribution("deepbet")
    except PackageNotFoundError as error:
        raise InputError(
            "deepbet, which finds the brain of a whole head, is not installed: install it (pip install "
            f"deepbet=={VERSION}), or give a mask of the brain (--brain MASK)."
        ) from error
    file = package.locate_file(name)
    try:
        content = file.read_bytes()  # type: ignore[attr-defined]
    except OSError as error:
        raise InputError(f"deepbet's file {file} cannot be read ({error.strerror}): install deepbet again.") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"{file} is not that of deepbet {VERSION} (found: deepbet {package.version}): install that version again "
            f"(pip install --force-reinstall --no-deps deepbet=={VERSION})."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch would rather have torch.export
        return torch.jit.load(str(file), map_location="cpu").eval()
