"""What the headers of DICOM images say of a series; of a patient, nothing that is kept."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

SUFFIXES = (".dcm", ".dicom", ".ima")  # in small or capital letters; most series have files without any
PATIENT = ("PatientName", "PatientID", "OtherPatientIDs", "PatientBirthDate")  # what a description may repeat


@dataclass(frozen=True)
class Frame:
    """An image of a series: what its header says, in mm in the patient's space (LPS); None where it says nothing.

    Args:
        file, index: the file, counted from 0 in the order of their names, and the frame in it.
        instance: the number of the image, or of the frame in a multi-frame file.
        size: rows and columns.
        spacing: between rows, between columns.
        depth: between slices.
        orientation: directions of a row and of a column, six numbers.
        position: of the first voxel.
        rescale: slope and intercept of this frame of a multi-frame file.
    """

    file: int
    index: int
    instance: int | None
    size: tuple[int, int]
    spacing: tuple[float, ...] | None
    depth: float
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    rescale: tuple[float, float] | None


@dataclass(frozen=True)
class Series:
    """A series: its safe ``name``, what it may be chosen by, what keeps it from being read, and its frames."""

    name: str
    number: int | None
    description: str
    shown: str
    modality: str
    syntax: str
    fault: str
    frames: tuple[Frame, ...]


def read_header(name: str, opener: Callable[[], IO[Any]]) -> Any:
    """The header of a DICOM image; None for a file that is no image. Any error: it is damaged."""
    import pydicom  # only those need it who have DICOM files

    if name.startswith("."):
        return None
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # a warning would repeat the value
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    is_named = name.lower().endswith(SUFFIXES)
    with opener() as file:
        if file.read(132)[128:] != b"DICM" and not is_named:
            return None
        file.seek(0)
        header = pydicom.dcmread(file, stop_before_pixels=True, force=is_named)
    kind = str(getattr(header.get("SOPClassUID", header.file_meta.get("MediaStorageSOPClassUID")), "name", ""))
    if "Rows" not in header and (not kind or "Image Storage" in kind):
        raise ValueError("the header is cut off")
    return header if "Rows" in header else None  # a report, a directory


def series_of(uid: str, members: Sequence[tuple[int, Any]]) -> Series:
    """A series from the headers of its images and the numbers of their files. Any error: they are damaged."""
    first = members[0][1]
    if len(members) == 1:  # films of one series may be given one by one
        uid = str(first.get("SOPInstanceUID") or uid)
    digest = hashlib.sha256(uid.encode()).hexdigest()[:8]
    number = None if first.get("SeriesNumber") is None else abs(int(first.SeriesNumber))
    description = str(first.get("SeriesDescription") or first.get("ProtocolName") or "").strip()
    patient = re.findall(r"\w{3,}", " ".join(str(first.get(key, "")) for key in PATIENT))
    is_safe = not any(word.lower() in description.lower() for word in patient)
    return Series(
        f"series-{digest}" if number is None else f"series-{number}-{digest}",
        number,
        description,
        (description or "without a description") if is_safe else "(its description may name the patient)",
        str(first.get("Modality", "")),
        str(getattr(first.file_meta.get("TransferSyntaxUID"), "name", "an unknown transfer syntax")),
        ", ".join(sorted({_fault(header) for _, header in members} - {""})),
        tuple(frame for file, header in members for frame in _frames(file, header)),
    )


def _fault(header: Any) -> str:
    """Why an image is not one slice, or a row of them, of a grey scan; empty if it is."""
    shown = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if int(header.get("SamplesPerPixel") or 1) != 1 or not shown.startswith("MONOCHROME"):
        return "colours"
    return "mosaics of several slices in an image" if "MOSAIC" in str(header.get("ImageType", "")).upper() else ""


def _frames(file: int, header: Any) -> Iterator[Frame]:
    shared, own = (header.get(f"{key}FunctionalGroupsSequence") or [] for key in ("Shared", "PerFrame"))
    for index in range(int(header.get("NumberOfFrames") or 1)):
        groups = [*own[index : index + 1], *shared]
        number = index + 1 if header.get("NumberOfFrames") else header.get("InstanceNumber")
        measures = [group["PixelMeasuresSequence"][0] for group in groups if group.get("PixelMeasuresSequence")]
        scale = [g["PixelValueTransformationSequence"][0] for g in groups if g.get("PixelValueTransformationSequence")]
        planes = [
            group[f"Plane{key}Sequence"][0]
            for group in groups
            for key in ("Position", "Orientation")
            if group.get(f"Plane{key}Sequence")
        ]
        depths = [_get([*measures, header], key) for key in ("SpacingBetweenSlices", "SliceThickness")]
        spacings = [
            _get([*measures, header], f"{key}Spacing") for key in ("Pixel", "ImagerPixel", "NominalScannedPixel")
        ]
        yield Frame(
            file,
            index,
            None if number is None else int(number),
            (int(header.Rows), int(header.Columns)),
            next((_numbers(spacing, 2) for spacing in spacings if spacing), None),
            next((abs(float(depth)) for depth in depths if depth), 1.0),
            _numbers(_get([*planes, header], "ImageOrientationPatient"), 6),
            _numbers(_get([*planes, header], "ImagePositionPatient"), 3),
            (float(scale[0].RescaleSlope), float(scale[0].RescaleIntercept)) if scale else None,
        )


def _get(places: Sequence[Mapping[str, Any]], key: str) -> Any:
    """A value from the first of some places that has it, the nearest first."""
    return next((place.get(key) for place in places if place.get(key) not in (None, "")), None)


def _numbers(values: Any, count: int) -> tuple[float, ...] | None:
    if not values:
        return None
    if len(values) != count:
        raise ValueError(f"{len(values)} numbers where {count} are needed")
    return tuple(map(float, values))
