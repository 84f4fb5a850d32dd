"""Regions with known answers: size, place, side, share of normals, on grids that scanners write."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medanomaly.errors import InputError
from medanomaly.evaluation import Calibration, find_regions
from medanomaly.evaluation.regions import COLUMNS
from tests.report.planted import GRIDS, MARKER, RADIUS, centred, normals, planted_heatmap

AXIS_ALIGNED = np.array([[-2.0, 0, 0, 19], [0, 1, 0, -30], [0, 0, 3, 5], [0, 0, 0, 1]])  # LAS; r from -19 to 19


def flat(shape: tuple[int, int, int] = (20, 20, 12)) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_marker_is_found_where_it_was_planted(grid: str) -> None:
    affine = centred(GRIDS[grid])
    heatmap = planted_heatmap(affine)
    (row,) = find_regions(heatmap, affine, normals(), fpr=0.21).table.to_dict("records")
    half = np.abs(affine[:3, :3]).sum(axis=1) / 2
    peak, centre = (np.array([row[f"{kind}_{axis}"] for axis in "ras"]) for kind in ("peak", "centroid"))
    assert (np.abs(peak - MARKER) <= half + 1e-9).all(), "the voxel that holds the marker"
    assert np.abs(centre - MARKER).max() < 0.7
    assert (row["centroid_l"], row["centroid_p"]) == (-row["centroid_r"], -row["centroid_a"])
    assert row["side"] == "left"
    voxel = tuple(row[f"peak_{axis}"] for axis in "ijk")
    assert voxel == np.unravel_index(np.nanargmax(heatmap), heatmap.shape)
    np.testing.assert_allclose(affine[:3, :3] @ voxel + affine[:3, 3], peak)
    assert row["volume_ml"] == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.1)
    low, high = (np.array([row[f"box_{end}_{axis}"] for axis in "ras"]) for end in ("min", "max"))
    assert (np.abs(low - (MARKER - RADIUS)) < 2 * half).all() and (np.abs(high - (MARKER + RADIUS)) < 2 * half).all()


def test_a_cuboid_has_its_volume_centre_and_box() -> None:
    heatmap = flat()
    heatmap[2:6, 4:7, 3:5], heatmap[3, 5, 4] = 4, 5
    found = find_regions(heatmap, AXIS_ALIGNED, normals(), fpr=0.01)
    (row,) = found.table.to_dict("records")
    assert tuple(found.table.columns) == COLUMNS
    assert row["voxels"] == 24 and row["volume_ml"] == pytest.approx(24 * 6 / 1000)
    assert row["peak"] == 5 and row["mean"] == pytest.approx((23 * 4 + 5) / 24)
    assert [row[f"centroid_{axis}"] for axis in "raslp"] == pytest.approx([12, -25, 15.5, -12, 25])
    assert [row[f"peak_{axis}"] for axis in "rasijk"] == pytest.approx([13, -25, 17, 3, 5, 4])
    assert [row[f"box_min_{axis}"] for axis in "ras"] == pytest.approx([8, -26.5, 12.5])
    assert [row[f"box_max_{axis}"] for axis in "ras"] == pytest.approx([16, -23.5, 18.5])
    assert row["side"] == "right" and row["sign"] == "" and row["normals_above"] == 0
    assert found.threshold == pytest.approx(2.475) and found.middle_r == pytest.approx(0)
    np.testing.assert_array_equal(found.labels, heatmap > 2.475)


def test_numbers_follow_the_peaks_and_the_labels_are_those_of_scipy() -> None:
    heatmap = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(30, 30, 20)), 1.2)
    heatmap = (heatmap / heatmap.std()).astype(np.float32)
    heatmap[:4] = np.nan
    calibration = Calibration.fit([heatmap[np.isfinite(heatmap)]], "itself")
    found = find_regions(heatmap, np.diag([1.0, 1, 1, 1]), calibration, fpr=0.05, min_ml=0.01)
    assert len(found.table) > 5 and (np.diff(found.table["peak"]) <= 0).all()
    expected, count = ndimage.label(heatmap > found.threshold, np.ones((3, 3, 3)))
    sizes = ndimage.sum_labels(expected > 0, expected, range(1, count + 1))
    kept = expected * np.isin(expected, 1 + np.flatnonzero(sizes >= 10))
    np.testing.assert_array_equal(found.labels > 0, kept > 0)
    for row in found.table.to_dict("records"):
        own = found.labels == row["region"]
        assert own.sum() == row["voxels"] and len(np.unique(expected[own])) == 1
        assert heatmap[own].max() == np.float32(row["peak"]) == heatmap[tuple(row[f"peak_{axis}"] for axis in "ijk")]
        np.testing.assert_allclose([row[f"centroid_{a}"] for a in "ras"], np.argwhere(own).mean(axis=0))


@pytest.mark.parametrize(("fpr", "above"), [(0.21, [0.2, 0.16]), (0.17, [0.16]), (0.15, [])])
def test_a_rate_chooses_the_threshold_and_normals_say_how_rare_a_peak_is(fpr: float, above: list[float]) -> None:
    heatmap = flat()
    heatmap[3, 3, 3], heatmap[9, 9, 9] = 2.0, 2.1
    table = find_regions(heatmap, np.eye(4), normals(), fpr=fpr, min_ml=0).table
    assert sorted(table["normals_above"], reverse=True) == pytest.approx(above, abs=1e-4)


def test_the_smallest_size_counts_in_ml() -> None:
    heatmap = flat()
    heatmap[2:4, 2, 2], heatmap[9:12, 9, 9] = 4, 3  # 2 and 3 voxels of 6 mm3
    for min_ml, sizes in ((0, [2, 3]), (0.012, [2, 3]), (0.0121, [3]), (0.019, [])):
        assert find_regions(heatmap, AXIS_ALIGNED, normals(), min_ml=min_ml).table["voxels"].tolist() == sizes


def test_sides_are_told_from_the_middle_of_what_was_scored() -> None:
    heatmap = flat()
    heatmap[:6] = np.nan  # r 9 to 19: of what is scored, r runs from -19 to 7
    for i in (7, 11, 17):  # r 5, -3, -15
        heatmap[i, 3, 3] = 10 - i / 10
    found = find_regions(heatmap, AXIS_ALIGNED, normals(), min_ml=0)
    assert found.middle_r == pytest.approx(-6)
    assert found.table["side"].tolist() == ["right", "midline", "left"]


@pytest.mark.parametrize(("sign", "word"), [("bright", "brighter"), ("dark", "darker"), ("both", "")])
def test_a_sign_is_named_where_the_scores_have_one(sign: str, word: str) -> None:
    heatmap = flat()
    heatmap[5, 5, 5] = 9
    assert find_regions(heatmap, np.eye(4), normals(sign=sign), min_ml=0).table["sign"].tolist() == [word]


def test_an_image_of_one_slice_has_sizes_in_pixels_and_no_side() -> None:
    heatmap = flat((20, 30, 1))
    heatmap[2:10, 2:12] = 4
    heatmap[15, 15] = 5
    (row,) = find_regions(heatmap, np.diag([0.1, 0.1, 1, 1]), normals()).table.to_dict("records")
    assert row["voxels"] == 80 and np.isnan(row["volume_ml"]) and row["side"] == ""


def test_where_nothing_is_above_or_nothing_was_scored_the_table_is_empty() -> None:
    for heatmap in (flat(), np.full((4, 5, 6), np.nan, np.float32)):
        found = find_regions(heatmap, np.eye(4), normals())
        assert len(found.table) == 0 and tuple(found.table.columns) == COLUMNS and not found.labels.any()


@pytest.mark.parametrize(("fpr", "min_ml"), [(0, 0.05), (1, 0.05), (float("nan"), 0.05), (0.01, -1), (0.01, np.inf)])
def test_numbers_that_cannot_be_are_refused(fpr: float, min_ml: float) -> None:
    with pytest.raises(InputError, match=r"false-positive rate|smallest region"):
        find_regions(flat(), np.eye(4), normals(), fpr=fpr, min_ml=min_ml)
