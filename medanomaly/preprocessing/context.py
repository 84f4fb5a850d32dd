"""Where a voxel lies in the anatomy, as further channels: tissue priors of a template, brought to the patient."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import NDArray

from medanomaly.errors import ConfigError, InputError
from medanomaly.preprocessing.channels import add_record, check, entry
from medanomaly.preprocessing.normalisation import apart_from_background
from medanomaly.preprocessing.registration import Volume, register, resampled

MAPS = ("grey", "white")
LEAST_STRETCH, MOST_STRETCH = 0.7, 1.4  # of lengths, between the heads of the template and of a patient


class TissueContextd(MapTransform):
    """Append to ``image`` (C, H, W, D) a channel for each map: how likely that tissue is there in people, 0 to 1.

    The maps are those of the ICBM152 2009a template that nilearn carries. Its brain, T1, is fitted to the first channel
    inside ``region`` by an affine registration; outside the region the maps are 0, and inside never quite. What was
    found is kept as :class:`~medanomaly.preprocessing.channels.AlignChannels` keeps it.

    Args:
        maps: of "grey" and "white" (matter), in the order of the channels.

    Raises:
        ConfigError: for another map, or one that is there twice.
        InputError: if the template does not fit the scan.
    """

    def __init__(self, maps: Sequence[str]) -> None:
        super().__init__(keys="image")
        if isinstance(maps, str) or not set(maps) <= set(MAPS) or len(set(maps)) < len(maps):
            raise ConfigError(f'context is {maps!r}: give a list of {", ".join(MAPS)}, such as ["grey", "white"].')
        self.maps = list(maps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        image, inside = case["image"], np.asarray(case["region"].as_tensor()[0]) > 0
        first = np.asarray(image.as_tensor()[0])
        scan = Volume(np.where(inside, first, first[inside].min()), np.asarray(image.affine, np.float64))
        brain = _template("brain")
        name = image.meta.get("filename_or_obj", case.get("case", "the image"))
        try:
            found = register(_template("t1"), scan, affine=True, head=brain.values > 0)
            odd = check(found)
            if not LEAST_STRETCH < found.stretch[0] <= found.stretch[1] < MOST_STRETCH:
                raise InputError(f"it would be stretched by {found.stretch[0]:.2f} to {found.stretch[1]:.2f}.")
        except InputError as error:
            raise InputError(
                f"the template of a brain cannot be registered to {name}: {error} Is it the brain of a grown-up, and "
                "does the mask fit it? Else train without context."
            ) from None
        for words in odd:
            warnings.warn(f"{name}, to which a template was registered: {words}", stacklevel=2)
        back = np.linalg.inv(found.matrix)
        channels = [torch.from_numpy(_inside(_template(map_), scan, back, inside)) for map_ in self.maps]
        moves = image.applied_operations
        case["image"] = MetaTensor(
            torch.cat([image.as_tensor(), torch.stack(channels)]), meta=dict(image.meta), applied_operations=moves
        )
        add_record(case["image"], entry("template", replace(found, matrix=back), odd))
        return case


def _inside(
    prior: Volume, scan: Volume, matrix: NDArray[np.floating[Any]], inside: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """A map at the voxels of a scan, where ``matrix`` takes a point of the scan to the template."""
    values, _ = resampled(prior, scan.values.shape, scan.affine, matrix)
    return np.where(inside, apart_from_background(np.clip(values, 0, 1)), np.float32(0)).astype(np.float32)


@cache
def _template(what: str) -> Volume:
    """The template's brain in T1, its mask, or one of its maps, 1 mm."""
    from nilearn import datasets

    load = {
        "t1": datasets.load_mni152_template,
        "brain": datasets.load_mni152_brain_mask,
        "grey": datasets.load_mni152_gm_template,
        "white": datasets.load_mni152_wm_template,
    }[what]
    image = load(resolution=1)
    return Volume(np.asarray(image.dataobj, np.float32), np.asarray(image.affine, np.float64))
