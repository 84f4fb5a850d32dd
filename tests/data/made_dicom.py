"""DICOM series made of a volume, for tests: one file a slice under names in no order, or one multi-frame file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

MR, ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"


def oblique_affine(codes: Sequence[int] = (1, 2, 3), sizes: Sequence[float] = (1.5, 2.0, 3.0)) -> np.ndarray:
    """A rotated affine, RAS, whose axes run along +-1 (right), +-2 (anterior), +-3 (superior)."""
    a, b = np.deg2rad(9), np.deg2rad(-5)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    for axis, (code, size) in enumerate(zip(codes, sizes, strict=True)):
        affine[:3, axis] = turn[:, abs(code) - 1] * np.sign(code) * size
    affine[:3, 3] = (-31.25, 12.5, -40)
    return affine


def slices_of(volume: np.ndarray, affine: np.ndarray, number: int = 7, **tags: Any) -> list[Dataset]:
    """An MR image for each slice of ``volume`` (H, W, D), whole numbers, on ``affine`` (4, 4), RAS; ``tags`` in all."""
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    across, down, _ = np.linalg.norm(lps[:3, :3], axis=0)
    made = []
    for k in range(volume.shape[2]):
        header = _image(MR, volume[:, :, k].T, f"1.2.826.{number}.{k + 1}", number)
        header.InstanceNumber = k + 1
        header.PixelSpacing = _written(down, across)
        header.ImageOrientationPatient = _written(*lps[:3, 0] / across, *lps[:3, 1] / down)
        header.ImagePositionPatient = _written(*(lps @ (0, 0, k, 1))[:3])
        made.append(_with(header, tags))
    return made


def multi_frame_of(
    volume: np.ndarray, affine: np.ndarray, order: Sequence[int], number: int = 7, **tags: Any
) -> Dataset:
    """The slices of ``volume`` in one enhanced MR file, in ``order``; see :func:`slices_of`."""
    slices = slices_of(volume, affine)
    frames = volume.transpose(2, 1, 0)[list(order)]
    header = _image(ENHANCED_MR, frames, f"1.2.826.{number}.999", number)
    header.NumberOfFrames = len(frames)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = slices[0].PixelSpacing, "1"
    orientation.ImageOrientationPatient = slices[0].ImageOrientationPatient
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([orientation])
    header.SharedFunctionalGroupsSequence = Items([shared])
    own = []
    for k in order:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = slices[k].ImagePositionPatient
        group.PlanePositionSequence = Items([place])
        own.append(group)
    header.PerFrameFunctionalGroupsSequence = Items(own)
    return _with(header, tags)


def write_slices(folder: Path, slices: Sequence[Dataset], name: str = "IM") -> Path:
    """Write images under numbers that are shuffled against their order, without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    for place, header in zip(np.random.default_rng(3).permutation(len(slices)), slices, strict=True):
        header.save_as(folder / f"{name}{place:04d}", enforce_file_format=True)
    return folder


def _image(kind: str, pixels: np.ndarray, uid: str, number: int) -> Dataset:
    header, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = kind, uid
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.file_meta = meta
    header.SOPClassUID, header.SOPInstanceUID, header.Modality = kind, uid, "MR"
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.826", f"1.2.826.{number}"
    header.SeriesNumber, header.SamplesPerPixel, header.PhotometricInterpretation = number, 1, "MONOCHROME2"
    header.Rows, header.Columns = pixels.shape[-2:]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 16, 15, 1
    header.PixelData = pixels.astype("<i2").tobytes()
    return header


def _with(header: Dataset, tags: dict[str, Any]) -> Dataset:
    for key, value in tags.items():
        setattr(header, key, value)
    return header


def _written(*numbers: float) -> list[str]:
    """As in a header, which has room for 16 characters a number."""
    return [f"{number:.10f}"[:16] for number in numbers]
