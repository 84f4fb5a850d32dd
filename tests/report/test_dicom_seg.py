"""Regions as a DICOM segmentation, read back by highdicom and pydicom: where they lie, and what they refer to."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from scipy.spatial import cKDTree

from medanomaly.data import cases_from_files, heatmap_path, read_volume
from medanomaly.errors import InputError
from medanomaly.report import read_regions
from medanomaly.workflows import regions
from tests.conftest import SHARED_DATA
from tests.data.made_dicom import multi_frame_of, slices_of, write_slices
from tests.report.planted import GRIDS, MARKER, SHAPE, centred, normals, planted_scores, region_of

highdicom = pytest.importorskip("highdicom", reason="the extra seg is not installed")
FRAME = "1.2.826.99"
TAGS = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PAT004711",
    "PatientBirthDate": "19560812",
    "PatientSex": "F",
    "StudyDate": "20200101",
    "StudyTime": "120000",
    "StudyID": "1",
    "AccessionNumber": "ACC1",
    "ReferringPhysicianName": "",
    "FrameOfReferenceUID": FRAME,
    "SliceThickness": "3",
}


def scored(tmp_path: Path, study: Path) -> Path:
    (case,) = cases_from_files([study])
    image = case["image"][0]
    return planted_scores(tmp_path / "out", read_volume(image).affine.numpy(), Path(image), second=True)


def world_of(segmentation: pydicom.Dataset, number: int) -> np.ndarray:
    """The centres of a segment's voxels in the world (RAS, mm), from the headers of its frames alone."""
    pixels = segmentation.pixel_array.reshape(-1, segmentation.Rows, segmentation.Columns)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    along = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    for frame, groups in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        own = groups if "SegmentIdentificationSequence" in groups else shared  # where there is one segment
        if own.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            rows, columns = np.nonzero(frame)
            found.append(corner + columns[:, None] * across * along[0] + rows[:, None] * down * along[1])
    return np.concatenate(found) * (-1, -1, 1)


def check(file: Path, folder: Path, sources: list[pydicom.Dataset], frame: str) -> None:
    labels = nib.load(folder / "planted" / "regions.nii.gz")
    rows = read_regions(folder, "planted")["regions"]
    segmentation, read = pydicom.dcmread(file), highdicom.seg.segread(file)
    assert segmentation.Modality == "SEG" and frame == segmentation.FrameOfReferenceUID
    assert segmentation.StudyInstanceUID == sources[0].StudyInstanceUID
    assert segmentation.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert segmentation.PatientID == sources[0].PatientID
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == {
        source.SOPInstanceUID for source in sources
    }
    assert list(read.segment_numbers) == [row["region"] for row in rows]
    volume = read.get_volume(combine_segments=True, skip_overlap_checks=True, allow_missing_positions=True)
    for row in rows:
        mask = np.asarray(labels.dataobj) == row["region"]
        expected = np.argwhere(mask) @ labels.affine[:3, :3].T + labels.affine[:3, 3]
        by_pydicom = world_of(segmentation, row["region"])
        by_highdicom = volume.map_indices_to_reference(np.argwhere(volume.array == row["region"])) * (-1, -1, 1)
        for found in (by_pydicom, by_highdicom):
            assert len(found) == len(expected) == row["voxels"]
            distance, nearest = cKDTree(expected).query(found)
            assert distance.max() < 2e-2 and len(set(nearest)) == len(expected)
            np.testing.assert_allclose(found.mean(axis=0), [row[f"centroid_{axis}"] for axis in "ras"], atol=1e-2)
        segment = read.get_segment_description(row["region"])
        assert segment.segment_label.startswith(f"region {row['region']}, ")
        assert segment.algorithm_type.value == "AUTOMATIC"


@pytest.mark.parametrize("kind", ["slices", "multi-frame"])
@pytest.mark.parametrize("grid", ["LPS", "PSR"])
def test_a_segment_lies_where_its_region_lies(grid: str, kind: str, tmp_path: Path) -> None:
    affine = centred(GRIDS[grid])
    image = np.random.default_rng(0).integers(0, 100, SHAPE)
    study = tmp_path / "study"
    if kind == "slices":
        write_slices(study, slices_of(image, affine, **TAGS))
    else:
        study.mkdir()
        order = np.random.default_rng(1).permutation(SHAPE[2])
        multi_frame_of(image, affine, order, **TAGS).save_as(study / "all.dcm", enforce_file_format=True)
    folder = scored(tmp_path, study)
    assert np.linalg.norm([region_of(folder)[f"peak_{a}"] for a in "ras"] - MARKER) < 3
    regions(folder, fpr=0.21, dicom_seg=study)
    sources = [pydicom.dcmread(file) for file in study.iterdir()]
    check(folder / "planted" / "planted_regions.dcm", folder, sources, FRAME)
    assert len(read_regions(folder, "planted")["regions"]) == 2


def test_other_files_name_nobody_and_other_series_are_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    affine = centred(GRIDS["LPS"])
    image = np.random.default_rng(0).integers(0, 100, SHAPE)
    odd = TAGS | {"PatientName": "Mustermann"}  # of one part, which is warned of with the name in the words
    study = write_slices(tmp_path / "study", slices_of(image, affine, **odd))
    recwarn.clear()
    other = write_slices(tmp_path / "other", slices_of(image + 1, affine, **TAGS))
    folder = scored(tmp_path, study)
    with pytest.raises(InputError, match="is not the scan that the scores"):
        regions(folder, dicom_seg=other)
    with pytest.raises(InputError, match="needs at least one"):
        regions(folder, min_ml=100, dicom_seg=study)
    assert not (folder / "planted" / "planted_regions.dcm").exists()
    regions(folder, fpr=0.21, dicom_seg=study, series=7)
    named = [path.name for path in folder.rglob("*") if path.is_file() and b"Mustermann" in path.read_bytes()]
    assert named == ["planted_regions.dcm"]
    assert "mustermann" not in "".join([*capfd.readouterr(), *(str(warning.message) for warning in recwarn)]).lower()


def test_a_nifti_scan_has_no_series_to_refer_to_and_headers_must_be_whole(tmp_path: Path) -> None:
    folder = planted_scores(tmp_path / "out", centred(GRIDS["RAS"]))
    with pytest.raises(InputError, match="is no DICOM series"):
        regions(folder, dicom_seg=tmp_path / "out_scan.nii.gz")
    image = np.random.default_rng(0).integers(0, 100, SHAPE)
    few = {key: value for key, value in TAGS.items() if key != "FrameOfReferenceUID"}
    study = write_slices(tmp_path / "study", slices_of(image, centred(GRIDS["LPS"]), **few))
    (tmp_path / "second").mkdir()
    folder = scored(tmp_path / "second", study)
    with pytest.raises(InputError, match=r"has no FrameOfReferenceUID"):
        regions(folder, fpr=0.21, dicom_seg=study)


@pytest.mark.slow
def test_the_real_series_gets_a_segmentation_in_its_frame_of_reference(tmp_path: Path) -> None:
    source = SHARED_DATA / "dicom_t1" / "series.zip"
    if not source.exists():
        pytest.skip(f"the real scans are not on this machine: {source} is absent")
    import zipfile

    from medanomaly.data import begin_scores, record_scores, save_on_grid
    from medanomaly.report import write_score_summary

    (case,) = cases_from_files([source])
    volume = read_volume(case["image"][0])
    affine, marker = volume.affine.numpy(), np.array([30.0, -20.0, 25.0])
    i, j, k = np.ogrid[tuple(map(slice, volume.shape))]
    offsets = [(x * i + y * j + z * k + start).astype(np.float32) for x, y, z, start in affine[:3]]
    squared = sum((offset - at) ** 2 for offset, at in zip(offsets, marker, strict=True))
    heatmap = np.where(squared <= 8**2, np.float32(4), np.float32(0))
    folder, model = tmp_path / "out", tmp_path / "model" / "models"
    model.mkdir(parents=True)
    (model / "model.pt").write_bytes(b"made")
    normals().save(model / "calibration.json")
    cases = [{**case, "case": "planted"}]
    begin_scores(folder, model.parent, model / "calibration.json", cases)
    save_on_grid(heatmap, heatmap_path(folder, "planted"), case["image"][0], affine)
    record_scores(folder, cases)
    write_score_summary(cases, folder, normals())
    regions(folder, dicom_seg=source)
    assert np.abs([region_of(folder)[f"centroid_{axis}"] for axis in "ras"] - marker).max() < 0.5
    with zipfile.ZipFile(source) as archive:
        sources = [
            pydicom.dcmread(archive.open(name), stop_before_pixels=True)
            for name in archive.namelist()
            if not name.endswith("/")
        ]
    check(folder / "planted" / "planted_regions.dcm", folder, sources, sources[0].FrameOfReferenceUID)
