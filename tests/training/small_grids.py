"""A GAN of points in the plane, its data, and how two grids are compared."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch import nn

from medanomaly.training import GAN, GridSettings, SlicedWasserstein, coevolve


class Mortal(nn.Module):
    """Ends the process that it runs in, once, as soon as the file ``order`` is there; otherwise the identity."""

    def __init__(self, order: Path) -> None:
        super().__init__()
        self.order, self.parent = order, os.getpid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if os.getpid() != self.parent and self.order.exists():
            try:
                self.order.rename(self.order.with_suffix(".done"))  # for one process only
            except FileNotFoundError:
                return x
            os.kill(os.getpid(), signal.SIGKILL)
        return x


def gan(loss="bce", order=None, **settings):
    generator = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))
    first = [] if order is None else [Mortal(order)]
    discriminator = nn.Sequential(*first, nn.Linear(2, 12), nn.LeakyReLU(0.2), nn.Linear(12, 1))
    return GAN(generator, discriminator, 4, loss, **{"learning_rate": 1e-2, **settings})


def batches(iteration, cell):
    generator = torch.Generator().manual_seed(1000 * iteration + cell)
    return [torch.randn(16, 2, generator=generator) + torch.tensor([2.0, 0.0]) for _ in range(4)]


REAL = torch.randn(64, 2, generator=torch.Generator().manual_seed(3)) + torch.tensor([2.0, 0.0])


def evolve(iterations=3, rows=2, columns=2, network=None, settings=None, **more):
    grid = GridSettings(rows, columns, quality_samples=64, **(settings or {}))
    return coevolve(network or gan(), batches, iterations, grid, SlicedWasserstein(REAL), **more)


def states(grid):
    """All numbers that a grid ends with, of networks and optimisers."""
    found = []

    def walk(value):
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, dict):
            for item in value.values():
                walk(item)

    walk(dict(enumerate(grid.pairs)))
    return [*found, *grid.weights]


def assert_same(a, b):
    assert a.history == b.history
    assert len(states(a)) == len(states(b)) > 0
    assert all(map(torch.equal, states(a), states(b)))
