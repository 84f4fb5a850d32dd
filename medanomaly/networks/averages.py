"""Running averages of a network's weights, which score more steadily than the weights of the last step."""

from __future__ import annotations

import copy

import torch
from torch import nn


def average_of(network: nn.Module) -> nn.Module:
    """A copy of ``network`` that is not trained, to :func:`follow` it."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float = 0.999) -> None:
    """Move ``average`` by 1 - ``decay`` of the way to ``network``; buffers, such as running means, are copied."""
    for weights, now in zip(average.parameters(), network.parameters(), strict=True):
        weights.lerp_(now, 1 - decay)
    for kept, new in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(new)
