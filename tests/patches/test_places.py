"""What is normal at a place: known tables, brains of other sizes, and the calls of an inferer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medanomaly.errors import InputError
from medanomaly.patches.places import CELLS, RelativeToPlace, fit_places, places_of, relative, tabulated

SHAPE = (50, 60, 48)


def brain(low=(4, 5, 6), high=(46, 55, 42), shape=SHAPE):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def test_places_run_from_one_end_of_the_brain_to_the_other():
    mask, corner = brain(), np.zeros(SHAPE, bool)
    corner[4, 5, 6] = corner[45, 54, 41] = corner[0, 59, 20] = True  # the last one lies outside
    found = places_of(mask, corner).T.tolist()
    ends = [float(n - 1) for n in CELLS]
    assert [0.0, 0.0, 0.0] in found and ends in found
    assert [0.0, ends[1], pytest.approx((20 - 6) / 35 * ends[2])] in found


def test_what_normal_people_show_at_a_place_is_taken_off_and_scaled():
    rng = np.random.default_rng(0)
    mask, right = brain(), np.zeros(SHAPE, bool)
    right[25:] = True

    def heatmap():
        noise = rng.normal(size=SHAPE)
        return np.where(mask, np.where(right, 5 + 2 * noise, 1 + 0.5 * noise), np.nan)

    table = tabulated((heatmap(), mask) for _ in range(30))
    mean, spread = table
    assert [float(np.median(mean[half])) for half in (slice(8), slice(16, None))] == pytest.approx([1, 5], rel=0.3)
    assert np.median(spread[16:]) == pytest.approx(2, rel=0.2) and np.median(spread[:8]) < 1.3
    new = relative(heatmap(), mask, table)
    assert np.array_equal(np.isnan(new), ~mask)
    for half in (new[8:18], new[32:42]):
        assert abs(float(np.nanmean(half))) < 0.25 and 0.3 < float(np.nanstd(half)) < 1.3


def test_a_smaller_brain_elsewhere_has_its_places_in_its_own_box():
    mask = brain()
    ramp = np.where(mask, places_of(mask, np.ones(SHAPE, bool))[1].reshape(SHAPE), np.nan)
    table = tabulated([(ramp, mask)] * 30)
    small = brain((20, 10, 12), (40, 50, 30), (64, 64, 32))
    there = np.where(small, places_of(small, np.ones(small.shape, bool))[1].reshape(small.shape), np.nan)
    found = relative(there, small, table)
    inner = found[26:34, 20:40, 16:26]
    assert np.abs(inner).max() < 0.7, "the same ramp of its own box: nothing is odd about it"


class Signed(torch.nn.Module):
    signed = True

    def __init__(self):
        super().__init__()
        self.sign = "bright"

    def set_sign(self, sign):
        self.sign = sign


def inferer(volume, network, mask=None, exclude=None):
    factor = {"both": 1.0, "bright": 2.0, "dark": 3.0}[network.sign]
    scores = factor * volume[:, :1]
    left_out = mask <= 0 if exclude is None else (mask <= 0) | (exclude > 0)
    return torch.where(left_out, torch.nan, scores)


def case(seed, lesion=False):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, *SHAPE, generator=generator)
    found = {"image": image, "region": torch.from_numpy(brain())[None].float()}
    if lesion:
        found["label"] = torch.zeros(1, *SHAPE)
        found["label"][:, 20:30, 20:30, 20:30] = 1
        image[:, 20:30, 20:30, 20:30] += 100
    return found


def test_each_sign_has_a_table_of_its_own_and_lesions_are_left_out(tmp_path):
    network, file = Signed(), tmp_path / "models" / "places.npz"
    fit_places([case(0), case(1, lesion=True)], inferer, network, file)
    assert network.sign == "bright", "as it was asked for"
    with np.load(file) as tables:
        assert sorted(tables.files) == ["both", "bright", "dark"]
        assert np.median(tables["dark"][1]) == pytest.approx(3, rel=0.2)
        assert tables["both"][0].max() < 1
    scored = RelativeToPlace(inferer, file)
    new = case(2)
    found = scored(new["image"][None], network, mask=new["region"][None])
    assert found.shape == (1, 1, *SHAPE) and found.dtype == torch.float32
    network.set_sign("dark")
    again = scored(new["image"][None], network, mask=new["region"][None])
    torch.testing.assert_close(found, again, equal_nan=True, rtol=0.01, atol=0.02)


def test_without_a_table_nothing_is_scored(tmp_path):
    new, network = case(0), Signed()
    with pytest.raises(InputError, match="train again with places=true"):
        RelativeToPlace(inferer, tmp_path / "places.npz")(new["image"][None], network, mask=new["region"][None])
    np.savez(tmp_path / "places.npz", both=np.ones((2, *CELLS)))
    with pytest.raises(InputError, match="no table for the sign 'bright', but for both"):
        RelativeToPlace(inferer, tmp_path / "places.npz")(new["image"][None], network, mask=new["region"][None])
    with pytest.raises(InputError, match="no normal voxel"):
        tabulated([])
