"""The critics' losses against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.networks.losses import critic_loss_bce, critic_loss_wgan_gp


def real_and_fake(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((6, *shape), generator=generator), torch.rand((6, *shape), generator=generator) - 0.3


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 3, 3, 3)])
@pytest.mark.parametrize("weight", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("length", [0.2, 1.0, 3.0])
def test_the_gradient_of_a_linear_critic_is_its_weight(shape, weight, length):
    real, fake = real_and_fake(shape)
    w = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    w = w * length / w.norm()

    def critic(patches):
        return (patches * w).flatten(1).sum(dim=1, keepdim=True)

    expected = critic(fake).mean() - critic(real).mean() + weight * (length - 1) ** 2
    assert critic_loss_wgan_gp(critic, real, fake, weight).item() == pytest.approx(expected.item(), abs=1e-5)


def test_the_penalty_is_taken_for_each_sample_at_a_place_of_its_own_between_real_and_fake():
    """C(x) = |x|^2 / 2 has the gradient x, so the penalty shows where it was taken."""
    seen = []

    def critic(patches):
        seen.append(patches.detach().clone())
        return (patches**2).flatten(1).sum(dim=1, keepdim=True) / 2

    real, fake = real_and_fake((1, 4, 4))
    loss = critic_loss_wgan_gp(critic, real, fake)
    between = seen[0]
    share = ((between - fake) / (real - fake)).flatten(1)
    assert torch.allclose(share, share[:, :1].expand_as(share), atol=1e-4)
    assert (share > 0).all() and (share < 1).all()
    assert len(share[:, 0].unique()) == len(real)
    expected = (fake**2).flatten(1).sum(1).mean() / 2 - (real**2).flatten(1).sum(1).mean() / 2
    expected = expected + 10 * ((between.flatten(1).norm(dim=1) - 1) ** 2).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_penalty_can_be_learned_from():
    """For C(x) = w.x with real = fake the loss is 10 (|w| - 1)^2, whose gradient is 20 (|w| - 1) w / |w|."""
    critic = nn.Linear(5, 1, bias=False)
    same = torch.rand(4, 5)
    critic_loss_wgan_gp(critic, same, same).backward()
    w = critic.weight.detach()
    assert torch.allclose(critic.weight.grad, 20 * (w.norm() - 1) * w / w.norm(), atol=1e-4)


def test_bce_equals_the_entropy_of_probabilities():
    real, fake = torch.randn(6, 1), torch.randn(6, 1)
    expected = 0.5 * (
        nn.functional.binary_cross_entropy(torch.sigmoid(real), torch.ones(6, 1))
        + nn.functional.binary_cross_entropy(torch.sigmoid(fake), torch.zeros(6, 1))
    )
    assert critic_loss_bce(nn.Identity(), real, fake).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("real", "fake", "expected"), [(0.0, 0.0, 0.693147), (40.0, -40.0, 0.0), (-40.0, 40.0, 40.0)])
def test_bce_of_known_logits(real, fake, expected):
    loss = critic_loss_bce(nn.Identity(), torch.full((3, 1), real), torch.full((3, 1), fake))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
