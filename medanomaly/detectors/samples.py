"""Some of the training patches, or of what is made of them, for what is fitted on them at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medanomaly.errors import TrainingError


def first_batches(batches: Iterable[Tensor], enough: int) -> list[Tensor]:
    """Batches until they hold ``enough`` patches, or all; the last one whole. No more are read."""
    taken: list[Tensor] = []
    for batch in batches:
        taken.append(batch)
        if sum(map(len, taken)) >= enough:
            break
    return taken


def first_samples(batches: Iterable[Tensor], most: int) -> NDArray[np.float64]:
    """The first ``most`` patches, flattened: (n, numbers in a patch), (0, 1) if there are none.

    No more are read, which bounds the memory; ``batches`` must be shuffled, as those of a sampler are.

    Raises:
        TrainingError: if a value is not finite.
    """
    taken, missing = [], most
    for batch in batches:
        taken.append(batch[:missing].flatten(1).cpu().numpy())
        missing -= len(taken[-1])
        if missing == 0:
            break
    samples = np.concatenate(taken).astype(np.float64) if taken else np.zeros((0, 1))
    if not np.isfinite(samples).all():
        raise TrainingError(
            "the training patches hold values that are not finite (NaN or infinite): check the training scans and "
            "their preprocessing."
        )
    return samples


def sampled_rows(batches: Iterable[Tensor], most: int) -> Tensor:
    """``most`` of all rows of batches (n, d), drawn at random, or all if there are no more: (at most ``most``, d).

    No more than twice as many are held at a time, and a batch. The draw comes from torch's random numbers.
    """
    rows: list[Tensor] = []
    keys: list[Tensor] = []  # a random number for each row: those with the smallest stay
    for batch in batches:
        rows.append(batch)
        keys.append(torch.rand(len(batch)))
        if sum(map(len, keys)) > 2 * most:
            rows, keys = _smallest(rows, keys, most)
    if sum(map(len, keys)) > most:
        rows, keys = _smallest(rows, keys, most)
    return torch.cat(rows) if rows else torch.zeros(0, 1)


def _smallest(rows: list[Tensor], keys: list[Tensor], most: int) -> tuple[list[Tensor], list[Tensor]]:
    """The ``most`` rows with the smallest keys, and these, in lists of one."""
    key = torch.cat(keys)
    chosen = key.topk(most, largest=False).indices.sort().values
    return [torch.cat(rows)[chosen.to(rows[0].device)]], [key[chosen]]
