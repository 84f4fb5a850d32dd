"""Running averages of a network's weights, which score more steadily than the weights of the last step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from operator import attrgetter
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

Network = TypeVar("Network", bound=nn.Module)


def average_of(network: Network) -> Network:
    """A copy of ``network`` that is not trained, to :func:`follow` it."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float = 0.999) -> None:
    """Move ``average`` by 1 - ``decay`` of the way to ``network``; buffers, such as running means, are copied.

    ``network`` may have got spectral norm since it was copied: the average then follows the weights that it works
    with, whose norm is divided out, and has none to keep up itself, nor one that TorchScript could not read.
    """
    for name, weights in average.named_parameters():
        weights.lerp_(attrgetter(name)(network), 1 - decay)
    for name, kept in average.named_buffers():
        kept.copy_(attrgetter(name)(network))


def warming_up(decay: float, step: int) -> float:
    """``decay``, but less in the first steps (from 1 on): an average is not to keep the random weights of the start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def measure_batch_norm(network: nn.Module, batches: Iterable[Tensor], n: int = 20) -> Iterator[Tensor]:
    """Set the running means and variances of all batch norms in ``network`` to those over the first ``n`` batches.

    Those that :func:`follow` copies do not fit averaged weights, least of all while the network still learns fast
    (Izmailov et al. 2018, arXiv 1803.05407). The network is left in eval mode.

    Returns:
        All batches, for what is fitted next.
    """
    rest = iter(batches)
    first = list(islice(rest, n))
    settle(network, first)
    return chain(first, rest)


def settle(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running statistics of all batch norms to those over all of ``batches``; leaves it in eval mode."""
    update_bn(batches, network)
    network.eval()
