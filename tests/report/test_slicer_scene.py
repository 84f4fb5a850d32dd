"""A scene of 3D Slicer: whole, in the geometry of the scan, and with the attributes that Slicer's own scenes have."""

from __future__ import annotations

import json
import stat
import time
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import slicerio
from PIL import Image

from medanomaly.data import begin_scores, display_path, heatmap_path, record_scores, save_on_grid
from medanomaly.data.films import AS_SEEN
from medanomaly.data.writing import save_as_picture
from medanomaly.errors import InputError
from medanomaly.report import write_score_summary
from medanomaly.report.slicer_files import region_colour
from medanomaly.workflows import regions, view
from medanomaly.workflows.view import closing_words, find_slicer
from tests.data.made_dicom import slices_of, write_slices
from tests.report.planted import GRIDS, MARKER, RADIUS, SECOND, SHAPE, centred, normals, planted_scores, region_of

# What stands in scenes that Slicer 4.4 to 5.6 wrote, as found in public repositories, and in the WriteXML of its nodes.
NODE = {"id", "name", "hideFromEditors", "selectable", "selected", "singletonTag", "attributes", "references"}
STORAGE = {"fileName", "useCompression", "defaultWriteFileExtension", "readState", "writeState"}
DISPLAY = {"visibility", "visibility2D", "visibility3D", "opacity", "colorNodeID", "color", "selectedColor"}
KNOWN = {
    "VolumeArchetypeStorage": STORAGE | {"centerImage", "UseOrientationFromFile"},
    "VolumeDisplay": DISPLAY
    | {"window", "level", "upperThreshold", "lowerThreshold", "interpolate", "autoWindowLevel"}
    | {"applyThreshold", "autoThreshold"},
    "Volume": {"userTags", "spacing", "origin", "ijkToRASDirections"},
    "SegmentationStorage": STORAGE | {"CropToMinimumExtent"},
    "SegmentationDisplay": DISPLAY | {"Visibility2DFill", "Visibility2DOutline", "Opacity2DFill", "Opacity3D"},
    "Segmentation": {"userTags", "segmentListFilterEnabled"},
    "MarkupsJsonStorage": STORAGE | {"coordinateSystem"},
    "MarkupsFiducialDisplay": DISPLAY | {"pointLabelsVisibility", "propertiesLabelVisibility", "glyphScale"},
    "MarkupsFiducial": {"userTags", "locked"},
    "Slice": {"layoutLabel", "layoutName", "layoutColor", "fieldOfView", "dimensions", "orientation", "sliceToRAS"},
    "SliceComposite": {"compositing", "foregroundOpacity", "labelOpacity", "linkedControl", "layoutName"},
}
BUILT_IN = {"vtkMRMLColorTableNodeGrey", "vtkMRMLColorTableNodeFileInferno.txt"}


@pytest.fixture(autouse=True)
def _no_slicer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLICER_HOME", str(tmp_path))


def ras(lps: object) -> np.ndarray:
    return np.asarray(lps, dtype=float) * (-1, -1, 1)


def same_geometry(found: SimpleITK.Image, scan: SimpleITK.Image) -> None:
    assert found.GetSize() == scan.GetSize()
    for get in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, get)(), getattr(scan, get)(), atol=1e-4)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_marker_is_where_it_was_planted_in_every_file(grid: str, tmp_path: Path) -> None:
    affine = centred(GRIDS[grid])
    folder = planted_scores(tmp_path / "out", affine)
    regions(folder, fpr=0.21)
    scene, _ = view(folder / "planted", slicer=True)
    half = np.abs(affine[:3, :3]).sum(axis=1) / 2 + 1e-3
    scan = SimpleITK.ReadImage(str(tmp_path / "out_scan.nii.gz"))

    heatmap = SimpleITK.ReadImage(str(folder / "planted" / "planted_heatmap.nii.gz"))
    same_geometry(heatmap, scan)
    values = SimpleITK.GetArrayFromImage(heatmap).T
    highest = tuple(map(int, np.unravel_index(np.nanargmax(values), values.shape)))
    assert (np.abs(ras(heatmap.TransformIndexToPhysicalPoint(highest)) - MARKER) <= half).all()

    region = region_of(folder)
    assert (np.abs([region[f"peak_{axis}"] for axis in "ras"] - MARKER) <= half).all()

    for name in ("scan", "heatmap", "regions.seg"):
        same_geometry(SimpleITK.ReadImage(str(scene.parent / "Data" / f"{name}.nrrd")), scan)
    file = scene.parent / "Data" / "regions.seg.nrrd"
    statistics = SimpleITK.LabelShapeStatisticsImageFilter()
    statistics.Execute(SimpleITK.Cast(SimpleITK.ReadImage(str(file)), SimpleITK.sitkUInt16))
    assert statistics.GetLabels() == (1,)
    np.testing.assert_allclose(
        ras(statistics.GetCentroid(1)), [region[f"centroid_{axis}"] for axis in "ras"], atol=1e-3
    )
    assert np.abs(ras(statistics.GetCentroid(1)) - MARKER).max() < 0.7
    assert statistics.GetPhysicalSize(1) / 1000 == pytest.approx(region["volume_ml"], rel=1e-4)
    segmentation = slicerio.read_segmentation(str(file))
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ segmentation["ijkToLPS"], affine, atol=1e-5)
    (segment,) = segmentation["segments"]
    assert segment["name"] == f"region 1, {region['volume_ml']:.3g} ml, left" and segment["labelValue"] == 1
    np.testing.assert_allclose(segment["color"], region_colour(1), atol=1e-5)

    (markups,) = json.loads((scene.parent / "Data" / "peaks.mrk.json").read_text())["markups"]
    assert (markups["type"], markups["coordinateSystem"], markups["coordinateUnits"]) == ("Fiducial", "LPS", "mm")
    (point,) = markups["controlPoints"]
    assert (np.abs(ras(point["position"]) - MARKER) <= half).all() and point["label"] == "region 1"

    for node in ElementTree.parse(scene).getroot().iter("Slice"):  # each view opens at the slice of the peak
        matrix = np.array(node.get("sliceToRAS").split(), float).reshape(4, 4)
        assert abs(matrix[:3, 2] @ (np.array([region[f"peak_{a}"] for a in "ras"]) - matrix[:3, 3])) < 1e-3
        assert abs(np.linalg.det(matrix[:3, :3])) == pytest.approx(1)


def test_the_scene_is_whole_and_says_what_slicer_says(tmp_path: Path) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    regions(folder, fpr=0.01)
    scene, opened = view(folder, slicer=True)
    assert scene == folder / "planted" / "slicer" / "planted.mrml" and not opened
    root = ElementTree.parse(scene).getroot()
    assert root.tag == "MRML" and root.get("version").startswith("Slicer ")
    nodes = {node.get("id"): node for node in root}
    assert len(nodes) == len(root), "ids are unique"
    for node in root:
        assert set(node.keys()) <= NODE | KNOWN[node.tag], node.tag
        assert node.get("id").startswith("vtkMRML")
        for reference in filter(None, node.get("references", "").split(";")):
            assert reference.partition(":")[2] in nodes, reference
        assert node.get("colorNodeID", "vtkMRMLColorTableNodeGrey") in BUILT_IN
        if file := node.get("fileName"):
            assert not Path(file).is_absolute() and (scene.parent / file).is_file()
    composites = [node for node in root if node.tag == "SliceComposite"]
    assert {node.get("singletonTag") for node in composites} == {"Red", "Yellow", "Green"}
    for node in composites:
        shown = dict(reference.split(":") for reference in node.get("references").rstrip(";").split(";"))
        assert [nodes[shown[layer]].get("name") for layer in ("backgroundVolume", "foregroundVolume")] == [
            *("scan", "heatmap")
        ]
        assert 0 < float(node.get("foregroundOpacity")) < 1
    (heat,) = [node for node in root if node.get("colorNodeID") == "vtkMRMLColorTableNodeFileInferno.txt"]
    assert heat.get("applyThreshold") == "1" and float(heat.get("lowerThreshold")) == pytest.approx(99)
    shown = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(scene.parent / "Data" / "heatmap.nrrd")))
    assert np.isfinite(shown).all() and shown.max() == 100
    labels = np.asarray(nib.load(folder / "planted" / "regions.nii.gz").dataobj)
    np.testing.assert_array_equal(shown.T > 99, labels > 0)  # what is coloured are the regions

    with zipfile.ZipFile(scene.with_suffix(".mrb")) as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = {path.relative_to(tmp_path / "unpacked" / "planted"): path.read_bytes() for path in files_in(tmp_path)}
    beside = {path: (scene.parent / path).read_bytes() for path in unpacked}
    assert unpacked == beside and len(unpacked) == 5
    assert not any(path.name.startswith(".") for path in scene.parent.rglob("*"))


def files_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "unpacked" / "planted").rglob("*") if path.is_file()]


def test_each_region_is_a_segment_and_a_point_of_its_own(tmp_path: Path) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["LAI"]), second=True)
    regions(folder, fpr=0.21)
    scene, _ = view(folder, slicer=True)
    file = scene.parent / "Data" / "regions.seg.nrrd"
    segments = slicerio.read_segmentation(str(file))["segments"]
    assert [segment["labelValue"] for segment in segments] == [1, 2]
    assert [segment["name"].rpartition(" ")[2] for segment in segments] == ["left", "right"]
    assert segments[0]["color"] != segments[1]["color"]
    labels = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))).T
    np.testing.assert_array_equal(labels, np.asarray(nib.load(folder / "planted" / "regions.nii.gz").dataobj))
    points = json.loads((scene.parent / "Data" / "peaks.mrk.json").read_text())["markups"][0]["controlPoints"]
    near = [
        np.linalg.norm(ras(point["position"]) - place) for point, place in zip(points, (MARKER, SECOND), strict=True)
    ]
    assert near[0] < 3 and near[1] <= RADIUS


def test_without_a_region_there_are_no_segments_and_points(tmp_path: Path) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    regions(folder, min_ml=100)
    scene, _ = view(folder, slicer=True)
    assert {node.tag for node in ElementTree.parse(scene).getroot()} == {
        *("VolumeArchetypeStorage", "VolumeDisplay", "Volume", "Slice", "SliceComposite")
    }


def test_a_sheared_scan_keeps_its_place(tmp_path: Path) -> None:
    affine = centred(GRIDS["RAS"] + np.array([[0, 0.2, 0, 0], [0, 0, 0.3, 0], [0, 0, 0, 0], [0, 0, 0, 0]]))
    scene, _ = view(planted_scores(tmp_path / "out", affine), slicer=True)
    for name in ("scan", "heatmap", "regions.seg"):
        found = SimpleITK.ReadImage(str(scene.parent / "Data" / f"{name}.nrrd"))
        for voxel in ((0, 0, 0), (3, 5, 7)):
            np.testing.assert_allclose(
                ras(found.TransformIndexToPhysicalPoint(voxel)), affine[:3, :3] @ voxel + affine[:3, 3], atol=1e-4
            )


def test_the_scan_is_the_one_that_was_scored(tmp_path: Path) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    scan = tmp_path / "out_scan.nii.gz"
    moved = scan.rename(tmp_path / "moved.nii.gz")
    with pytest.raises(InputError, match="--scan"):
        view(folder, slicer=True)
    assert view(folder, slicer=True, scan=[moved])[0].exists()
    nib.save(nib.Nifti1Image(np.ones(SHAPE, np.int16), np.eye(4)), scan)
    with pytest.raises(InputError, match="not the scan that the scores"):
        view(folder, slicer=True)


def test_a_dicom_series_is_named_again_and_its_patient_is_not(tmp_path: Path) -> None:
    affine = centred(GRIDS["LPS"])
    volume = np.random.default_rng(0).integers(0, 100, SHAPE)
    study = write_slices(tmp_path / "Mustermann", slices_of(volume, affine, 7, PatientName="Mustermann^Erika"))
    from medanomaly.data import cases_from_files, read_volume

    (case,) = cases_from_files([study])
    folder = planted_scores(tmp_path / "out", read_volume(case["image"][0]).affine.numpy(), Path(case["image"][0]))
    with pytest.raises(InputError, match="of DICOM, no path is kept"):
        view(folder, slicer=True)
    scene, _ = view(folder, slicer=True, scan=[study], series=[7])
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(scene.parent / "Data" / "scan.nrrd"))).T, volume
    )
    assert not any(b"Mustermann" in path.read_bytes() for path in scene.parent.rglob("*") if path.is_file())


def test_a_film_is_a_scene_of_one_slice(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 30), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "film.png")
    heatmap = np.zeros((30, 40, 1), np.float32)
    heatmap[4:12, 20:30] = 3
    (tmp_path / "model" / "models").mkdir(parents=True)
    (tmp_path / "model" / "models" / "model.pt").write_bytes(b"made")
    normals().save(tmp_path / "model" / "models" / "calibration.json")
    folder, cases = tmp_path / "out", [{"case": "film", "image": [str(tmp_path / "film.png")]}]
    begin_scores(folder, tmp_path / "model", tmp_path / "model" / "models" / "calibration.json", cases)
    save_on_grid(heatmap, heatmap_path(folder, "film"), tmp_path / "film.png", AS_SEEN)
    save_as_picture(normals().percentile(heatmap), display_path(folder, "film", "film.png"))
    record_scores(folder, cases)
    write_score_summary(cases, folder, normals())
    scene, _ = view(folder, slicer=True)
    scan, shown, labels = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(scene.parent / "Data" / f"{name}.nrrd")))[0]
        for name in ("scan", "heatmap", "regions.seg")
    )
    np.testing.assert_array_equal(scan, picture)
    np.testing.assert_array_equal(labels.T, heatmap[..., 0] > 0)
    np.testing.assert_allclose(shown.T, 100 * (heatmap[..., 0] > 0), atol=0.5)
    (segment,) = slicerio.read_segmentation(str(scene.parent / "Data" / "regions.seg.nrrd"))["segments"]
    assert segment["name"] == "region 1, 80 pixels"


def test_slicer_is_started_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    scene, opened = view(folder, slicer=True)
    assert not opened and "--slicer-path" in closing_words(scene, opened) and str(scene) in closing_words(scene, opened)
    home = tmp_path / "Slicer-5.8"
    home.mkdir()
    program = home / "Slicer"
    program.write_text(f'#!/bin/sh\necho "$1" > "{tmp_path}/started"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert find_slicer(home) == find_slicer(program) == str(program)
    with pytest.raises(InputError, match="no program 3D Slicer"):
        find_slicer(tmp_path / "nowhere")
    monkeypatch.setenv("SLICER_HOME", str(home))
    assert view(folder, slicer=True) == (scene, True)
    for _ in range(100):
        if (tmp_path / "started").exists() and (tmp_path / "started").read_text():
            break
        time.sleep(0.05)
    assert (tmp_path / "started").read_text().strip() == str(scene)
    assert "starting" in closing_words(scene, True)
    monkeypatch.setenv("SLICER_HOME", "")
    monkeypatch.setenv("PATH", str(home))
    assert find_slicer() == str(program)


def test_a_report_is_opened_if_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    with pytest.raises(InputError, match="--slicer"):
        view(folder)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: not opened.append(address))
    report = folder / "planted" / "report.html"
    report.write_text("<html></html>")
    assert view(folder, case="planted") == (report, True) and opened == [report.as_uri()]
    assert str(report) in closing_words(report, True)
