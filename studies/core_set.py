"""How long do PatchCore's core set and search take, and what would the plain greedy way take?

    python -m studies.core_set --features 100000 1000000 --bank 10000

Features are made: points in a subspace of 24 dimensions, in clusters, with noise, in as many channels as layers 2 and 3
of a ResNet-18 have. The plain way (one pass through all features for each choice) is timed over some choices, and its
whole time is that many times longer. Search is for the features of a film of 64 pixels (8 x 8 positions). Seconds are
those of the processor, which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import resource
import time

import torch

from medanomaly.detectors import PatchCore
from medanomaly.networks.nearest import greedy_centres, nearest

CHOICES = 10  # of the plain way that are timed
FILMS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, nargs="+", default=[100_000])
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--bank", type=int, default=10_000, help="size of the core set")
    given = parser.parse_args()
    print(f"{given.channels} channels, core set of {given.bank}, {torch.get_num_threads()} thread(s)")
    for n in given.features:
        torch.manual_seed(0)
        rows = made(n, given.channels)
        start = time.process_time()
        points = PatchCore(backbone_weights="random", spatial_dims=2)._projected(rows)
        projected = time.process_time()
        chosen = greedy_centres(points, min(given.bank, n))
        ended = time.process_time()
        radius = nearest(points[torch.randperm(n)[:2000]], points[chosen], 1)[0].max()
        plain = plain_way(points) * len(chosen)
        start_of_search = time.process_time()
        nearest(rows[: 64 * FILMS], rows[chosen], 1)
        search = (time.process_time() - start_of_search) / FILMS
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(
            f"{n:>9,} features: projected to {points.shape[1]} dimensions in {projected - start:.1f} s, core set in "
            f"{ended - projected:.1f} s (plain way: {plain:.0f} s, from {CHOICES} choices), farthest of 2,000 features "
            f"{float(radius):.3g}, search {1000 * search:.1f} ms a film, most memory {gigabytes:.1f} GB",
            flush=True,
        )


def made(n: int, channels: int) -> torch.Tensor:
    """Points in clusters of several sizes, in 24 of the channels' dimensions, with noise in all."""
    axes = torch.randn(24, channels) / 24**0.5
    middles = 2 * torch.randn(50, 24)
    rows = torch.empty(n, channels)
    for part in rows.split(50_000):
        inside = middles[torch.randint(50, (len(part),))] + torch.rand(len(part), 1) * torch.randn(len(part), 24)
        part.copy_(inside @ axes + 0.1 * torch.randn(len(part), channels))
    return rows


def plain_way(points: torch.Tensor) -> float:
    """Seconds for one choice that goes through all points."""
    squares = points.square().sum(dim=1)
    reached = torch.full_like(squares, torch.inf)
    start, place = time.process_time(), 0
    for _ in range(CHOICES):
        reached = torch.minimum(reached, squares - 2 * (points @ points[place]) + squares[place])
        place = int(reached.argmax())
    return (time.process_time() - start) / CHOICES


if __name__ == "__main__":
    main()
