"""Nearest rows against brute force, and the core set against the plain greedy way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from medanomaly.networks.nearest import greedy_centres, nearest


def points(n, d=6, seed=0):
    """Clusters of several sizes, some of them far away."""
    generator = torch.Generator().manual_seed(seed)
    middles = 5 * torch.randn(12, d, generator=generator)
    which = torch.randint(12, (n,), generator=generator)
    return middles[which] + torch.rand(n, 1, generator=generator) * torch.randn(n, d, generator=generator)


def greedy_by_hand(rows, first, n):
    """One choice after the other, over all points, in double precision."""
    rows = rows.double().numpy()
    chosen = [first]
    to_nearest = np.linalg.norm(rows - rows[first], axis=1)
    while len(chosen) < n:
        chosen.append(int(to_nearest.argmax()))
        to_nearest = np.minimum(to_nearest, np.linalg.norm(rows - rows[chosen[-1]], axis=1))
    return chosen


@pytest.mark.parametrize("at_once", [2**24, 700])
def test_the_nearest_are_those_that_scikit_learn_finds(at_once):
    bank, rows = points(300), points(50, seed=1)
    distances, places = nearest(rows, bank, 4, at_once)
    expected, where = NearestNeighbors(n_neighbors=4, algorithm="brute").fit(bank.numpy()).kneighbors(rows.numpy())
    np.testing.assert_allclose(distances.numpy(), expected, rtol=1e-5)
    np.testing.assert_array_equal(places.numpy(), where)
    assert distances.dtype == torch.float64


@pytest.mark.parametrize("candidates", [1, 16, 1024])
def test_the_centres_are_those_of_the_plain_greedy_way(candidates):
    rows = points(600)
    torch.manual_seed(3)
    chosen = greedy_centres(rows, 80, candidates, at_once=5000).tolist()
    assert chosen == greedy_by_hand(rows, chosen[0], 80)


def test_fewer_centres_are_the_beginning_of_more_so_the_cover_only_shrinks():
    rows, chosen, radii = points(500), {}, []
    for n in (1, 5, 60, 250, 499, 500):
        torch.manual_seed(0)
        chosen[n] = greedy_centres(rows, n, candidates=32)
        radii.append(float(torch.cdist(rows.double(), rows[chosen[n]].double()).amin(dim=1).max()))
        assert len(chosen[n].unique()) == n
    for fewer, more in zip(chosen.values(), list(chosen.values())[1:], strict=False):
        assert torch.equal(more[: len(fewer)], fewer)
    assert radii == sorted(radii, reverse=True)
    assert radii[-1] < 1e-6 < radii[-2]


def test_other_random_numbers_begin_elsewhere():
    rows, first = points(500), set()
    for seed in range(5):
        torch.manual_seed(seed)
        first.add(int(greedy_centres(rows, 1)[0]))
    assert len(first) > 1


def test_equal_points_are_each_chosen_once():
    rows = torch.cat([torch.ones(40, 3), torch.zeros(1, 3)])
    chosen = greedy_centres(rows, 41, candidates=4)
    assert sorted(chosen.tolist()) == list(range(41))
    assert 40 in chosen[:2].tolist(), "the one that differs is the farthest"
