"""Channels of a case that lie on grids of their own, brought onto the grid of the first, checked and written down."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medanomaly.data.reading import COVERED, read_channels
from medanomaly.data.writing import heatmap_path, written_whole
from medanomaly.errors import InputError
from medanomaly.preprocessing.registration import Registration, Volume, register, resampled

RECORD = "registration"  # in the metadata of an image: what was registered to it, as JSON text
LEAST_SHARPNESS, USUAL_SHARPNESS = 1.1, 1.3
MOST_SHIFT_MM, MOST_TURN = 50.0, 30.0
LEAST_COVERED, USUAL_COVERED = 0.5, 0.98  # of the region


class AlignChannels:
    """Every further channel moved rigidly to where it fits the first, and onto its grid, linearly.

    Voxels that a channel does not cover are 0 in it, and :class:`CoveredRegiond` takes them out of the region. What was
    found is kept in the metadata of the image, see :func:`records_of`. What is odd about it is warned of.

    Raises:
        InputError: if a channel cannot be registered, or nothing was found: it fits no better than when displaced.
    """

    def __call__(self, channels: Sequence[MetaTensor], names: Sequence[str]) -> tuple[MetaTensor, torch.Tensor]:
        """Channels (1, H, W, D), each on its grid, to (C, H, W, D) on the first one's, and what all cover."""
        fixed, *others = map(_volume, channels)
        shape, record = fixed.values.shape, []
        values, covered = [fixed.values], np.ones(shape, bool)
        for number, (moving, name) in enumerate(zip(others, names[1:], strict=True), start=1):
            try:
                found = register(fixed, moving)
                odd = check(found)
            except InputError as error:
                raise InputError(
                    f"{name} cannot be registered to {names[0]}: {error} Are they of one person and one part of the "
                    "body? Look at both in a viewer, or register them with another tool and leave out --register."
                ) from None
            on_grid, inside = resampled(moving, shape, fixed.affine, found.matrix)
            values.append(on_grid)
            covered &= inside
            record.append(entry(f"channel {number}", found, odd))
            for words in odd:
                warnings.warn(f"{name}, registered to {names[0]}: {words}", stacklevel=2)
        image = MetaTensor(torch.from_numpy(np.stack(values)), meta=dict(channels[0].meta))
        image.meta[RECORD] = json.dumps(record)
        return image, torch.from_numpy(covered[None])


class CoveredRegiond(MapTransform):
    """Take out of ``region`` what some channel does not show, as nothing can be said of it.

    Raises:
        InputError: if that is more than half of the region.
    """

    def __init__(self) -> None:
        super().__init__(keys="region")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        covered = case.pop(COVERED, None)
        if covered is None:
            return case
        image, region = case["image"], case["region"]
        seen = MetaTensor(region.as_tensor() * covered, meta=dict(region.meta))
        share = float(seen.sum() / region.sum())
        name = image.meta.get("filename_or_obj", case.get("case", "the image"))
        if share < LEAST_COVERED:
            raise InputError(
                f"the channels of {name} share only {100 * share:.0f} % of the region (the brain) with each other: "
                "give scans that show the whole of it."
            )
        if share < USUAL_COVERED:
            words = f"{100 * (1 - share):.1f} % of the region is not scored, as some channel does not show it"
            warnings.warn(f"{name}: {words}", stacklevel=2)
            add_record(image, {"what": "all channels", "covered": round(share, 4), "warnings": [words]})
        case["region"] = seen
        return case


class SaveRegistrationd(MapTransform):
    """Write what was registered for a case beside its heatmap, ``CASE_registration.json``; nothing if nothing was."""

    def __init__(self, output_dir: str | Path) -> None:
        super().__init__(keys="image")
        self.output_dir = Path(output_dir)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        case = dict(data)
        file, record = registration_path(self.output_dir, case["case"]), records_of(case["image"])
        file.unlink(missing_ok=True)  # of an earlier scoring
        if record:
            with written_whole(file) as temporary:
                temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return case


def registration_path(folder: str | Path, case: str) -> Path:
    """Where it is written what was registered for a case."""
    return heatmap_path(folder, case).with_name(f"{case}_registration.json")


def registration_warnings(folder: str | Path, case: str) -> list[str]:
    """What is odd about the registrations of a case that was scored into ``folder``."""
    file = registration_path(folder, case)
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return [f"{one['what']}: {words}" for one in record for words in one["warnings"]]


def channels_of_case(paths: Sequence[str | Path], folder: str | Path, case: str) -> MetaTensor:
    """The channels of a case that was scored into ``folder``, (C, H, W, D) on the grid of the first, to be looked at.

    Those that were registered then are moved as they were, without being registered again.

    Raises:
        InputError: if a file cannot be read, or lies on another grid and was not registered.
    """
    file = registration_path(folder, case)
    record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    matrices = {one["what"]: np.array(one["matrix"]) for one in record if "matrix" in one}
    if not matrices:
        return read_channels(paths)
    first, *others = (read_channels([path]) for path in paths)
    fixed = _volume(first)
    values = [fixed.values]
    for number, channel in enumerate(others, start=1):
        matrix = matrices.get(f"channel {number}", np.eye(4))
        values.append(resampled(_volume(channel), fixed.values.shape, fixed.affine, matrix)[0])
    return MetaTensor(torch.from_numpy(np.stack(values)), meta=dict(first.meta))


def records_of(image: MetaTensor) -> list[dict[str, Any]]:
    """What was registered to an image: an entry a channel, see :func:`entry`, with no word of the patient."""
    return list(json.loads(image.meta.get(RECORD, "[]")))


def add_record(image: MetaTensor, one: Mapping[str, Any]) -> None:
    """Add an entry to the metadata of an image."""
    image.meta[RECORD] = json.dumps([*records_of(image), one])


def entry(what: str, found: Registration, odd: Sequence[str]) -> dict[str, Any]:
    """What is written down of a registration.

    ``matrix`` (4, 4) takes a point of the first channel, in mm, RAS, to the same point of the anatomy in what was
    registered.
    """
    return {
        "what": what,
        "matrix": np.round(found.matrix, 6).tolist(),
        "shift_mm": round(found.shift_mm, 3),
        "rotation_degrees": round(found.rotation_degrees, 3),
        "stretch": [round(factor, 4) for factor in found.stretch],
        "similarity_before": round(found.similarity_before, 4),
        "similarity": round(found.similarity, 4),
        "sharpness": round(found.sharpness, 3),
        "covered": round(found.covered, 4),
        "warnings": list(odd),
    }


def check(found: Registration) -> list[str]:
    """What is odd about a registration, in words.

    Raises:
        InputError: if it fits no better than chance.
    """
    if found.sharpness < LEAST_SHARPNESS:
        raise InputError(
            f"where they fit best their similarity is {found.similarity:.3f}, {found.sharpness:.2f} times that where "
            f"one is displaced by about 3 cm or 30 degrees; at least {LEAST_SHARPNESS:g} times is needed, 1.5 is usual."
        )
    odd = []
    if found.sharpness < USUAL_SHARPNESS:
        odd.append(
            f"it fits little better than displaced by 3 cm ({found.sharpness:.2f} times as similar, where 1.5 is "
            "usual): is it of another person, mirrored or cut off? Look at it over the first channel"
        )
    if found.shift_mm > MOST_SHIFT_MM or found.rotation_degrees > MOST_TURN:
        odd.append(
            f"it was moved by {found.shift_mm:.0f} mm and {found.rotation_degrees:.0f} degrees, much for one session: "
            "look at it over the first channel"
        )
    return odd


def _volume(channel: MetaTensor) -> Volume:
    return Volume(np.asarray(channel.as_tensor()[0]), np.asarray(channel.affine, np.float64))
