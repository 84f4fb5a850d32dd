"""Each step against a loop over voxels or thresholds, and the inferer that takes them against the one without."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from scipy import ndimage

from medanomaly.errors import ConfigError, InputError
from medanomaly.patches import (
    EdgeWeight,
    Median,
    MinimumComponent,
    PatchScoreInferer,
    PatchSpec,
    Postprocessed,
    postprocessing,
)

SHAPE = (9, 8, 7)
SPACINGS = [(1.0, 1.0, 1.0), (1.0, 0.5, 3.0)]


def made_heatmap(seed=0, shape=SHAPE, levels=None, share=0.7, missing=0.1):
    """Scores of at least 0, a ragged brain that touches the border, and NaN inside the brain and outside it."""
    rng = np.random.default_rng(seed)
    heatmap = np.abs(ndimage.gaussian_filter(rng.normal(0, 1, shape), 0.5)).astype(np.float32)
    if levels:
        heatmap = np.round(heatmap * levels) / np.float32(levels)
    heatmap[rng.random(shape) < missing] = np.nan
    return heatmap, rng.random(shape) < share


def median_of_nearest(heatmap, brain, size):
    """Least and most median of a cube of voxels, each the nearest scored brain voxel's, whichever of equally near."""
    known = np.argwhere(brain & np.isfinite(heatmap))
    least, most = np.empty(heatmap.shape), np.empty(heatmap.shape)
    for voxel in np.ndindex(heatmap.shape):
        squares = ((known - np.array(voxel)) ** 2).sum(axis=1)
        nearest = heatmap[tuple(known[squares == squares.min()].T)]
        least[voxel], most[voxel] = nearest.min(), nearest.max()
    cubes = (np.lib.stride_tricks.sliding_window_view(np.pad(v, size // 2, "edge"), (size,) * 3) for v in (least, most))
    return (np.median(cube, axis=(-1, -2, -3)) for cube in cubes)


def opened_by_thresholds(heatmap, brain, least_mm3, voxel_mm3):
    """Per voxel, the highest level at which it lies in a 26-connected component of at least ``least_mm3``."""
    scored = brain & np.isfinite(heatmap)
    result = np.full(heatmap.shape, heatmap[scored].min())
    for level in np.unique(heatmap[scored]):
        labels, _ = ndimage.label(scored & (heatmap >= level), np.ones((3, 3, 3)))
        large = np.bincount(labels.ravel()) * voxel_mm3 >= least_mm3 - 1e-6
        result[(labels > 0) & large[labels]] = level
    return np.where(np.isnan(heatmap), np.nan, result)


def depth_in(brain, spacing):
    """Distance in mm to the nearest voxel that is not brain, inside the volume or beyond it."""
    padded = np.pad(brain, 1)
    outside = np.argwhere(~padded) * spacing
    depth = np.zeros(padded.shape)
    for voxel in np.argwhere(padded):
        depth[tuple(voxel)] = np.sqrt(((outside - voxel * np.array(spacing)) ** 2).sum(axis=1).min())
    return depth[1:-1, 1:-1, 1:-1]


def assert_same(found, expected):
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("size", [1, 3, 5])
def test_median_is_that_of_the_nearest_scored_brain_voxels(size):
    heatmap, brain = made_heatmap(share=0.99, missing=0.01)
    least, most = median_of_nearest(heatmap, brain, size)
    scored = np.isfinite(heatmap)
    assert (least == most)[scored].mean() > 0.2  # no choice
    found = Median(size)(heatmap, brain)
    assert (found >= least)[scored].all() and (found <= most)[scored].all()
    np.testing.assert_array_equal(np.isnan(found), ~scored)


def test_median_does_not_see_what_lies_outside_the_brain():
    heatmap, brain = made_heatmap()
    other = np.where(brain | np.isnan(heatmap), heatmap, 1e6).astype(np.float32)
    np.testing.assert_array_equal(Median()(heatmap, brain), Median()(other, brain))


@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("width", [0.7, 3.0])
def test_edge_weight_grows_with_the_distance_to_the_edge(width, spacing):
    heatmap, _ = made_heatmap()
    brain = np.zeros(SHAPE, bool)
    brain[1:8, :7, 1:] = True  # touches the border, beyond which there is no brain
    brain[4, 4, 3] = False
    expected = heatmap * np.minimum(depth_in(brain, spacing) / width, 1)
    np.testing.assert_allclose(EdgeWeight(width, spacing)(heatmap, brain), expected, rtol=1e-6)


def test_edge_weight_in_a_box_and_a_ball():
    box = np.zeros((9, 11, 13), bool)
    box[1:8, 1:10, 1:12] = True
    weighted = EdgeWeight(4.0, (2.0, 1.0, 0.5))(np.ones(box.shape, np.float32), box)
    # voxel centres: 3 x 0.5 mm from the lowest outside in the last axis, 5 x 1 mm and 4 x 2 mm in the others
    assert weighted[4, 5, 3] == pytest.approx(1.5 / 4) and weighted[1, 5, 6] == pytest.approx(2 / 4)
    assert weighted[4, 5, 6] == pytest.approx(3 / 4) and weighted[~box].max() == 0
    grid = np.indices((31, 31, 31)) - 15
    radius = np.sqrt((grid**2).sum(axis=0))
    weighted = EdgeWeight(6.0)(np.ones(radius.shape, np.float32), radius < 13)
    assert np.abs(weighted - np.clip((13 - radius) / 6, 0, 1)).max() < 1 / 6  # within a voxel
    assert (weighted[radius < 7] == 1).all()


@pytest.mark.parametrize("levels", [None, 2, 8])
@pytest.mark.parametrize("spacing", SPACINGS, ids=str)
@pytest.mark.parametrize("size", [1.0, 3.0, 10.0, 40.0, 1e4])
def test_minimum_component_is_thresholding_at_every_level(size, spacing, levels):
    for seed, share in enumerate((0.2, 0.5, 0.9)):  # of brain: many small parts to one large
        heatmap, brain = made_heatmap(seed, levels=levels, share=share)
        expected = opened_by_thresholds(heatmap, brain, size, np.prod(spacing))
        if np.prod(spacing) >= size:  # nothing is smaller than a voxel
            expected = heatmap
        assert_same(MinimumComponent(size, spacing)(heatmap, brain), expected)


def test_large_components_are_the_same_whichever_way_they_are_found(monkeypatch):
    heatmap, brain = made_heatmap(5)
    heatmap -= 1
    grown = MinimumComponent(50.0)(heatmap, brain)
    monkeypatch.setattr(postprocessing, "MOST_GROWN", 49)
    assert_same(MinimumComponent(50.0)(heatmap, brain), grown)


def test_minimum_component_cuts_a_small_peak_and_leaves_a_large_one():
    heatmap = np.zeros((20, 20, 20), np.float32)
    heatmap[2:4, 2:4, 2:4] = 5  # 8 voxels,
    heatmap[1:5, 1:5, 1:5] += 1  # on a shoulder of 64
    heatmap[10:13, 10:13, 10:13] = 0.1 + np.float32(1 / 3)  # 27 voxels
    heatmap[16, 16, 16] = 9
    brain = np.ones(heatmap.shape, bool)
    opened = MinimumComponent(10.0)(heatmap, brain)
    assert (opened[1:5, 1:5, 1:5] == 1).all() and opened[16, 16, 16] == 0
    assert_same(opened[10:13, 10:13, 10:13], heatmap[10:13, 10:13, 10:13])
    assert_same(MinimumComponent(8.0)(heatmap, brain)[:10], heatmap[:10])  # 8 mm3 are not smaller than 8 mm3
    assert_same(MinimumComponent(10.0, (1, 1, 2))(heatmap, brain)[:10], heatmap[:10])  # 8 voxels of 2 mm3


@pytest.mark.parametrize("step", [Median(), EdgeWeight(), MinimumComponent()], ids=repr)
@pytest.mark.parametrize("case", ["usual", "no brain", "no score", "one value"])
def test_shape_and_missing_scores_stay(step, case):
    heatmap, brain = made_heatmap(3)
    if case == "no brain":
        brain[:] = False
    if case == "no score":
        heatmap[:] = np.nan
    if case == "one value":
        heatmap[np.isfinite(heatmap)] = 2
    before = heatmap.copy()
    stepped = step(heatmap, brain)
    assert stepped.shape == SHAPE and stepped.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(stepped), np.isnan(heatmap))
    np.testing.assert_array_equal(heatmap, before)  # not in place


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Median(4), "size is 4, but an odd number"),
        (lambda: Median(-1), "size is -1"),
        (lambda: EdgeWeight(0), "0 mm wide"),
        (lambda: EdgeWeight(float("nan")), "nan mm wide"),
        (lambda: EdgeWeight(3, (1, 1)), r"spacing is \(1, 1\), but three voxel sizes"),
        (lambda: MinimumComponent(-2), "-2 mm3"),
        (lambda: MinimumComponent(10, (1, 0, 1)), r"spacing is \(1, 0, 1\)"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_edge_weight_refuses_scores_below_0_in_the_brain_only():
    heatmap, brain = made_heatmap()
    voxel = tuple(np.argwhere(brain & np.isfinite(heatmap))[5])
    outside = np.where(brain, heatmap, -1).astype(np.float32)
    assert np.nanmin(EdgeWeight()(outside, brain)) == 0
    heatmap[voxel] = -0.25
    with pytest.raises(InputError, match=r"lowest score in the brain is -0\.25.*residual or fusion scores"):
        EdgeWeight()(heatmap, brain)


@dataclass(frozen=True)
class Note:
    """Adds ``number``, and notes the brains that it was shown."""

    number: float
    brains: list

    def __call__(self, heatmap, brain):
        self.brains.append(brain)
        return np.nan_to_num(heatmap) + self.number


def mean_of_patch(patches):
    return patches.mean(dim=(1, 2, 3))[:, None]


def made_volumes():
    volumes = torch.rand((2, 2, 24, 20, 5), generator=torch.Generator().manual_seed(0)) + 0.1
    volumes[:, :, 12:] = 0
    volumes[1, :, :, 12:] = 0
    volumes[:, 1, 6:] = 0
    return volumes


def test_without_steps_it_is_the_inferer():
    volumes, plain = made_volumes(), PatchScoreInferer(PatchSpec(8, stride=4))
    exclude = torch.zeros(2, 1, 24, 20, 5)
    exclude[:, :, 3, 3, 2] = 1
    for arguments in ({}, {"mask": volumes[:, :1] > 0.5}, {"exclude": exclude}):
        found = Postprocessed(plain, [])(volumes, mean_of_patch, **arguments)
        assert found.dtype == torch.float32
        assert torch.equal(found.nan_to_num(-9), plain(volumes, mean_of_patch, **arguments).nan_to_num(-9))
        assert found.isnan().any()


def test_each_heatmap_takes_all_steps_in_order_with_its_own_brain():
    volumes, plain, brains = made_volumes(), PatchScoreInferer(PatchSpec(8, stride=4)), []
    steps = [Note(1, brains), lambda heatmap, brain: 2 * heatmap]
    found = Postprocessed(plain, steps)(volumes, mean_of_patch)
    assert torch.allclose(found, 2 * (plain(volumes, mean_of_patch) + 1), equal_nan=True)  # NaN stays
    for brain, volume in zip(brains, volumes, strict=True):
        np.testing.assert_array_equal(brain, (volume != 0).any(dim=0).numpy())
    mask = MetaTensor((torch.rand(2, 1, 24, 20, 5) < 0.3).float())
    Postprocessed(plain, steps)(MetaTensor(volumes), mean_of_patch, mask=mask)
    np.testing.assert_array_equal(np.stack(brains[2:]), mask[:, 0].numpy() > 0)


def test_the_result_is_the_steps_of_the_plain_heatmap():
    volumes, plain = made_volumes(), PatchScoreInferer(PatchSpec(8, stride=4))
    mask = (volumes != 0).any(dim=1, keepdim=True)
    steps = [Median(), EdgeWeight(2.0), MinimumComponent(20.0)]
    found = Postprocessed(plain, steps)(volumes, mean_of_patch)
    for heatmap, expected, brain in zip(found, plain(volumes, mean_of_patch), mask, strict=True):
        expected, brain = expected[0].numpy(), brain[0].numpy()
        for step in steps:
            expected = step(expected, brain)
        np.testing.assert_allclose(heatmap[0].numpy(), expected, rtol=1e-6)


def test_what_is_excluded_and_further_arguments_reach_the_inferer():
    seen = {}

    def inferer(inputs, network, *args, **kwargs):
        seen.update(kwargs, network=network, args=args)
        return inputs[:, :1]

    volume, exclude = torch.ones(1, 1, *SHAPE), torch.zeros(1, 1, *SHAPE)
    Postprocessed(inferer, [Median()])(volume, "network", 3, exclude=exclude, shift=2)
    assert seen["exclude"] is exclude and seen["mask"] is None
    assert seen["network"] == "network" and seen["args"] == (3,) and seen["shift"] == 2


def test_names_say_the_steps_and_their_settings():
    steps = [Median(5), MinimumComponent(spacing=(1, 1, 2))]
    assert Postprocessed(PatchScoreInferer(), steps).names == [
        "Median(size=5)",
        "MinimumComponent(size_mm3=10.0, spacing=(1, 1, 2))",
    ]


def test_a_bundle_can_name_the_steps():
    place = "medanomaly.patches."
    parser = ConfigParser(
        {
            "inferer": {
                "_target_": f"{place}Postprocessed",
                "inferer": {
                    "_target_": f"{place}PatchScoreInferer",
                    "spec": {"_target_": "medanomaly.patches.PatchSpec", "patch_size": 8},
                },
                "steps": [{"_target_": f"{place}EdgeWeight", "spacing": [1, 1, 2]}, {"_target_": f"{place}Median"}],
            }
        }
    )
    heatmap = parser.get_parsed_content("inferer")(made_volumes(), mean_of_patch)
    assert heatmap.shape == (2, 1, 24, 20, 5)


def test_a_step_that_leaves_the_grid_is_refused():
    with pytest.raises(ConfigError, match=r"shape \(12, 20, 5\), but a step keeps the grid \(24, 20, 5\)"):
        Postprocessed(PatchScoreInferer(PatchSpec(8, stride=4)), [lambda h, _: h[::2]])(made_volumes(), mean_of_patch)
