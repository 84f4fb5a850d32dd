"""Patches as series, and windows of them: there and back."""

from __future__ import annotations

import pytest
import torch

from medanomaly.networks.windows import as_patches, as_series, cut_windows, join_windows, window_starts

CASES = [(16, 16, 5), (32, 30, 10), (16, 5, 5), (16, 5, 2), (7, 1, 1)]


@pytest.mark.parametrize("shape", [(2, 1, 8, 8), (2, 3, 8, 8), (2, 3, 4, 4, 4)])
def test_a_step_is_a_row_and_the_way_back_gives_the_patches(shape):
    patches = torch.rand(shape)
    series = as_series(patches)
    assert torch.equal(series[1, 2], patches[1, :, 2].flatten())
    assert torch.equal(as_patches(series, shape[1], len(shape) - 2), patches)


@pytest.mark.parametrize(("steps", "length", "apart"), CASES)
def test_windows_cover_every_step_and_lie_in_the_series(steps, length, apart):
    starts = window_starts(steps, length, apart)
    assert {step for start in starts for step in range(start, start + length)} == set(range(steps))
    assert starts == sorted(set(starts))
    series = torch.rand(3, steps, 2)
    windows = cut_windows(series, length, starts)
    assert windows.shape == (3 * len(starts), length, 2)
    assert torch.equal(windows[len(starts)], series[1, starts[0] : starts[0] + length])


@pytest.mark.parametrize(("steps", "length", "apart"), CASES)
@pytest.mark.parametrize("value", [1.0, 0.7, -2.3])
def test_of_a_constant_the_mean_of_windows_is_that_constant(steps, length, apart, value):
    starts = window_starts(steps, length, apart)
    constant = torch.full((2, steps, 3), value)
    assert torch.equal(join_windows(cut_windows(constant, length, starts), steps, starts), constant)


def test_where_windows_differ_a_step_has_their_mean():
    windows = torch.stack([torch.zeros(4, 1), torch.ones(4, 1)])  # steps 0 to 3, and 2 to 5
    joined = join_windows(windows, 6, [0, 2])
    assert joined.flatten().tolist() == [0, 0, 0.5, 0.5, 1, 1]
