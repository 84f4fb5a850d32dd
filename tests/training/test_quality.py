"""Distances of made samples to real ones, against other implementations and known answers."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import wasserstein_distance

from medanomaly.errors import InputError
from medanomaly.training import FrechetDistance, SlicedWasserstein


def normal(n, seed, shift=0.0, shape=(3,)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed)) + shift


REAL = normal(1000, 0, shape=(1, 4, 4))


def test_sliced_wasserstein_is_the_mean_of_scipys_distances():
    real, made = normal(50, 0), normal(50, 1, 0.7)
    distance = SlicedWasserstein(real, directions=10, seed=4)
    expected = [
        wasserstein_distance((real @ direction).numpy(), (made @ direction).numpy())
        for direction in distance.directions.T
    ]
    assert torch.allclose(distance.directions.norm(dim=0), torch.ones(10))
    assert distance(made) == pytest.approx(sum(expected) / 10, rel=1e-4)
    assert distance(real.flip(0)) == 0


@pytest.mark.parametrize("n", [100, 3000])
def test_sliced_wasserstein_takes_any_number_of_samples_of_any_shape(n):
    distance = SlicedWasserstein(REAL)
    made, shares = normal(n, 1, shape=(1, 4, 4)), torch.linspace(0, 1, max(n, 1000))
    quantiles = ((x @ distance.directions).quantile(shares, dim=0) for x in (made.flatten(1), REAL.flatten(1)))
    assert distance(made) == pytest.approx(float(next(quantiles).sub(next(quantiles)).abs().mean()), rel=1e-4)
    assert distance(made) < 0.2
    assert distance(normal(n, 1, 3.0, shape=(1, 4, 4))) > 1
    with pytest.raises(InputError, match="distance to 1 real samples"):
        SlicedWasserstein(normal(1, 0))


def test_frechet_distance_of_normal_distributions():
    distance = FrechetDistance(normal(20000, 0))
    assert distance(normal(20000, 0)) == pytest.approx(0, abs=1e-6)
    assert distance(normal(20000, 1, 2.0)) == pytest.approx(12, rel=0.03)  # |shift|^2 of three axes
    assert distance(3 * normal(20000, 1)) == pytest.approx(12, rel=0.03)  # (3 - 1)^2 of three axes
    halved = FrechetDistance(normal(20000, 0), features=lambda x: x[:, :2])
    assert halved(normal(20000, 1, 2.0)) == pytest.approx(8, rel=0.03)
