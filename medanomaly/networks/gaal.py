"""The two small networks of SO-GAAL and MO-GAAL (Liu et al., IEEE TKDE 2019, arXiv 1809.10816), for vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from medanomaly.networks.dcgan import init_he
from medanomaly.networks.losses import critic_loss_bce


def outlier_generator(size: int) -> nn.Sequential:
    """Vectors (B, size) to vectors at least 0; at first those between 0 and 1 come out as they went in.

    So what it makes of uniform noise is uniform noise to begin with, spread over all places where outliers could lie.
    """
    layers: list[nn.Module] = []
    for _ in range(2):
        linear = nn.Linear(size, size)
        nn.init.eye_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers)


def vector_discriminator(size: int, hidden: int) -> nn.Sequential:
    """Vectors (B, size) to logits (B, 1): above 0 for what looks real."""
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, 1)).apply(init_he)


def tell_apart(discriminator: nn.Module, optimizer: Optimizer, real: Tensor, made: Tensor) -> Tensor:
    """One step of the discriminator on real and made vectors (B, size); its loss, detached."""
    loss = critic_loss_bce(discriminator, real, made)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return loss.detach()
