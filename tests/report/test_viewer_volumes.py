"""What the viewer of a report is given: values and places are those of the files, as far as they are kept."""

from __future__ import annotations

import base64
import gzip
import io
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medanomaly.data.films import AS_SEEN
from medanomaly.evaluation import Calibration
from medanomaly.report import viewer_volumes as module
from medanomaly.report.films import film_layers
from medanomaly.report.viewer_volumes import rarity_of, viewer_volumes
from tests.data.made_dicom import oblique_affine

AFFINE = oblique_affine((-2, 3, 1), (2.0, 1.5, 3.0))
SHAPE = (11, 14, 9)


def opened(text: str) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def made(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    scan = rng.normal(500, 80, SHAPE).astype(np.float32)
    rarity = rng.uniform(0, 5, SHAPE).astype(np.float32)
    rarity[:2] = np.nan
    return scan, rarity


def test_rarity_is_the_share_of_normal_voxels_that_score_as_high() -> None:
    normal = np.random.default_rng(0).normal(size=100_000)
    calibration = Calibration.fit([normal], "made")
    scores = np.array([-1.0, 0.0, 1.3, 2.5, 99.0, np.nan], np.float32)
    shares = [(normal >= score).mean() for score in scores[:4]]
    found = rarity_of(scores, calibration)
    assert found[:4] == pytest.approx(-np.log10(shares), abs=0.02)
    assert found[4] == 5 and np.isnan(found[5])


def test_values_and_places_are_kept() -> None:
    scan, rarity = made(np.random.default_rng(0))
    scan[5, 5, 5] = 1500  # far above the rest
    found = viewer_volumes([scan], rarity, AFFINE)
    assert found.factors == (1, 1, 1)
    shown, heat = opened(found.scans[0]), opened(found.rarity)
    for image in (shown, heat):
        assert image.shape == SHAPE
        np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    bulk = np.percentile(scan, 99.9) - np.percentile(scan, 0.1)
    assert np.abs(shown.get_fdata() - scan).max() <= 0.51 * bulk / 1000
    inside = np.isfinite(rarity)
    assert np.abs(heat.get_fdata() - rarity)[inside].max() <= 0.0101
    assert (heat.get_fdata()[~inside] < 0).all()


def test_of_the_scan_s_header_nothing_goes_along() -> None:
    header = opened(viewer_volumes([np.ones(SHAPE)], np.ones(SHAPE), AFFINE).scans[0]).header
    assert bytes(header["descrip"]).strip(b"\0") == bytes(header["db_name"]).strip(b"\0") == b""


def test_a_large_scan_is_shown_on_a_coarser_grid_whose_places_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_VOXELS", 220)
    scan, rarity = made(np.random.default_rng(0))
    rarity[6, 10, 4] = 5
    found = viewer_volumes([scan], np.minimum(rarity, np.where(rarity == 5, 5, 4.9)), AFFINE)
    assert found.factors == (2, 4, 1), "the shortest sides first: 1.5, 2, and 3 mm again"
    heat, shown = opened(found.rarity), opened(found.scans[0])
    (place,) = np.argwhere(heat.get_fdata() > 4.99)
    assert place.tolist() == [3, 2, 4], "a single hot voxel is not lost"
    world = heat.affine @ [*place, 1]
    corners = [AFFINE @ [i, j, 4, 1] for i in (6, 7) for j in (8, 11)]
    np.testing.assert_allclose(world, np.mean(corners, axis=0), atol=1e-4)
    assert shown.get_fdata()[3, 2, 4] == pytest.approx(scan[6:8, 8:12, 4].mean(), abs=1)


def test_what_is_too_much_for_a_page_is_made_less(monkeypatch: pytest.MonkeyPatch) -> None:
    scan, rarity = made(np.random.default_rng(0))
    both = viewer_volumes([scan, scan], rarity, AFFINE)
    most = len(both.scans[0]) + len(both.rarity)
    monkeypatch.setattr(module, "MOST_BYTES", most)
    alone = viewer_volumes([scan, scan], rarity, AFFINE)
    assert (len(alone.scans), alone.factors) == (1, (1, 1, 1))
    monkeypatch.setattr(module, "MOST_BYTES", most - 1)
    coarser = viewer_volumes([scan, scan], rarity, AFFINE)
    assert (len(coarser.scans), coarser.factors) == (1, (1, 2, 1))


def picture(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))


def test_a_film_is_shown_as_it_was_given() -> None:
    film = np.random.default_rng(0).integers(0, 256, (12, 8)).astype(np.float32)  # rows, columns
    film[0, :2] = (0, 255)
    rarity = np.full((12, 8), np.nan, np.float32)
    rarity[3, 5], rarity[4, 5] = 5, 0
    found = film_layers(film.T[..., None], rarity.T[..., None], AS_SEEN)
    np.testing.assert_array_equal(picture(found["scan"]) * found["step"] + found["start"], film)
    heat = picture(found["rarity"])
    assert (heat[3, 5], heat[4, 5], heat[0, 0]) == (255, 1, 0)
    assert found["sides"] == ["R", "L"]
    np.testing.assert_allclose(np.array(found["affine"]) @ [5, 3, 0, 1], (AS_SEEN @ [5, 3, 0, 1])[:3])


@pytest.mark.parametrize("order", [(1, 3, 2), (-3, 1, -2), (2, -3, 1), (-2, -3, -1)], ids=str)
def test_a_slice_of_any_direction_is_seen_as_radiologists_do(order: tuple[int, int, int]) -> None:
    """Of a coronal slice the right is on the left, of a sagittal one the front; what is up is up."""
    shape = tuple(1 if abs(axis) == abs(order[-1]) else size for axis, size in zip(order, (7, 9, 5), strict=True))
    affine = oblique_affine(order)
    scan = np.random.default_rng(0).uniform(size=shape).astype(np.float32)
    found = film_layers(scan, np.ones(shape, np.float32), affine)
    grid, shown = np.array(found["affine"]), picture(found["scan"])
    right, down = grid[:, 0], grid[:, 1]
    assert right[0] < 0 if found["sides"] == ["R", "L"] else right[1] < 0
    assert down[1] < 0 if abs(order[-1]) == 3 else down[2] < 0
    for column, row in ((0, 0), (shown.shape[1] - 1, 0), (2, 3)):
        voxel = np.linalg.solve(affine, [*(grid @ [column, row, 0, 1]), 1])[:3]
        np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-4)
        value = scan[tuple(np.rint(voxel).astype(int))]
        assert shown[row, column] * found["step"] + found["start"] == pytest.approx(value, abs=found["step"])
