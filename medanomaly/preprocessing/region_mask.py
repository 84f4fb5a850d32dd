"""Where scores mean something: the brain of a head, or everything. Where the mask of a case comes from."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from medanomaly.data.reading import INSIDE
from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing.brain_programs import hd_bet_mask, run_program, synthstrip_mask, words_of
from medanomaly.preprocessing.deepbet_mask import deepbet_mask
from medanomaly.preprocessing.extracted_already import extracted_brain
from medanomaly.preprocessing.mask_check import brain_mask_problems, region_share_warning
from medanomaly.preprocessing.region_origin import note_origin, warn_of_mask
from medanomaly.terminal import say

RegionFinder = Callable[[MetaTensor], Any]

EXTRACTORS = ("deepbet", "hd-bet", "synthstrip")  # by name; they find the brain in a whole head
FINDERS = ("auto", "given", "nonzero", "all", *EXTRACTORS)  # what may be asked for by name
EXTRACTED = "brain-extracted already"  # where the mask of a case came from, if it is its own background


def mask_file(region: str | Path | None) -> str | Path | None:
    """What a user calls the region, if that is a mask file, and neither a way to find it nor nothing."""
    return None if region is None or region in FINDERS or "{mask}" in str(region) else region


class RegionMaskd(MapTransform):
    """Set ``region`` (1, H, W, D), 0 or 1, on the grid of ``image``, before anything moves the voxels.

    Args:
        source: one of

            - ``"auto"``: the mask that the case names; without one, what is not background if the scan is
              brain-extracted already (:func:`extracted_brain`), and else what deepbet finds. Which it is, is printed
              once;
            - ``"given"``: the case names a mask file (the key ``region``, or ``brain``, of the datalist);
            - ``"nonzero"``: voxels that are not 0 in some channel, for scans that are brain-extracted already;
            - ``"all"``: every voxel, for images that are all tissue, such as a radiograph;
            - ``"deepbet"``, which comes with medanomaly and needs no network; ``"hd-bet"`` or ``"synthstrip"``, where
              they are installed: the brain of a whole head, from its first channel;
            - a command line that holds ``{image}`` and ``{mask}``: it is run with the first channel's file and must
              write a mask there; no shell is involved, and braces may stand around these two words alone;
            - a callable from the image, a MetaTensor (C, H, W, D) in the orientation of its file, to a mask
              (H, W, D) or (1, H, W, D).

            A mask that the case names wins over all but ``"nonzero"`` and ``"all"``: what is there need not be
            computed.
        is_brain_mri: whether the mask is to be one of the brain in MRI, which is checked then, whatever it comes from
            (:func:`brain_mask_problems`).

    A voxel is in the region from a value of 0.5 on, so an extractor may give probabilities. What is odd about the mask
    is warned of, and kept with where it came from, see :mod:`medanomaly.preprocessing.region_origin`. Of a mask that is
    not of the brain in MRI, it is odd if it is nearly all of a volume or next to nothing.

    Raises:
        ConfigError: if ``source`` is none of these.
        InputError: if the mask is missing, empty or of the wrong shape, nothing finds a brain or can be run, or
            ``"nonzero"`` is asked of a scan whose background is not 0.
    """

    def __init__(self, source: str | RegionFinder = "given", is_brain_mri: bool = False) -> None:
        super().__init__(keys="image")
        is_command = isinstance(source, str) and "{image}" in source and "{mask}" in source
        if not callable(source) and source not in FINDERS and not is_command:
            raise ConfigError(
                f"region is {source!r}: use one of {', '.join(map(repr, FINDERS))}, a callable, or a command line with "
                "{image} and {mask}."
            )
        self.source, self.is_brain_mri = source, is_brain_mri
        self.command = words_of(source) if isinstance(source, str) and is_command else []
        self.told: set[str] = set()

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image = case["image"]
        file = str(image.meta.get("filename_or_obj", case.get("case", "the image")))
        organ = "region" if 1 in image.shape[1:] else "brain"  # of a film, or of a head
        mask, origin = self._found(case, image, file, organ)
        mask = mask[None] if mask.ndim == 3 else mask
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
        problems: list[str] = []
        if self.source != "all" and organ == "brain":
            share = region_share_warning(float(inside.mean()))
            problems = brain_mask_problems(inside[0], image) if self.is_brain_mri else [share] if share else []
        region = MetaTensor(torch.from_numpy(inside.astype(np.float32)), meta=dict(image.meta))
        case["region"] = note_origin(region, origin, problems)
        warn_of_mask(case["region"])
        return case

    def _found(
        self, case: Mapping[Hashable, Any], image: MetaTensor, file: str, organ: str
    ) -> tuple[NDArray[Any], str]:
        """The mask, and where it came from."""
        source = self.source
        if source == "nonzero":
            values = np.asarray(image.as_tensor())
            mask = (values != 0).any(axis=0)
            _check_background(values, mask, file)
            return mask, "nonzero"
        if source == "all":
            return np.ones(image.shape[1:], np.float32), "all"
        if case.get("region") is not None:
            return np.asarray(case["region"].as_tensor()), "given"
        if callable(source):
            return np.asarray(source(image)), "a function"
        if self.command:
            return run_program(self.command, image, file), "a command"
        if source != "given" and organ == "brain":
            return self._extracted(image, file)
        others = "'all'" if organ == "region" else "'auto', 'nonzero' if the scan is brain-extracted"
        raise InputError(
            f"{file} has no {organ} mask: name one under {organ!r}, or choose another region ({others}, or a command "
            f"that extracts the {organ})."
        )

    def _extracted(self, image: MetaTensor, file: str) -> tuple[NDArray[Any], str]:
        if self.source == "hd-bet":
            return hd_bet_mask(image, file), "hd-bet"
        if self.source == "synthstrip":
            return synthstrip_mask(image, file), "synthstrip"
        if self.source == "auto":
            mask = extracted_brain(image)
            self._tell(EXTRACTED if mask is not None else "deepbet", file)
            if mask is not None:
                return mask, EXTRACTED
        return deepbet_mask(image), "deepbet"

    def _tell(self, origin: str, file: str) -> None:
        """Say once what "auto" does where no mask is given."""
        if origin in self.told:
            return
        self.told.add(origin)
        what = "it is brain-extracted already" if origin == EXTRACTED else "deepbet finds its brain"
        say(f"No brain mask is given for {file}: {what}. (Said once; --brain chooses.)")


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
