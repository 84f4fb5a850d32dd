"""Batch norm of networks whose weights are an average."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def settle(network: nn.Module, inputs: Tensor, batch_size: int = 128) -> None:
    """Mean and variance of each batch norm anew, those of ``inputs`` (N, ...) with the weights as they are now.

    The running ones belong to the weights of the last steps, not to their average. The network is in eval mode then.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    network.train()
    for batch in inputs.split(batch_size):
        network(batch)
    network.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
