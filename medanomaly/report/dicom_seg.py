"""The regions of a case that was scored from DICOM, as a DICOM segmentation that refers to its source series.

Such a file names the patient, as every image of a study does: it is written only when it is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import medanomaly
from medanomaly.data import heatmap_path, written_whole
from medanomaly.data.dicom_series import find_series, opened, place_and_series, safe_name
from medanomaly.data.dicom_volume import grid_of
from medanomaly.data.reading import AFFINE_TOLERANCE
from medanomaly.errors import ConfigError, InputError
from medanomaly.report.region_files import read_map, read_regions
from medanomaly.report.slicer_files import region_name

HIGHEST_SERIES_NUMBER = 2**31 - 1


def write_dicom_seg(folder: str | Path, case: str, image: str) -> Path:
    """Write ``CASE_regions.dcm`` beside the maps of a case: each region a segment, in the space of the source series.

    The file carries what its source says of the patient and of the study.

    Args:
        folder: of the scores.
        case: its id.
        image: the DICOM series that was scored, ``PATH#NAME``, see :mod:`medanomaly.data.dicom_series`.

    Raises:
        InputError: if the case has no regions, the series is not of its grid, or lacks what a segmentation must say.
        ConfigError: if highdicom is not installed.
    """
    try:
        import highdicom
    except ImportError as error:
        raise ConfigError("A DICOM segmentation needs highdicom: pip install 'medanomaly[seg]'.") from error

    content = read_regions(folder, case)
    path = heatmap_path(folder, case)
    labels: Any = read_map(path.with_name("regions.nii.gz"))
    if not content["regions"]:
        raise InputError(
            f"the case {case} has no region above {100 * (1 - content['fpr']):.6g} % of normals, and a DICOM "
            "segmentation needs at least one: give a higher --fpr, or a smaller --min-ml."
        )
    name, series = safe_name(image), find_series(image)
    grid = grid_of(series, name)
    shape = (*series.frames[0].size[::-1], len(grid.slices))
    if shape != labels.shape or not np.allclose(grid.affine, labels.affine, rtol=0, atol=AFFINE_TOLERANCE):
        raise InputError(f"{name} ({shape}) does not lie on the grid of the maps of {case}: give the series it is of.")
    sources, pixels = _frames(image, grid.slices, np.asarray(labels.dataobj))
    for key in ("FrameOfReferenceUID", "StudyInstanceUID"):
        if not sources[0].get(key):
            raise InputError(f"{name} has no {key}, which a DICOM segmentation must share: export the series again.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would repeat the patient's name
            segmentation = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=pixels,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_segment(region) for region in content["regions"]],
                series_instance_uid=highdicom.UID(),
                series_number=min(1000 + (series.number or 0), HIGHEST_SERIES_NUMBER),
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="medanomaly",
                manufacturer_model_name="medanomaly",
                software_versions=medanomaly.__version__,
                device_serial_number="0",
                content_label="ANOMALIES",
                content_description=f"above {100 * (1 - content['fpr']):.6g} % of normal voxels",
                series_description="medanomaly: unusual regions",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name} lacks what a DICOM segmentation must say of its source ({type(error).__name__}: {_safe(error)}): "
            "export the series again, with its patient and study."
        ) from error
    target = path.with_name(f"{case}_regions.dcm")
    with written_whole(target) as temporary:
        segmentation.save_as(temporary)
    return target


def _frames(
    image: str, slices: Sequence[Sequence[int]], labels: NDArray[np.integer[Any]]
) -> tuple[list[Any], NDArray[np.uint16]]:
    """The headers of the source, and the labels (frames, rows, columns) in their order.

    A file of one slice each: in the order of the slices. One file of all: in the order of its frames.
    """
    import pydicom

    series, place = find_series(image), place_and_series(image)[0]
    chosen = {number: k for k, numbers in enumerate(slices) for number in numbers}
    files = {frame.file for frame in series.frames}
    if len(files) > 1:
        chosen = {numbers[0]: k for k, numbers in enumerate(slices)}  # without duplicates
    ordered = sorted(chosen, key=lambda number: number if len(files) == 1 else chosen[number])
    with opened(place) as members:
        sources = []
        for file in dict.fromkeys(series.frames[number].file for number in ordered):
            with members[file][1]() as stream:
                sources.append(pydicom.dcmread(stream, stop_before_pixels=True))
    pixels = np.stack([labels[:, :, chosen[number]].T for number in ordered])
    return sources, pixels.astype(np.uint16)


def _segment(region: Mapping[str, Any]) -> Any:
    """What is said of a region: a structure that is abnormal in form, found by a program, and nothing more."""
    import highdicom
    from pydicom.sr.codedict import codes

    return highdicom.seg.SegmentDescription(
        segment_number=region["region"],
        segment_label=region_name(region)[:64],
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="medanomaly", version=medanomaly.__version__, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=f"region {region['region']}",
    )


def _safe(error: Exception) -> str:
    """The message of an error about an attribute that is not there; of another, which may repeat a value, nothing."""
    return str(error).strip("'\"") if isinstance(error, AttributeError) else "its headers cannot be used"
