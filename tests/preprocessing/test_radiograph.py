"""The chain for films: one grid whatever the format, and heatmaps that come back to the film's own pixels."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image
from torch.nn import functional

from medanomaly.data import display_path, heatmap_path
from medanomaly.errors import ConfigError, InputError
from medanomaly.evaluation import HeatmapFolder
from medanomaly.preprocessing import FillOutsided, heatmap_to_scan, radiograph

ROWS, COLUMNS = 36, 60
AT = (9, 46)  # row and column of the mark: near the upper right corner
FORMATS = ("a.png", "a.jpg", "a.dcm", "a.nii.gz", "transposed.nii", "upright.nii")


def film(rows=ROWS, columns=COLUMNS):
    """A smooth mark on a faint ramp, as seen."""
    row, column = np.indices((rows, columns))
    mark = np.exp(-((row - AT[0]) ** 2 + (column - AT[1]) ** 2) / 18)
    return np.rint(40 * column / columns + 200 * mark).astype(np.uint8)


@pytest.fixture
def files(tmp_path, radiograph_writer):
    """The same film in every format, and on three grids as NIfTI: as ITK has it, rows first, and standing upright."""
    pixels, across = film(), np.diag([-0.2, -0.3, 1.0, 1.0])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=98)
    radiograph_writer(tmp_path / "a.dcm", pixels.max() - pixels, "MONOCHROME1", spacing=(0.3, 0.2))
    nib.save(nib.Nifti1Image(pixels.T, across), tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(pixels, across[:, [1, 0, 2, 3]]), tmp_path / "transposed.nii")
    nib.save(nib.Nifti1Image(pixels.T[:, None], across[[0, 2, 1, 3]][:, [0, 2, 1, 3]]), tmp_path / "upright.nii")
    return tmp_path


def case_of(folder, name="a.png", **keys):
    return {"image": [str(folder / name)], "case": "s1", **keys}


def as_seen(volume, name):
    """A map (1, H, W, D) on the grid of a file as rows and columns."""
    flat = np.asarray(volume)[0].squeeze()
    return flat if name == "transposed.nii" else flat.T


@pytest.mark.parametrize("size", [None, (24, 30), (90, 80), (ROWS, COLUMNS)])
@pytest.mark.parametrize("name", FORMATS)
def test_a_mark_keeps_its_place_and_side_there_and_back(files, name, size):
    chain = radiograph(1, size)
    prepared = chain(case_of(files, name))
    height, width = size or (ROWS, COLUMNS)
    assert prepared["image"].shape == prepared["region"].shape == (1, width, height, 1)
    x, y, _ = np.unravel_index(int(prepared["image"][0].argmax()), (width, height, 1))
    # x runs to the patient's right, the left of the picture, and y up
    assert abs((x + 0.5) / width - (1 - (AT[1] + 0.5) / COLUMNS)) <= 1 / min(width, COLUMNS)
    assert abs((y + 0.5) / height - (1 - (AT[0] + 0.5) / ROWS)) <= 1 / min(height, ROWS)
    back = as_seen(heatmap_to_scan(chain)({**prepared, "pred": prepared["image"].as_tensor()})["pred"], name)
    assert back.shape == (ROWS, COLUMNS)
    row, column = np.unravel_index(int(back.argmax()), back.shape)
    if size in (None, (ROWS, COLUMNS)):
        low, high = np.percentile(film(), [1, 99])
        np.testing.assert_allclose(back, (film() - low) / (high - low), atol=0.05 if name == "a.jpg" else 1e-4)
    assert abs(row - AT[0]) <= 1 and abs(column - AT[1]) <= 1


def test_all_formats_become_the_same_slice(files):
    prepared = [radiograph(1, (24, 30))(case_of(files, name))["image"].as_tensor() for name in FORMATS]
    for name, image in zip(FORMATS, prepared, strict=True):
        np.testing.assert_allclose(image, prepared[0], atol=0.05 if name == "a.jpg" else 1e-4, err_msg=name)


@pytest.mark.parametrize("shape", [(12, 60), (72, 30), (50, 81)])
def test_resizing_is_that_of_pillow(files, shape):
    prepared = radiograph(1, shape, percentiles=(0, 100))(case_of(files))["image"][0, ..., 0].numpy()
    expected = np.asarray(Image.fromarray(film().astype(np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR))
    low, high = expected.min(), expected.max()
    np.testing.assert_allclose(prepared[::-1, ::-1].T, (expected - low) / (high - low), atol=2e-3)


@pytest.mark.parametrize("size", [(24, 30), (90, 80)])
def test_a_constant_heatmap_stays_constant(files, size):
    chain = radiograph(1, size)
    prepared = chain(case_of(files))
    back = heatmap_to_scan(chain)({**prepared, "pred": torch.full((1, size[1], size[0], 1), 0.37)})["pred"]
    np.testing.assert_allclose(back, 0.37, rtol=1e-6)
    assert np.isfinite(back).all()


def test_pixels_that_no_patch_covers_are_filled_before_a_film_is_resized_back(files):
    chain = radiograph(1, (24, 30))
    prepared = chain(case_of(files))
    heatmap = torch.full((1, 30, 24, 1), torch.nan)
    heatmap[:, 3:27, 2:20] = 2.0
    assert torch.isfinite(FillOutsided()({**prepared, "pred": heatmap})["pred"]).all()
    np.testing.assert_allclose(heatmap_to_scan(chain)({**prepared, "pred": heatmap})["pred"], 2.0)


def test_region_and_label_follow_the_film(files):
    lungs = np.zeros((ROWS, COLUMNS), np.uint8)
    lungs[4:30, 30:58] = 255
    lesion = np.zeros((ROWS, COLUMNS), np.uint8)
    lesion[AT] = 255  # a single pixel of many
    Image.fromarray(lungs).save(files / "lungs.png")
    Image.fromarray(lesion).save(files / "lesion.png")
    chain = radiograph(1, (12, 20), region="given")
    prepared = chain(case_of(files, region=str(files / "lungs.png"), label=str(files / "lesion.png")))
    drawn = np.argwhere(prepared["label"][0, ..., 0].numpy())
    np.testing.assert_array_equal(drawn, [[19 - AT[1] // 3, 11 - AT[0] // 3]])
    assert (prepared["image"][prepared["region"] == 0] == 0).all()
    back = heatmap_to_scan(chain)({**prepared, "pred": prepared["image"].as_tensor()})["pred"]
    np.testing.assert_array_equal(np.isfinite(as_seen(back, "a.png")), lungs > 0)
    prepared = radiograph(1, (12, 20))(case_of(files, region=str(files / "lungs.png")))
    assert prepared["region"].all()  # of "all", a mask changes nothing


@pytest.mark.parametrize("name", ["a.png", "a.nii.gz"])
def test_a_kept_film_is_the_same_and_a_number_is_no_mask(files, name):
    case = case_of(files, name, label=1)
    plain = radiograph(1, (24, 30))(case)
    for _ in range(2):
        kept = radiograph(1, (24, 30), cache_dir=files / "cache")(case)
        assert kept["image_label"] == plain["image_label"] == 1
        assert "label" not in kept and "label" not in plain
        np.testing.assert_array_equal(kept["image"], plain["image"])
        chain = radiograph(1, (24, 30), cache_dir=files / "cache")
        back = heatmap_to_scan(chain)({**kept, "pred": kept["image"].as_tensor()})["pred"]
        assert back.shape == (1, COLUMNS, ROWS, 1)
    assert len(list((files / "cache").iterdir())) == 1


@pytest.mark.parametrize("size", [(3,), (0, 4), (2.5, 3), 7, "big"])
def test_a_size_that_is_none_is_named(size):
    with pytest.raises(ConfigError, match="give height and width in pixels"):
        radiograph(size=size)


def test_a_volume_is_no_film(tmp_path):
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.float32), np.eye(4)), tmp_path / "head.nii")
    with pytest.raises(RuntimeError) as error:  # MONAI's, with ours as its cause
        radiograph()({"image": [str(tmp_path / "head.nii")]})
    assert isinstance(error.value.__cause__, InputError)
    assert "head.nii is a volume of 4 x 5 x 6 voxels, but this model takes images" in str(error.value.__cause__)


def test_the_files_of_a_picture_lie_over_it(files):
    chain = radiograph(1, (24, 30))
    prepared = chain(case_of(files))
    heatmap = prepared["image"].as_tensor()
    heatmap_to_scan(chain, files / "out", lambda scores: 100 * np.clip(scores, 0, 1))({**prepared, "pred": heatmap})
    written = nib.load(heatmap_path(files / "out", "s1"))
    assert written.shape == (COLUMNS, ROWS, 1) and written.get_data_dtype() == np.float32
    np.testing.assert_array_equal(written.affine, np.diag([-1, -1, 1, 1]))
    shown = Image.open(display_path(files / "out", "s1", files / "a.png"))
    assert shown.size == (COLUMNS, ROWS) and shown.mode == "L"
    scores = as_seen(written.get_fdata()[None], "a.png")
    np.testing.assert_allclose(np.asarray(shown), 255 * np.clip(scores, 0, 1), atol=0.51)
    assert sorted(path.name for path in (files / "out" / "s1").iterdir()) == ["s1_display.png", "s1_heatmap.nii.gz"]


def test_without_a_calibration_a_display_runs_from_the_lowest_score_to_the_highest(files):
    chain = radiograph(1)
    prepared = chain(case_of(files))
    pred = functional.pad(torch.tensor([3.0, 5.0])[None, :, None, None], (0, 0, 0, ROWS - 1, 0, COLUMNS - 2), value=4.0)
    heatmap_to_scan(chain, files / "out")({**prepared, "pred": MetaTensor(pred)})
    found = np.unique(np.asarray(Image.open(files / "out/s1/s1_display.png")))
    np.testing.assert_array_equal(found, [0, 128, 255])


@pytest.mark.parametrize("name", ["a.dcm", "a.nii.gz", "flat.nii"])
def test_the_files_of_other_films_are_nifti(files, name):
    header = nib.Nifti1Image(film().T, np.eye(4)).header  # some tools write a third axis of no size
    header["sform_code"], header["qform_code"] = 1, 0
    header["srow_x"], header["srow_y"], header["srow_z"] = (-0.2, 0, 0, 0), (0, -0.3, 0, 0), (0, 0, 0, 0)
    header.set_data_offset(352)
    (files / "flat.nii").write_bytes(header.binaryblock + bytes(4) + film().T.tobytes(order="F"))
    chain = radiograph(1, (24, 30))
    prepared = chain(case_of(files, name))
    heatmap_to_scan(chain, files / "out")({**prepared, "pred": prepared["image"].as_tensor()})
    for kind in ("heatmap", "display"):
        written = nib.load(heatmap_path(files / "out", "s1", kind))
        assert written.shape == (COLUMNS, ROWS, 1)
        np.testing.assert_allclose(np.diag(written.affine), [-0.2, -0.3, 1, 1], atol=1e-6)
    assert HeatmapFolder(files / "out")(case_of(files, name)).shape == (COLUMNS, ROWS, 1)


def test_the_region_of_a_film_is_not_called_a_brain(files, recwarn):
    chain = radiograph(1, region="given")
    with pytest.raises(RuntimeError) as error:
        chain(case_of(files))
    assert "a.png has no region mask: name one under 'region', or choose another region ('all'" in str(
        error.value.__cause__
    )
    Image.fromarray(np.full((ROWS, COLUMNS), 255, np.uint8)).save(files / "everything.png")
    chain(case_of(files, region=str(files / "everything.png")))
    assert not [warning for warning in recwarn if "mask covers" in str(warning.message)]
