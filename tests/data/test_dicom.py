"""A DICOM series is the volume that NIfTI holds, in whatever order and place its files lie, or a plain error."""

from __future__ import annotations

import locale
import re
import tempfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pydicom.data
import pytest
import SimpleITK
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from medanomaly.data import cases_from_files, read_datalist, read_volume
from medanomaly.data.datalist import check_cases
from medanomaly.data.digests import case_digests, scan_digest
from medanomaly.errors import InputError
from tests.conftest import SHARED_DATA
from tests.data.made_dicom import multi_frame_of, oblique_affine, slices_of, write_slices

SHAPE = (9, 7, 6)
VOLUME = np.random.default_rng(0).integers(-200, 3000, SHAPE)
AFFINE = oblique_affine()


def canonical(array, affine):
    """In the order of RAS, so that two files of one volume compare voxel by voxel."""
    image = nib.as_closest_canonical(nib.Nifti1Image(np.asarray(array, np.float64), np.asarray(affine)))
    return np.asarray(image.dataobj), image.affine


def assert_is(volume, array, affine, atol=0.0):
    for found, known, tolerance in zip(
        canonical(volume.numpy(), volume.affine), canonical(array, affine), (atol, 1e-6), strict=True
    ):
        np.testing.assert_allclose(found, known, atol=tolerance)


def zipped(folder: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{prefix}{file.name}")
    return folder.with_suffix(".zip")


def read_case(case):
    return check_cases([case], "test", "cohort.json", Path())[0]


def refusal(path, **of):
    with pytest.raises(InputError) as raised:
        read_volume(read_case({"image": str(path), **of})["image"][0])
    return str(raised.value)


@pytest.mark.parametrize("codes", [(1, 2, 3), (-1, -2, 3), (-2, -3, 1), (2, 3, 1), (1, -3, -2)])
def test_a_series_is_the_volume_that_nifti_holds(tmp_path, codes):
    affine = oblique_affine(codes)
    nib.save(nib.Nifti1Image(VOLUME.astype(np.int16), affine), tmp_path / "a.nii.gz")
    volume = read_volume(write_slices(tmp_path / "series", slices_of(VOLUME, affine)))
    assert volume.dtype == read_volume(tmp_path / "a.nii.gz").dtype
    assert_is(volume, VOLUME, affine)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "series")))
    other = reader.Execute()
    np.testing.assert_array_equal(volume, SimpleITK.GetArrayFromImage(other).T)
    for corner in ((0, 0, 0), (8, 6, 5), (3, 1, 4)):
        np.testing.assert_allclose(
            (np.asarray(volume.affine) @ (*corner, 1))[:3],
            np.multiply(other.TransformIndexToPhysicalPoint(corner), (-1, -1, 1)),
            atol=1e-5,
        )


def test_values_are_rescaled_slice_by_slice(tmp_path):
    slices = slices_of(VOLUME, AFFINE)
    for k, header in enumerate(slices):
        header.RescaleSlope, header.RescaleIntercept = str(0.25 * (k + 1)), "-5"
    known = VOLUME * 0.25 * np.arange(1, 7) - 5
    assert_is(read_volume(write_slices(tmp_path / "a", slices)), known, AFFINE)


def test_the_frames_of_a_multi_frame_file_are_ordered_by_where_they_lie(tmp_path):
    header = multi_frame_of(VOLUME, AFFINE, (3, 0, 5, 1, 2, 4))
    header.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert_is(read_volume(tmp_path / "a.dcm"), VOLUME, AFFINE)
    slopes = (2, 1, 1, 0.5, 1, 1)
    for group, slope in zip(header.PerFrameFunctionalGroupsSequence, slopes, strict=True):
        scale = Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = str(slope), "-1", "US"
        group.PixelValueTransformationSequence = [scale]
    header.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    known = VOLUME * np.array(slopes)[[1, 3, 4, 0, 5, 2]] - 1
    assert_is(read_volume(tmp_path / "b.dcm"), known, AFFINE)


@pytest.fixture
def study(tmp_path):
    """Three series in one folder, and files that are of none."""
    folder = write_slices(tmp_path / "study", slices_of(VOLUME, AFFINE, 7, SeriesDescription="T1 MPRAGE"), "a")
    write_slices(folder / "b", slices_of(VOLUME[:5] + 1, AFFINE, 8, SeriesDescription="T2"))
    write_slices(folder, slices_of(VOLUME[:4], AFFINE, 9, SeriesDescription="T2"), "c")
    (folder / "notes.txt").write_text("nothing")
    (folder / "._a0001.dcm").write_bytes(b"of a Mac")
    report = slices_of(VOLUME, AFFINE)[0]
    for key in ("Rows", "Columns", "PixelData"):
        delattr(report, key)
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # a text
    report.save_as(folder / "report", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("is_zip", [False, True])
def test_a_series_is_chosen_by_number_description_or_name(study, is_zip):
    place = zipped(study) if is_zip else study
    if is_zip:  # names repeat in the zip, and its files lie in no folders
        assert len(zipfile.ZipFile(place).namelist()) == 18 + 4
    names = [cases_from_files([place], series=[choice])[0]["image"][0] for choice in ("7", 7, "t1 mprage", 8, 9)]
    assert names[0] == names[1] == names[2] and len(set(names)) == 3
    assert [tuple(read_volume(name).shape) for name in names[2:]] == [SHAPE, (5, 7, 6), (4, 7, 6)]
    assert_is(read_volume(names[0]), VOLUME, AFFINE)
    name = names[0].partition("#")[2]
    assert re.fullmatch("series-7-[0-9a-f]{8}", name)
    assert cases_from_files([place], series=[name])[0] == {"image": [names[0]], "case": name}
    message = refusal(place)
    assert "'test', entry 1 holds 3 DICOM series: choose one by its number" in message
    assert f"\n  7: T1 MPRAGE, MR, 6 image(s), {name}\n  8: T2, MR" in message
    assert "has 2 series 'T2'" in refusal(place, series="T2")
    assert "has no series 6" in refusal(place, series=6)


def test_series_as_channels_and_as_cases(study, tmp_path):
    nib.save(nib.Nifti1Image(VOLUME.astype(np.int16), AFFINE), tmp_path / "scan.nii.gz")
    channels = cases_from_files([study], 2, series=["7", "9"])
    assert len(channels) == 1 and len(channels[0]["image"]) == 2 and channels[0]["case"].startswith("series-7-")
    cases = cases_from_files([study], series=["7", "9"])
    assert [case["case"][:9] for case in cases] == ["series-7-", "series-9-"]
    cases = cases_from_files([study, tmp_path / "scan.nii.gz"], series=["T1 MPRAGE"])
    assert cases[1] == {"image": [str(tmp_path / "scan.nii.gz")], "case": "scan"}
    assert (
        read_case({"image": str(study), "series": [7, 8]})["image"]
        == read_case({"image": [str(study)] * 2, "series": ["T1 MPRAGE", 8]})["image"]
    )
    assert "3 series for 2 images" in refusal(study, image=[str(study)] * 2, series=[7, 8, 9])
    assert "which is no DICOM" in refusal(tmp_path / "scan.nii.gz", series=7)


def test_a_datalist_of_series(study, tmp_path):
    (tmp_path / "list.json").write_text(f'{{"test": [{{"image": "{study.name}", "series": 8}}]}}')
    (case,) = read_datalist(tmp_path / "list.json", "test")
    assert case["case"].startswith("series-8-")
    again = read_case({"image": case["image"]})  # a case that was read may be given again
    assert again == case


def test_a_series_is_the_same_scan_in_a_folder_and_in_a_zip(study):
    zip_file = zipped(study)
    first, second = (cases_from_files([place], series=["7"]) for place in (study, zip_file))
    assert first[0]["case"] == second[0]["case"]
    assert case_digests(first) == case_digests(second)
    assert scan_digest(cases_from_files([study], series=["8"])[0]["image"][0]) != scan_digest(first[0]["image"][0])


def test_nothing_of_a_zip_stays_or_leaves_its_folder(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary" / "deep"
    temporary.mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    place = zipped(write_slices(tmp_path / "a", slices_of(VOLUME, AFFINE)), "../../../out/")
    before = sorted(tmp_path.rglob("*"))
    assert_is(read_volume(place), VOLUME, AFFINE)
    assert sorted(tmp_path.rglob("*")) == before
    place.write_bytes(place.read_bytes()[:-200])
    assert "cannot be read (BadZipFile)" in refusal(place)


def test_slices_that_are_there_twice_are_taken_once(tmp_path):
    folder = write_slices(tmp_path / "a", slices_of(VOLUME, AFFINE))
    write_slices(folder, slices_of(VOLUME, AFFINE)[1:3], "copy")
    with pytest.warns(UserWarning, match=r"series-7-\w+: 2 duplicate slice\(s\) are left out"):
        assert_is(read_volume(folder), VOLUME, AFFINE)
    other = slices_of(VOLUME + 1, AFFINE)[2]
    other.save_as(folder / "echo", enforce_file_format=True)
    assert "different images at one place (images 3, 3" in refusal(folder)


def test_a_missing_slice_is_refused_and_the_gap_is_named(tmp_path):
    slices = slices_of(VOLUME, AFFINE)
    message = refusal(write_slices(tmp_path / "a", slices[:2] + slices[3:]))
    assert "has a gap, with slices 3 mm apart elsewhere: 1 missing between image 2 and image 4 (6 mm apart)" in message
    assert re.match(r"cohort.json, 'test', entry 1: series-7-\w{8} has a gap", message)
    message = refusal(write_slices(tmp_path / "b", [slices[0], slices[3], slices[4]]))
    assert "2 missing between image 1 and image 4 (9 mm apart)" in message
    for name, left in (("end", slices[2:]), ("every second", slices[::2])):
        with pytest.warns(UserWarning, match="slices may be missing at an end, or regularly"):
            read_volume(write_slices(tmp_path / name, left))


def changed(**tags):
    def change(slices):
        for key, value in tags.items():
            setattr(slices[2], key, value)

    return change


def moved(shift, per_slice=True):
    def change(slices):
        for k, header in enumerate(slices):
            offset = np.multiply(shift, k if per_slice else k == 2)
            header.ImagePositionPatient = [f"{x:.6f}" for x in np.add(header.ImagePositionPatient, offset)]

    return change


ROW = np.array([-1, -1, 1]) * AFFINE[:3, 0] / 1.5
NORMAL = np.array([-1, -1, 1]) * AFFINE[:3, 2] / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(ImageOrientationPatient=["1", "0", "0", "0", "0", "-1"]), r"different orientations, .* \(image 3\)"),
        (changed(PixelSpacing=["2", "1.6"]), r"different spacings, such as 2 x 1\.5 \(image \d\) and 2 x 1\.6 \(image"),
        (changed(Rows=6), "different sizes"),
        (changed(ImagePositionPatient=None), "1 of 6 images do not say where they lie"),
        (changed(PixelSpacing=["0", "0"]), "1 of 6 images do not say"),
        (changed(SamplesPerPixel=3), "has colours"),
        (changed(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), "has mosaics"),
        (changed(PixelSpacing=["1", "2", "3"]), "6 of 6 files that are damaged"),
        (moved(0.5 * ROW), r"lie askew, by 9\.5 degrees.*tilted"),
        (moved(0.5 * ROW, False), r"not lie on a straight line: one is off by 0\.5 mm"),
        (moved(0.6 * NORMAL, False), r"distances from 2\.4 to 3\.6 mm"),
    ],
)
def test_what_is_no_regular_volume_is_refused(tmp_path, change, words):
    slices = slices_of(VOLUME, AFFINE)
    change(slices)
    assert re.search(words, refusal(write_slices(tmp_path / "a", slices)))


def test_damaged_files_are_refused(tmp_path):
    folder = write_slices(tmp_path / "a", slices_of(VOLUME, AFFINE), "x.")
    whole = (folder / "x.0002").read_bytes()
    (folder / "x.0002").write_bytes(whole[:-20])
    assert re.search(r"^series-7-\w+ cannot be decoded \(Explicit VR Little Endian\): is each", refusal(folder))
    (folder / "x.0002").write_bytes(whole[:300])
    assert "holds 1 of 6 files that are damaged or locked, the first is number 3" in refusal(folder)
    (folder / "x.0002").unlink()
    (folder / "x.9999.dcm").touch()
    assert "the first is number 6" in refusal(folder)
    (tmp_path / "empty").mkdir()
    assert "holds no DICOM images (0 file(s))" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("kind", ["RLE", "jp2klossless", "jpeg_ls_lossless", "implicit", "bigendian"])
def test_transfer_syntaxes(kind):
    known, file = (pydicom.data.get_testdata_file(f"MR_small{end}.dcm") for end in ("", f"_{kind}"))
    assert pydicom.dcmread(file).file_meta.TransferSyntaxUID != ExplicitVRLittleEndian
    np.testing.assert_array_equal(read_volume(file), read_volume(known))
    np.testing.assert_array_equal(read_volume(known)[..., 0].T, pydicom.dcmread(known).pixel_array)


def test_lossless_jpeg(tmp_path):
    known = np.random.default_rng(0).integers(0, 3000, (32, 24, 3))
    folder = write_slices(tmp_path / "a", slices_of(known, AFFINE, PixelRepresentation=0))
    for file in list(folder.iterdir()):
        writer = SimpleITK.ImageFileWriter()
        writer.SetFileName(str(file.with_suffix(".dcm")))
        writer.KeepOriginalImageUIDOn()
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        before = locale.setlocale(locale.LC_ALL)
        writer.Execute(SimpleITK.ReadImage(str(file)))
        locale.setlocale(locale.LC_ALL, before)  # the writer leaves "C" behind, and with it ASCII files
        file.unlink()
    assert {pydicom.dcmread(file).file_meta.TransferSyntaxUID for file in folder.iterdir()} == {JPEGLosslessSV1}
    assert_is(read_volume(folder), known, AFFINE)


def test_a_compression_that_is_not_read_is_named(tmp_path):
    slices = slices_of(VOLUME, AFFINE)
    for header in slices:
        header.compress(RLELossless)
        header.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.201"
    assert "cannot be decoded (High-Throughput JPEG 2000" in refusal(write_slices(tmp_path / "a", slices))


def test_a_description_that_names_the_patient_is_not_shown(tmp_path):
    for number, description in ((7, "T1 of mustermann"), (8, "T1")):
        tags = {"PatientName": "Mustermann^Erika", "SeriesDescription": description}
        write_slices(tmp_path / "a", slices_of(VOLUME, AFFINE, number, **tags), str(number))
    message = refusal(tmp_path / "a")
    assert "7: (its description may name the patient), MR" in message and "8: T1, MR" in message
    assert "ustermann" not in message


def test_the_published_series(tmp_path):
    place = SHARED_DATA / "dicom_t1" / "series.zip"
    if not place.exists():
        pytest.skip(f"the real scans are not on this machine: {place} is absent")
    (case,) = cases_from_files([place])
    assert case["case"].startswith("series-401-")
    volume = read_volume(case["image"][0])
    assert volume.shape == (274, 384, 384) and nib.aff2axcodes(volume.affine) == ("L", "P", "S")
    np.testing.assert_allclose(nib.affines.voxel_sizes(volume.affine.numpy()), (0.69999, 0.66667, 0.66667), atol=1e-4)
    assert "Jane" not in str(volume.meta) and "Doe" not in str(volume.meta)
