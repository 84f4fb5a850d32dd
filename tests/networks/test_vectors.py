"""Patches as vectors: how long they are, and what their numbers are."""

from __future__ import annotations

import pytest
import torch

from medanomaly.errors import ConfigError
from medanomaly.networks.vectors import Vectors


@pytest.mark.parametrize(
    ("shape", "most", "size"),
    [
        ((1, 16, 2), 256, 256),
        ((1, 32, 2), 256, 256),
        ((3, 16, 2), 256, 3 * 9**2),
        ((1, 16, 3), 256, 6**3),
        ((2, 8, 3), 5000, 2 * 8**3),
        ((3, 16, 3), 3, 3),
    ],
)
def test_they_are_as_long_as_they_may_be(shape, most, size):
    channels, side, dims = shape
    vectors = Vectors(*shape, most)
    patches = torch.rand(5, channels, *[side] * dims)
    assert vectors.size == size and vectors(patches).shape == (5, size)
    assert vectors(patches).min() >= patches.min() and vectors(patches).max() <= patches.max()


def test_their_numbers_are_means_of_neighbours():
    patches = torch.rand(4, 2, 8, 8)
    means = patches.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5)).flatten(1)
    torch.testing.assert_close(Vectors(2, 8, 2, 32)(patches), means)
    assert torch.equal(Vectors(2, 8, 2, 128)(patches), patches.flatten(1))


def test_each_channel_needs_a_number():
    with pytest.raises(ConfigError, match="numbers is 2, but a vector needs at least one for each of 3 channels"):
        Vectors(3, 16, 2, 2)
