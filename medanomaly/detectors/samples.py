"""Some of the training patches, for what is fitted on them at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
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
