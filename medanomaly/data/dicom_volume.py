"""A DICOM series as a volume: its slices in their order, on a grid that the headers give, or a plain error.

Pixels come from ITK, which decodes and rescales them; the places of the slices come from their headers alone. The axes
of the volume run along the rows, along the columns and along the normal of the slices, as ITK orders them.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medanomaly.data.dicom_headers import Frame, Series
from medanomaly.data.dicom_series import find_series, opened, place_and_series
from medanomaly.data.films import MONAI_NAME
from medanomaly.errors import InputError

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ONE_PLACE = 0.01  # mm along the normal: nearer slices lie at one place
IRREGULAR = 0.05  # share of the distance between slices, or of the size of a pixel, that rounding in headers explains
TILTED = 0.5  # degrees between the normal and the way from slice to slice: more is a gantry that was tilted
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # a film without a place, as it is looked at


@dataclass(frozen=True)
class Grid:
    """Where the frames of a series lie.

    Args:
        slices: along the normal, the frames at each place: numbers in ``series.frames``. More than one are duplicates.
        affine: (4, 4), RAS, mm, of the voxels (column, row, slice).
    """

    slices: tuple[tuple[int, ...], ...]
    affine: NDArray[np.float64]


def choose_series(path: str | Path, choice: str | int | None, where: str) -> str:
    """The image of a case, ``PATH#NAME``, for a DICOM folder, zip or file; its headers are those of one volume.

    Args:
        path, choice: see :func:`~medanomaly.data.dicom_series.find_series`.
        where: what a message calls the place.

    Raises:
        InputError: if not exactly one series is meant, or it is no regular volume (see :func:`grid_of`).
    """
    series = find_series(path, choice, where)
    grid_of(series, f"{where}: {series.name}")
    return f"{place_and_series(path)[0]}#{series.name}"


def read_dicom(path: str | Path) -> MetaTensor:
    """The volume (columns, rows, slices), float32, of a series; metadata hold its safe name and the affine alone.

    Slices that are there twice, with the same pixels, are taken once. That, and numbers of images that are not there
    though the slices are regular, is warned of.

    Args:
        path: see :func:`~medanomaly.data.dicom_series.find_series`.

    Raises:
        InputError: if there is no such series, it is no regular volume, or its pixels cannot be decoded.
    """
    series = find_series(path)
    grid = grid_of(series, series.name)
    pixels = _read_pixels(place_and_series(path)[0], series)
    kept = [_one_of(numbers, series, pixels) for numbers in grid.slices]
    if len(kept) < len(pixels):
        warnings.warn(f"{series.name}: {len(pixels) - len(kept)} duplicate slice(s) are left out", stacklevel=2)
    numbers = [frame.instance for frame in series.frames]
    present = sorted({number for number in numbers if number is not None})
    if len(present) == len(kept) > 1 and (present[0] > 1 or present[-1] - present[0] >= len(kept)):
        warnings.warn(
            f"{series.name}: its images are numbered {present[0]} to {present[-1]}, but there are {len(kept)}: slices "
            "may be missing at an end, or regularly between the others",
            stacklevel=2,
        )
    volume = torch.from_numpy(np.ascontiguousarray(pixels[kept].transpose(2, 1, 0)))
    meta = {MONAI_NAME: series.name, "original_affine": grid.affine}
    return MetaTensor(volume, affine=torch.from_numpy(grid.affine), meta=meta)


def grid_of(series: Series, where: str) -> Grid:
    """Where the frames of a series lie, from their headers.

    Raises:
        InputError: if images are not grey, differ in size, spacing or orientation, have no place, or are not at equal
            distances along their normal; a gap is named.
    """
    frames = series.frames
    first = frames[0]
    if series.fault:
        raise InputError(f"{where} has {series.fault}, but grey images of one slice each are needed: choose another.")
    if len(frames) == 1 and first.position is None:
        first = replace(
            first, position=(0.0, 0.0, 0.0), orientation=AXIAL, spacing=first.spacing or (1.0, 1.0), depth=1.0
        )
        frames = (first,)
    _check_alike(frames, where)
    directions: NDArray[np.float64] = np.array(first.orientation, np.float64).reshape(2, 3)
    normal = np.cross(*directions)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-2) or not np.linalg.norm(normal) > 0.9:
        raise InputError(
            f"{where} has rows and columns in the directions {directions.round(3).tolist()}, which are not at right "
            "angles or not of length 1: export the series again."
        )
    places = np.array([frame.position for frame in frames])
    heights = places @ (normal / np.linalg.norm(normal))
    order = np.argsort(heights, kind="stable")
    starts = np.flatnonzero(np.diff(heights[order], prepend=-np.inf) > ONE_PLACE)
    slices = tuple(tuple(map(int, group)) for group in np.split(order, starts[1:]))
    step = normal * frames[0].depth
    if len(slices) > 1:
        chosen = [group[0] for group in slices]
        _check_distances([frames[number] for number in chosen], heights[chosen], where)
        step = (places[chosen[-1]] - places[chosen[0]]) / (len(chosen) - 1)
        _check_line(places[chosen], step, normal, frames[0], where)
    affine = np.eye(4)
    down, across = frames[0].spacing or (0.0, 0.0)
    affine[:3] = np.column_stack([directions[0] * across, directions[1] * down, step, places[order[0]]])
    return Grid(slices, LPS_TO_RAS @ affine)


def _check_alike(frames: Sequence[Frame], where: str) -> None:
    first = frames[0]
    without = sum(f.position is None or f.orientation is None or min(f.spacing or (0,)) <= 0 for f in frames)
    if without:
        raise InputError(
            f"{where}: {without} of {len(frames)} images do not say where they lie (position, orientation, pixel "
            "spacing), so they make no volume: films are given one by one; other images must be exported again."
        )
    for what, key, tolerance in (
        ("sizes", "size", 0),
        ("spacings", "spacing", 1e-3),
        ("orientations", "orientation", 2e-3),
    ):
        values = np.array([getattr(frame, key) for frame in frames], float)
        if np.abs(values - values[0]).max() > tolerance:
            other = frames[int(np.abs(values - values[0]).max(axis=1).argmax())]
            one, two = (f"{_short(getattr(frame, key))} (image {frame.instance})" for frame in (first, other))
            raise InputError(
                f"{where} has images of different {what}, such as {one} and {two}, but a volume has one: it may be a "
                "localizer, or several volumes in one series; choose another series, or export the volumes apart."
            )


def _check_distances(frames: Sequence[Frame], heights: NDArray[np.float64], where: str) -> None:
    distances = np.diff(heights)
    usual = float(np.sort(distances)[(len(distances) - 1) // 2])
    odd = np.flatnonzero(np.abs(distances - usual) > IRREGULAR * usual).tolist()
    gaps = [
        f"{round(distances[n] / usual) - 1} missing between image {frames[n].instance} and image "
        f"{frames[n + 1].instance} ({distances[n]:.4g} mm apart)"
        for n in odd
        if distances[n] > 1.5 * usual
    ]
    if gaps:
        raise InputError(
            f"{where} has a gap, with slices {usual:.4g} mm apart elsewhere: {', '.join(gaps[:5])}"
            f"{' and others' if gaps[5:] else ''}. Copy the whole series again: what is left would be a wrong volume."
        )
    if odd:
        raise InputError(
            f"{where} has slices at distances from {distances.min():.4g} to {distances.max():.4g} mm, but equal ones "
            "are needed: several volumes may be mixed in it; export them apart, or resample the scan first."
        )


def _check_line(
    places: NDArray[np.float64], step: NDArray[np.float64], normal: NDArray[np.float64], frame: Frame, where: str
) -> None:
    cosine = float(step @ normal / np.linalg.norm(step) / np.linalg.norm(normal))
    angle = np.degrees(np.arccos(min(cosine, 1.0)))
    if angle > TILTED:
        raise InputError(
            f"{where} has slices that lie askew, by {angle:.1f} degrees, as of a gantry that was tilted, but at most "
            f"{TILTED:g} are read: convert it with a tool that mends that, such as dcm2niix."
        )
    off = np.linalg.norm(places - places[0] - np.outer(np.arange(len(places)), step), axis=1)
    if off.max() > IRREGULAR * min(float(np.linalg.norm(step)), *(frame.spacing or ())):
        raise InputError(
            f"{where} has slices that do not lie on a straight line: one is off by {off.max():.3g} mm. Several volumes "
            "may be mixed in it; export them apart."
        )


def _read_pixels(place: Path, series: Series) -> NDArray[np.float32]:
    """The pixels (frames, rows, columns), rescaled, in the order of ``series.frames``.

    ITK reads files, so those of the series are copied to a folder of their own, under numbers, which is then deleted:
    no name in a zip decides where anything is written, and no message of ITK can hold a name.
    """
    import itk

    numbers = sorted({frame.file for frame in series.frames})
    itk.Object.SetGlobalWarningDisplay(False)  # it takes files that come in another order for missing slices
    try:
        with tempfile.TemporaryDirectory(prefix="medanomaly_dicom_") as folder:
            copies = [f"{folder}/{number:06d}.dcm" for number in numbers]
            with opened(place) as files:
                for number, copy in zip(numbers, copies, strict=True):
                    with files[number][1]() as source, open(copy, "wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
            # files of a slice each are read at once, which is ten times as fast
            batches = [copies] if 1 < len(copies) == len(series.frames) else copies
            pixels = np.concatenate([itk.GetArrayFromImage(itk.imread(batch, itk.F)) for batch in batches])
        pixels = pixels.reshape(len(series.frames), *series.frames[0].size)
    except Exception:  # of a zip, of the disk, of ITK, whose words may repeat names
        raise InputError(
            f"{series.name} cannot be decoded ({series.syntax}): is each file complete, and is there space for a copy "
            "in the temporary folder? If so, write the files without compression (gdcmconv --raw, say)."
        ) from None
    firsts = {frame.file: frame for frame in reversed(series.frames)}
    for frame, image in zip(series.frames, pixels, strict=True):
        used = firsts[frame.file].rescale  # by ITK, for all frames of a file
        if used and frame.rescale and frame.rescale != used:
            image[:] = (image - used[1]) / used[0] * frame.rescale[0] + frame.rescale[1]
    return pixels


def _one_of(numbers: Sequence[int], series: Series, pixels: NDArray[np.float32]) -> int:
    """The frame to take of those at one place."""
    if any(not np.array_equal(pixels[number], pixels[numbers[0]]) for number in numbers[1:]):
        images = ", ".join(str(series.frames[number].instance) for number in numbers[:5])
        raise InputError(
            f"{series.name} has {len(numbers)} different images at one place (images {images}): there are several "
            "volumes in it (echoes, times, magnitude and phase): export them as series of their own, and choose one."
        )
    return numbers[0]


def _short(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.5g}" for value in values)
