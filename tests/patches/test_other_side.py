"""Scores less those of the other side: symmetric anatomy goes, what one side alone has stays, signs are joined."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from medanomaly.errors import ConfigError
from medanomaly.patches.other_side import RelativeToOtherSide, relative_to_other_side

SHAPE = (40, 30, 20)


def brain():
    """Not in the middle of the volume: from 6 to 35 along the first axis."""
    grid = np.indices(SHAPE).astype(float)
    centre, half = (20.5, 14.5, 9.5), (15.0, 13.0, 9.0)
    return sum(((g - c) / h) ** 2 for g, c, h in zip(grid, centre, half, strict=True)) < 1


def symmetric(mask, seed=0):
    anatomy = 5 * ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 3)
    both_sides = anatomy.copy()
    both_sides[1:] += anatomy[1:][::-1]  # about 20.5, as the brain
    return np.where(mask, both_sides, np.nan)


def test_what_both_sides_show_goes_and_what_one_side_shows_stays():
    mask = brain()
    heatmap = symmetric(mask)
    lesion = np.zeros(SHAPE, bool)
    lesion[11:14, 12:15, 8:11] = True
    other = np.flip(np.roll(lesion, -1, axis=0), axis=0)
    before = np.where(lesion, heatmap + 1, heatmap)
    after = relative_to_other_side(before, mask, 2.0)
    assert np.array_equal(np.isnan(after), ~mask)
    assert np.nanstd(relative_to_other_side(heatmap, mask, 1.0)) < 0.4 * np.nanstd(heatmap)
    assert (after[lesion] - after[other]).min() > 1, "the other side of a lesion is below what is usual"
    rest = after[mask & ~lesion]
    assert after[lesion].mean() > np.quantile(rest, 0.999)


def test_left_and_right_are_treated_alike_and_the_mean_is_by_hand():
    mask = brain()
    heatmap = np.where(mask, np.random.default_rng(1).normal(size=SHAPE), np.nan)
    after = relative_to_other_side(heatmap, mask, 1.5)
    mirrored = relative_to_other_side(heatmap[::-1], mask[::-1], 1.5)
    np.testing.assert_allclose(mirrored[::-1], after, atol=1e-5)
    x, y, z = 10, 14, 9
    distance = np.square(np.indices(SHAPE) - np.array([41 - x, y, z])[:, None, None, None])
    near = np.abs(np.indices(SHAPE) - np.array([41 - x, y, z])[:, None, None, None]).max(axis=0) <= 6
    weight = np.exp(-0.5 * distance.sum(axis=0) / 1.5**2) * near * mask
    expected = heatmap[x, y, z] - np.nansum(weight * heatmap) / weight.sum()
    assert after[x, y, z] == pytest.approx(expected, abs=1e-4)


def test_where_the_other_side_has_no_score_the_mean_is_taken_off():
    mask = np.zeros(SHAPE, bool)
    mask[4:14] = mask[34:36, :5, :5] = True
    heatmap = np.where(mask, 3.0, np.nan)
    heatmap[5, 20, 10] = 9.0
    after = relative_to_other_side(heatmap, mask, 1.0)
    assert after[5, 20, 10] == pytest.approx(9 - heatmap[mask].mean(), abs=1e-5)
    assert np.isnan(relative_to_other_side(np.full(SHAPE, np.nan), mask, 1.0)).all()


class Signed(torch.nn.Module):
    signed, sign = True, "both"


def test_both_signs_are_each_compared_with_their_own_other_side():
    mask, maps = brain(), {sign: symmetric(brain(), seed) for seed, sign in enumerate(("bright", "dark"))}
    maps["dark"][12, 14, 9] += 5
    network = Signed()

    def inferer(volume, network, mask=None, signs=None):
        found = [maps[sign] for sign in signs or [network.sign]]
        return torch.from_numpy(np.stack(found).astype(np.float32))[None]

    volume, region = torch.ones(1, 1, *SHAPE), torch.from_numpy(mask)[None, None]
    found = RelativeToOtherSide(inferer, 2.0)(volume, network, mask=region)[0, 0].numpy()
    expected = np.maximum(*(relative_to_other_side(heatmap, mask, 2.0) for heatmap in maps.values()))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    network.sign = "bright"
    found = RelativeToOtherSide(inferer, 2.0)(volume, network, mask=region)[0, 0].numpy()
    np.testing.assert_allclose(found, relative_to_other_side(maps["bright"], mask, 2.0), atol=1e-5)


def test_none_leaves_scores_alone_and_a_gaussian_without_width_is_refused():
    def inferer(volume, network, mask=None):
        return volume

    volume = torch.ones(1, 1, *SHAPE)
    assert RelativeToOtherSide(inferer, None)(volume, Signed()) is volume
    with pytest.raises(ConfigError, match="other_side is 0"):
        RelativeToOtherSide(inferer, 0.0)
