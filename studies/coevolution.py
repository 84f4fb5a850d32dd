"""Does a grid of GANs cover more of eight Gaussians than a GAN alone that takes as many steps?

    python -m studies.coevolution --seeds 0,1,2,3,4 --processes 5 --output studies/coevolution.json

The toy: eight normal distributions on a circle. Every row but the first takes the same number of steps in all: a 2 x 2
grid has four GANs, so the GAN alone learns four times as long, and four GANs without exchange as long as the grid.
Where one of several generators, or the weights of a mixture, are chosen, it is by the same distance to the same real
samples. A mode counts as covered if at least 1 % of the samples lie within three standard deviations of its centre (an
even share is 12.5 %). The settings are those of a trial on seed 100.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medanomaly.training import GAN, Grid, GridSettings, SlicedWasserstein, coevolve

MODES, RADIUS, SPREAD = 8, 1.0, 0.05
BATCH, BATCHES, SAMPLES = 128, 50, 4000
SIDE, SETTINGS = 2, '{"mixture_trials": 20, "mixture_scale": 0.1}'  # of the grid


def centres() -> Tensor:
    """Of the eight distributions: (8, 2)."""
    angles = 2 * math.pi * torch.arange(MODES) / MODES
    return RADIUS * torch.stack([angles.cos(), angles.sin()], dim=1)


def draw(n: int, seed: int) -> Tensor:
    """Real samples (n, 2)."""
    generator = torch.Generator().manual_seed(seed)
    which = torch.randint(MODES, (n,), generator=generator)
    return centres()[which] + SPREAD * torch.randn(n, 2, generator=generator)


def covered(samples: Tensor) -> tuple[int, float]:
    """How many of the modes are covered, and which share of the samples (n, 2) lies in any."""
    near = torch.cdist(samples, centres()) < 3 * SPREAD
    return int((near.float().mean(dim=0) >= 0.01).sum()), float(near.any(dim=1).float().mean())


def mlp(inputs: int, outputs: int, width: int, activation: type[nn.Module]) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(inputs, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, outputs)
    )


def toy_gan(loss: str = "bce", learning_rate: float = 1e-3) -> GAN:
    """A GAN of points in the plane that tends to draw some of the modes alone."""
    return GAN(mlp(16, 2, 64, nn.ReLU), mlp(2, 1, 64, nn.ReLU), 16, loss, learning_rate)


def run(seed: int, iterations: int, side: int, exchange: bool = True, loss: str = "bce", **settings: Any) -> Grid:
    """A grid of ``side`` x ``side`` cells, or as many GANs alone, each a grid of its own, as if they were one."""

    def batches(iteration: int, cell: int) -> Iterator[Tensor]:
        return iter(draw(BATCH * BATCHES, (seed * 4096 + cell) * 8192 + iteration).split(BATCH))

    quality = SlicedWasserstein(draw(512, 10**9 + seed))
    if exchange:
        grid = GridSettings(side, side, seed=seed, **settings)
        return coevolve(toy_gan(loss), batches, iterations, grid, quality)
    alone = [
        coevolve(
            toy_gan(loss),
            lambda iteration, _, cell=cell: batches(iteration, cell),
            iterations,
            GridSettings(1, 1, seed=seed * side**2 + cell, rate_probability=0.0),
            quality,
        )
        for cell in range(side**2)
    ]
    weights = [torch.ones(1, dtype=torch.float64)] * len(alone)
    return Grid(
        alone[0].gan,
        GridSettings(len(alone), 1, seed=seed),
        [one.pairs[0] for one in alone],
        weights,
        [one.history[0] for one in alone],
    )


@torch.no_grad()
def made_by(grid: Grid, cells: list[int], seed: int = 7) -> Tensor:
    """Samples, as many from each generator of ``cells``: (n, 2)."""
    n = SAMPLES // len(cells)
    noise = torch.randn(len(cells), n, grid.gan.latent_dim, generator=torch.Generator().manual_seed(seed))
    return torch.cat([grid.generator(cell)(part) for cell, part in zip(cells, noise, strict=True)])


def rows_of(seed: int, iterations: int, **settings: Any) -> dict[str, tuple[int, float]]:
    """Covered modes, and share of samples within them, for each way to train."""
    n, loss = SIDE * SIDE, settings.get("loss", "bce")
    every = list(range(n))
    short = run(seed, iterations, SIDE, exchange=False, loss=loss)
    long = run(seed, n * iterations, 1, exchange=False, loss=loss)
    grid = run(seed, iterations, SIDE, **settings)
    return {
        "one GAN, the steps of a cell": covered(made_by(short, [0])),
        "one GAN, the steps of the grid": covered(made_by(long, [0])),
        "the best of four GANs alone": covered(made_by(short, [short.best_cell()])),
        "four GANs alone, mixed evenly": covered(made_by(short, every)),
        "grid, the generator of the best cell": covered(made_by(grid, [grid.best_cell()])),
        "grid, the best mixture": covered(grid.sample(SAMPLES, seed=7)),
    }


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--seeds", default="0,1,2,3,4", help="one run for each")
    arguments.add_argument(
        "--iterations", type=int, default=20, help=f"of each cell, each {BATCHES} batches of {BATCH}"
    )
    arguments.add_argument("--processes", type=int, default=1, help="seeds that run beside each other")
    arguments.add_argument("--set", default=SETTINGS, help="settings of the grid, JSON, and its loss")
    arguments.add_argument("--output", type=Path, help="JSON file for the figures")
    given = arguments.parse_args()

    torch.set_num_threads(1)
    settings, seeds = json.loads(given.set), [int(seed) for seed in given.seeds.split(",")]
    began, found = time.time(), dict[str, list[tuple[int, float]]]()
    with get_context("fork").Pool(given.processes) as pool:
        runs = pool.imap(partial(rows_of, iterations=given.iterations, **settings), seeds)
        for seed, rows in zip(seeds, runs, strict=True):
            print(f"seed {seed}: {rows}", flush=True)
            for name, figures in rows.items():
                found.setdefault(name, []).append(figures)
    print(f"{'mean of ' + str(len(seeds)) + ' seeds':40s} modes of {MODES}, share of samples in them")
    content: dict[str, Any] = {"seeds": seeds, "iterations": given.iterations, "settings": settings, "rows": []}
    for name, figures in found.items():
        modes, shares = zip(*figures, strict=True)
        content["rows"].append({"name": name, "modes": modes, "shares": [round(share, 3) for share in shares]})
        print(f"{name:40s} {sum(modes) / len(modes):.2f} {modes}  {sum(shares) / len(shares):.3f}")
    print(f"{time.time() - began:.0f} s")
    if given.output:
        given.output.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
