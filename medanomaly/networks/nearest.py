"""Nearest rows of a bank, exactly, and a core set of rows that leaves none far away."""

from __future__ import annotations

import torch
from torch import Tensor


def nearest(rows: Tensor, bank: Tensor, k: int, at_once: int = 2**24) -> tuple[Tensor, Tensor]:
    """The ``k`` rows of a bank that are nearest to each row.

    In double precision: distances are computed by a matrix product, whose single-precision errors (other ones for one
    row than for many) would show where a row is almost one of the bank's.

    Args:
        rows: (n, d).
        bank: (m, d), m at least ``k``.
        k: how many are wanted.
        at_once: distances that are held at a time: 2**24 take 128 MiB, whatever n.

    Returns:
        Euclidean distances (n, k), float64, the smallest first; and their places in the bank (n, k).

    Examples:
        >>> bank = torch.tensor([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
        >>> distances, places = nearest(torch.zeros(1, 2), bank, 2)
        >>> distances.tolist(), places.tolist()
        ([[0.0, 5.0]], [[0, 1]])
    """
    bank = bank.double()
    distances: list[Tensor] = []
    places: list[Tensor] = []
    for part in rows.split(max(at_once // bank.shape[0], 1)):
        found = torch.cdist(part.double(), bank).topk(k, dim=1, largest=False)
        distances.append(found[0])
        places.append(found[1])
    return torch.cat(distances), torch.cat(places)


def greedy_centres(points: Tensor, n: int, candidates: int = 1024, at_once: int = 2**24) -> Tensor:
    """Greedy k-centre (Gonzalez 1985): a random first point, then, again and again, the farthest from those chosen.

    The farthest point is at most twice as far from the chosen ones as with the best choice of ``n``. What it chooses
    for a smaller ``n`` is the beginning of what it chooses for a larger one, by the same seed.

    The plain way goes through all points for each choice, N * n * d operations bound by memory: hours for a tenth of
    10^6 points. This one makes the same choices, but for rounding, with fewer and larger steps. The distance of a point
    to its nearest centre only falls, so an old one is an upper bound. Among the ``candidates`` with the highest bounds,
    distances are kept up to date; as long as the farthest of them is at least as far as the highest bound of all
    others, it is the farthest of all. When it is not, the bounds of all are brought up to date by one matrix product
    with all centres that were chosen since. The operations remain, N * n * d, but at the speed of matrix products.

    Args:
        points: (N, d).
        n: how many to choose, 1 to N.
        candidates: how many are looked at between two passes through all points.
        at_once: distances that are held at a time.

    Returns:
        Places of the chosen points in their order (n,), each once. The first comes from torch's random numbers.
    """
    points = points - points.mean(dim=0)  # of shorter vectors, distances have smaller rounding errors
    squares = points.square().sum(dim=1)
    bounds = torch.full_like(squares, torch.inf)  # squared distance to the nearest centre, or more; -1 of centres
    chosen = [int(torch.randint(len(points), ()))]
    fresh = chosen[:]
    while len(chosen) < n:
        centres = points[fresh]
        of_centres = squares[fresh]
        for part in torch.arange(len(points), device=points.device).split(max(at_once // len(fresh), 1)):
            low, high = int(part[0]), int(part[-1]) + 1
            reached = torch.addmm(of_centres, points[low:high], centres.t(), alpha=-2).amin(dim=1)
            bounds[low:high] = torch.minimum(bounds[low:high], (reached + squares[low:high]).clamp(min=0))
        bounds[fresh] = -1
        highest, places = bounds.topk(min(candidates + 1, len(points)))
        others = float(highest[-1]) if len(highest) > candidates else -1.0
        fresh = _farthest(points[places[:candidates]], highest[:candidates], others, n - len(chosen))
        fresh = places[fresh].tolist()
        chosen += fresh
    return torch.tensor(chosen, device=points.device)


def _farthest(points: Tensor, squared: Tensor, others: float, most: int) -> list[int]:
    """Places of the farthest of a few points, one after the other, as long as none of the others can be farther."""
    apart = torch.cdist(points, points).square()
    squared, taken = squared.clone(), list[int]()
    while len(taken) < most:
        farthest = int(squared.argmax())
        if float(squared[farthest]) < max(others, 0.0):
            break
        taken.append(farthest)
        squared = torch.minimum(squared, apart[farthest])
        squared[farthest] = -1
    return taken
