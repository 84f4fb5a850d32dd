"""A scene of 3D Slicer for a scored case: the scan in grey, the heatmap over it, the regions, and their peaks."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medanomaly.data import display_path, heatmap_path, read_display, written_whole
from medanomaly.data.reading import AFFINE_TOLERANCE
from medanomaly.errors import InputError
from medanomaly.preprocessing.channels import channels_of_case
from medanomaly.report.region_files import read_map, read_regions
from medanomaly.report.slicer_files import write_nrrd, write_points, write_segmentation

GREY, HOT = "vtkMRMLColorTableNodeGrey", "vtkMRMLColorTableNodeFileInferno.txt"
OPACITY = 0.6
# of the slice views: title, colour, directions of the picture's x and y and of the view, in RAS
VIEWS = {
    "Red": ("R", "0.952941 0.290196 0.2", "Axial", ((-1, 0, 0), (0, 1, 0), (0, 0, 1))),
    "Yellow": ("Y", "0.929412 0.835294 0.298039", "Sagittal", ((0, -1, 0), (0, 0, 1), (-1, 0, 0))),
    "Green": ("G", "0.431373 0.690196 0.294118", "Coronal", ((-1, 0, 0), (0, 0, 1), (0, 1, 0))),
}


def write_slicer_scene(folder: str | Path, case: str, images: Sequence[str]) -> Path:
    """Write ``CASE/slicer/CASE.mrml`` with its files in ``Data`` beside it, and ``CASE.mrb``, the same in one file.

    What the heatmap shows in colours is above the threshold of the regions: percent of normal voxels that score lower.
    The slice views open at the peak of the first region.

    Args:
        folder: of the scores.
        case: its id.
        images: the files of its channels, as they were scored.

    Returns:
        The path of the ``.mrml`` file.

    Raises:
        InputError: if the case has no maps or no regions, or the images do not lie on the grid of its maps.
    """
    content = read_regions(folder, case)
    maps = heatmap_path(folder, case)
    heatmap: Any = read_map(maps)
    affine, regions = np.asarray(heatmap.affine), content["regions"]
    scan = channels_of_case(images, folder, case)
    if tuple(scan.shape[1:]) != heatmap.shape or not np.allclose(
        scan.affine.numpy(), affine, rtol=0, atol=AFFINE_TOLERANCE
    ):
        raise InputError(
            f"the scan of the case {case} (shape {tuple(scan.shape[1:])}) does not lie on the grid of {maps} "
            f"({heatmap.shape}): give the scan that was scored."
        )
    root = maps.parent / "slicer"
    scored = np.isfinite(np.asarray(heatmap.dataobj))
    nodes: list[ElementTree.Element] = []
    volumes = []
    for number, channel in enumerate(scan.as_tensor().numpy(), start=1):
        name = "scan" if len(scan) == 1 else f"channel {number}"
        low, high = np.percentile(channel[scored] if scored.any() else channel, [1, 99.5])
        nodes += _volume(root, number, name, channel, affine, GREY, (float(low), float(high)))
        volumes.append(f"vtkMRMLScalarVolumeNode{number}")
    lowest = 100 * (1 - content["fpr"])
    shown, _ = read_display(display_path(folder, case, images[0]))
    nodes += _volume(root, len(volumes) + 1, "heatmap", shown, affine, HOT, (lowest, 100.0), threshold=lowest)
    if regions:
        labels = np.asarray(read_map(maps.with_name("regions.nii.gz")).dataobj)
        write_segmentation(labels, affine, regions, root / "Data" / "regions.seg.nrrd")
        write_points(regions, root / "Data" / "peaks.mrk.json")
        nodes += _segmentation(volumes[0]) + _points()
    corners = nib.affines.apply_affine(affine, np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(heatmap.shape) - 1))
    centre = corners.mean(axis=0)
    peak = np.array([regions[0][f"peak_{axis}"] for axis in "ras"]) if regions else centre
    overlay = f"vtkMRMLScalarVolumeNode{len(volumes) + 1}"
    nodes += _views(volumes[0], overlay, centre, np.ptp(corners, axis=0), peak)
    scene = ElementTree.Element("MRML", {"version": "Slicer 5.0.0", "userTags": ""})
    scene.extend(nodes)
    ElementTree.indent(scene, " ")
    path = root / f"{case}.mrml"
    with written_whole(path) as temporary:
        ElementTree.ElementTree(scene).write(temporary, encoding="UTF-8", xml_declaration=True)
    _bundle(path, scene)
    return path


def _volume(
    root: Path,
    number: int,
    name: str,
    values: NDArray[np.float32],
    affine: NDArray[np.floating[Any]],
    colours: str,
    window: tuple[float, float],
    threshold: float | None = None,
) -> list[ElementTree.Element]:
    """A volume with its file; transparent below ``threshold``, if there is one."""
    file = f"Data/{name.replace(' ', '')}.nrrd"
    write_nrrd(values, affine, root / file)
    low, high = window
    shown = {
        "colorNodeID": colours,
        "window": f"{max(high - low, 1e-6):.9g}",
        "level": f"{(high + low) / 2:.9g}",
        "lowerThreshold": f"{low:.9g}" if threshold is None else f"{threshold:.9g}",
        "upperThreshold": f"{high:.9g}",
        "interpolate": "1",
        "autoWindowLevel": "0",
        "applyThreshold": "0" if threshold is None else "1",
        "autoThreshold": "0",
    }
    storage, display = f"vtkMRMLVolumeArchetypeStorageNode{number}", f"vtkMRMLScalarVolumeDisplayNode{number}"
    return [
        _node("VolumeArchetypeStorage", storage, True, fileName=file, centerImage="0", UseOrientationFromFile="1"),
        _node("VolumeDisplay", display, True, **shown),
        _node("Volume", f"vtkMRMLScalarVolumeNode{number}", name=name, references=_references(display, storage)),
    ]


def _segmentation(scan: str) -> list[ElementTree.Element]:
    display, storage = "vtkMRMLSegmentationDisplayNode1", "vtkMRMLSegmentationStorageNode1"
    references = f"{_references(display, storage)}referenceImageGeometryRef:{scan};"
    return [
        _node("SegmentationStorage", storage, True, fileName="Data/regions.seg.nrrd"),
        _node(
            *("SegmentationDisplay", display, True),
            **{"visibility": "true", "Visibility2DFill": "false", "Visibility2DOutline": "true"},
        ),
        _node("Segmentation", "vtkMRMLSegmentationNode1", name="regions", references=references),
    ]


def _points() -> list[ElementTree.Element]:
    display, storage = "vtkMRMLMarkupsFiducialDisplayNode1", "vtkMRMLMarkupsJsonStorageNode1"
    return [
        _node("MarkupsJsonStorage", storage, True, fileName="Data/peaks.mrk.json", coordinateSystem="LPS"),
        _node("MarkupsFiducialDisplay", display, True, visibility="true", pointLabelsVisibility="true", glyphScale="2"),
        _node("MarkupsFiducial", "vtkMRMLMarkupsFiducialNode1", name="peaks", references=_references(display, storage)),
    ]


def _views(
    background: str,
    foreground: str,
    centre: NDArray[np.floating[Any]],
    size: NDArray[np.floating[Any]],
    peak: NDArray[np.floating[Any]],
) -> list[ElementTree.Element]:
    """The three slice views: each in the middle of a box (RAS, mm) and wide enough for it, at the slice of ``peak``."""
    nodes = []
    shown = f"{max(1.1 * float(size.max()), 1):.6g}"
    for name, (letter, colour, orientation, axes) in VIEWS.items():
        normal, matrix = np.array(axes[2]), np.eye(4)
        matrix[:3] = np.column_stack([*axes, centre + normal * (normal @ (peak - centre))])
        common = {"singletonTag": name, "layoutName": name}
        nodes += [
            _node(
                *("Slice", f"vtkMRMLSliceNode{name}"),
                **{"name": name, **common, "layoutLabel": letter, "layoutColor": colour},
                **{"fieldOfView": f"{shown} {shown} 1", "dimensions": "256 256 1", "orientation": orientation},
                sliceToRAS=" ".join(f"{value:.6g}" for value in matrix.ravel()),
            ),
            _node(
                *("SliceComposite", f"vtkMRMLSliceCompositeNode{name}", True),
                **common,
                references=f"backgroundVolume:{background};foregroundVolume:{foreground};",
                **{"compositing": "0", "foregroundOpacity": str(OPACITY), "linkedControl": "1"},
            ),
        ]
    return nodes


def _references(display: str, storage: str) -> str:
    return f"display:{display};storage:{storage};"


def _node(tag: str, identity: str, hidden: bool = False, /, **attributes: str) -> ElementTree.Element:
    common = {"id": identity, "name": tag, "hideFromEditors": str(hidden).lower(), "selectable": "true"}
    return ElementTree.Element(tag, {**common, **attributes})


def _bundle(path: Path, scene: ElementTree.Element) -> None:
    """Everything of a scene in one file beside it, as Slicer bundles it: a folder, zipped."""
    names = [path.name, *(name for node in scene if (name := node.get("fileName")) is not None)]
    with written_whole(path.with_suffix(".mrb")) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in names:
            method = zipfile.ZIP_STORED if name.endswith(".nrrd") else zipfile.ZIP_DEFLATED  # those are packed already
            archive.write(path.parent / name, f"{path.stem}/{name}", method)
