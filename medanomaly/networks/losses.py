"""Losses of discriminators and critics."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def bce_towards(logits: Tensor, target: float) -> Tensor:
    """Mean binary cross-entropy of logits of any shape with one target for all: 1 for real, 0 for made."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))


def critic_loss_bce(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """Averaged binary cross-entropy of a discriminator that gives logits (B, 1) (Akcay et al. 2018, eq. 5)."""
    real_logits, fake_logits = critic(real), critic(fake)
    return 0.5 * (bce_towards(real_logits, 1.0) + bce_towards(fake_logits, 0.0))


def critic_loss_wgan_gp(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, weight: float = 10.0, drift: float = 0.0
) -> Tensor:
    """Wasserstein loss with gradient penalty (Gulrajani et al. 2017, eq. 3).

    ``mean C(fake) - mean C(real) + weight * mean (||grad C(u)||_2 - 1)^2`` with ``u = e * real + (1 - e) * fake`` and
    one ``e`` ~ U(0, 1) a sample. The critic must not mix samples (no batch norm). ``drift`` times the mean of
    ``C(real)^2`` keeps the critic's values near 0 (Karras et al. 2018 take 0.001).
    """
    e = torch.rand((len(real),) + (1,) * (real.dim() - 1), device=real.device, dtype=real.dtype)
    between = (e * real + (1 - e) * fake).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    penalty: Tensor = ((gradient.flatten(1).norm(dim=1) - 1) ** 2).mean()
    values = critic(real)
    loss: Tensor = critic(fake).mean() - values.mean() + weight * penalty + drift * torch.square(values).mean()
    return loss
