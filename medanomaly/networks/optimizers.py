"""An optimiser that torch has in another form."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


def rmsprop(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """RMSprop with averages that are corrected for their beginning at 0: Adam without a mean of gradients.

    The first steps of torch's own are ten times as long as the others, after which what ends in a tanh or a sigmoid may
    be saturated for good.
    """
    return torch.optim.Adam(parameters, lr=learning_rate, betas=(0.0, 0.99))
