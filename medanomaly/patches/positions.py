"""The positions in a volume that patches may be drawn from, as stretches: a fiftieth of their list."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medanomaly.preprocessing.arrays import stretches


class Positions:
    """The flat positions where ``allowed`` (n0, n1, n2) is True, in their order; ``positions[picks]`` are some of them.

    Those that follow each other are a stretch, of which the first is kept, and how many lie before it.
    """

    def __init__(self, allowed: Tensor) -> None:
        found = stretches(np.asarray(allowed.flatten()))
        lengths = found[:, 1] - found[:, 0]
        self.total = int(lengths.sum())
        self.first = torch.from_numpy(found[:, 0].astype(np.int32))
        self.before = torch.from_numpy((np.cumsum(lengths) - lengths).astype(np.int32))

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, picks: Tensor) -> Tensor:
        """The positions (n,) with the numbers ``picks`` (n,), from 0 to below the length; int64."""
        stretch = torch.searchsorted(self.before, picks.int(), right=True) - 1
        return self.first[stretch] + picks - self.before[stretch]
