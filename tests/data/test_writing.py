"""A map on the grid of its scan, and files that are whole or not there."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from monai.data import MetaTensor

from medanomaly.data import SaveHeatmapd, require_folder, save_on_grid, written_whole
from medanomaly.errors import InputError

SHAPE = (5, 6, 7)
# A left-handed, oblique, anisotropic grid.
ROTATION = np.array([[0.0, -0.6, 0.8], [0.0, -0.8, -0.6], [-1.0, 0.0, 0.0]])
AFFINE = nib.affines.from_matvec(ROTATION * [1.5, 2.0, 3.0] * [1, 1, -1], [10.0, -20.0, 30.0])
SHEARED = AFFINE + np.array([[0, 0.1, 0, 1], [0, 0, 0.2, 2], [0, 0, 0, 3], [0, 0, 0, 0]])


def scan_file(path, sform=(AFFINE, 1), qform=(AFFINE, 1), units=("mm", "sec"), shape=SHAPE, kind=nib.Nifti1Image):
    image = kind(np.ones(shape, np.int16), AFFINE)
    image.set_sform(*sform)
    image.set_qform(*qform)
    image.header.set_xyzt_units(*units)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize(
    ("sform", "qform"),
    [
        ((AFFINE, 1), (AFFINE, 1)),
        ((AFFINE, 4), (AFFINE, 2)),
        ((AFFINE, 2), (None, 0)),
        ((None, 0), (AFFINE, 1)),
        ((None, 0), (None, 0)),  # a scan without orientation stays without
        ((SHEARED, 3), (AFFINE, 1)),  # two that differ
        ((np.diag([2.0, 2, 2, 1]), 1), (AFFINE, 1)),
    ],
)
def test_shape_affine_and_codes_are_those_of_the_scan(tmp_path, sform, qform, kind):
    scan = nib.load(scan_file(tmp_path / "scan.nii.gz", sform, qform, kind=kind))
    values = np.random.default_rng(0).normal(size=SHAPE)
    save_on_grid(values, tmp_path / "out" / "map.nii.gz", tmp_path / "scan.nii.gz", np.eye(4))
    written = nib.load(tmp_path / "out" / "map.nii.gz")
    assert written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(written.get_fdata(), values.astype(np.float32))
    np.testing.assert_allclose(written.affine, scan.affine, atol=1e-5)
    for get in ("get_sform", "get_qform"):
        (matrix, code), (expected, expected_code) = (getattr(image, get)(coded=True) for image in (written, scan))
        assert code == expected_code
        if expected is None:
            assert matrix is None
        else:
            np.testing.assert_allclose(matrix, expected, atol=1e-5)


@pytest.mark.parametrize("units", [("mm", "sec"), ("mm", "unknown"), ("micron", "msec"), ("unknown", "unknown")])
def test_units_are_those_of_the_scan(tmp_path, units):
    scan = scan_file(tmp_path / "scan.nii", units=units)
    save_on_grid(np.zeros(SHAPE), tmp_path / "map.nii", scan, AFFINE)
    assert nib.load(tmp_path / "map.nii").header.get_xyzt_units() == units


def test_a_scan_with_a_trailing_axis_of_one_volume_is_the_same_grid(tmp_path):
    scan = scan_file(tmp_path / "scan.nii", shape=(*SHAPE, 1))
    save_on_grid(np.zeros(SHAPE), tmp_path / "map.nii", scan, np.eye(4))
    assert nib.load(tmp_path / "map.nii").shape == SHAPE
    np.testing.assert_allclose(nib.load(tmp_path / "map.nii").affine, AFFINE, atol=1e-5)


def test_a_map_of_another_shape_is_an_error_and_no_file(tmp_path):
    scan = scan_file(tmp_path / "scan.nii")
    with pytest.raises(InputError, match=r"\(7, 6, 5\) cannot be written .*\(5, 6, 7\)"):
        save_on_grid(np.zeros(SHAPE[::-1]), tmp_path / "map.nii", scan, AFFINE)
    assert not (tmp_path / "map.nii").exists()


def test_the_affine_is_written_where_the_scan_is_not_nifti(tmp_path):
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros(SHAPE[::-1], np.float32)), str(tmp_path / "scan.mha"))
    save_on_grid(np.zeros(SHAPE), tmp_path / "map.nii", tmp_path / "scan.mha", AFFINE)
    written = nib.load(tmp_path / "map.nii")
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert written.shape == SHAPE
    assert written.header.get_xyzt_units()[0] == "mm"


def test_the_raw_map_keeps_nan_and_the_display_has_none(tmp_path):
    scan = scan_file(tmp_path / "scan.nii")
    heatmap = np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)
    heatmap[0, :2] = np.nan
    case = {
        "case": "s1",
        "image": MetaTensor(torch.zeros(1, *SHAPE), meta={"filename_or_obj": str(scan)}),
        "pred": MetaTensor(torch.from_numpy(heatmap), affine=torch.eye(4)),
    }
    SaveHeatmapd(tmp_path / "out", display=lambda scores: 10 * scores)(case)
    SaveHeatmapd(tmp_path / "plain")(case)
    raw, display, plain = (
        nib.load(tmp_path / name).get_fdata()
        for name in ("out/s1/s1_heatmap.nii.gz", "out/s1/s1_display.nii.gz", "plain/s1/s1_display.nii.gz")
    )
    np.testing.assert_array_equal(raw, heatmap[0])
    np.testing.assert_allclose(display[2:], 10 * heatmap[0, 2:], rtol=1e-6)
    np.testing.assert_array_equal(plain[2:], heatmap[0, 2:])
    assert (display[:2] == 0).all()
    assert (plain[:2] == 0).all()


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with written_whole(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.suffix == ".csv"
    assert path.read_text() == "half"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_block_that_raises_leaves_what_was_there(tmp_path, old):
    path = tmp_path / "table.csv"
    if old is not None:
        path.write_text(old)

    def interrupted():
        with written_whole(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [p.read_text() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_an_output_that_cannot_be_a_folder_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for wrong, named in (("notes.txt", "notes.txt"), ("notes.txt/a/b", "notes.txt"), ("link/a", "link")):
        with pytest.raises(
            InputError, match=rf"{tmp_path / wrong} must be a folder, but {tmp_path / named} is .*choose another"
        ):
            require_folder(tmp_path / wrong)


def test_an_output_that_is_a_folder_or_can_become_one_is_left_alone(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    for right in (tmp_path, tmp_path / "new" / "one", "new", tmp_path / "link" / "new", "/"):
        require_folder(right)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]
