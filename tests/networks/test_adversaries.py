"""What a GAN is to a trainer: its losses against their formulas, and weights that are drawn anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medanomaly.errors import ConfigError
from medanomaly.networks.adversaries import GAN, LOSSES
from medanomaly.networks.dcgan import dcgan_decoder, dcgan_head, dcgan_trunk, init_dcgan
from medanomaly.networks.progan import EqualisedLinear

LOGITS = torch.tensor([[-2.0], [0.5], [3.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bce", lambda p: -p.log().mean()),
        ("minimax", lambda p: (1 - p).log().mean()),
        ("mse", lambda p: ((p - 1) ** 2).mean()),
    ],
)
def test_what_a_generator_minimises(name, expected):
    assert torch.allclose(LOSSES[name].generator(LOGITS), expected(torch.sigmoid(LOGITS)))
    assert torch.allclose(LOSSES["wgan_gp"].generator(LOGITS), -LOGITS.mean())


def test_what_a_discriminator_minimises():
    real, fake = LOGITS, LOGITS - 1
    p, q = torch.sigmoid(real), torch.sigmoid(fake)
    entropy = -(p.log().mean() + (1 - q).log().mean()) / 2
    for name in ("bce", "minimax"):
        assert torch.allclose(LOSSES[name].discriminator(nn.Identity(), real, fake), entropy)
    squares = (((p - 1) ** 2).mean() + (q**2).mean()) / 2
    assert torch.allclose(LOSSES["mse"].discriminator(nn.Identity(), real, fake), squares)


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_are_drawn_anew_by_seed_and_the_templates_stay(dims):
    decoder = dcgan_decoder(1, 16, dims, 4, 8).apply(init_dcgan)
    critic = nn.Sequential(dcgan_trunk(1, 16, dims, 4, None), dcgan_head(16, dims, 4, 1))
    gan, before = GAN(decoder, critic, 8, initialise=init_dcgan), [p.clone() for p in decoder.parameters()]
    torch.manual_seed(1)
    first, other = gan.new(), gan.new()
    torch.manual_seed(1)
    again = gan.new()
    for a, b, c in zip(first, again, other, strict=True):
        assert all(map(torch.equal, a.parameters(), b.parameters()))
        assert not any(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True) if p.dim() > 1)
    assert all(map(torch.equal, before, decoder.parameters()))
    weights = torch.cat([p.flatten() for p in first[0].parameters() if p.dim() > 2])
    assert 0.018 < float(weights.std()) < 0.022  # DCGAN's
    assert first[0](gan.noise(2)).shape == (2, 1) + (16,) * dims


def test_weights_that_nothing_draws_are_refused():
    with pytest.raises(ConfigError, match=r"nothing draws the weights 0.weight, 0.bias of Sequential"):
        GAN(nn.Sequential(EqualisedLinear(4, 4)), nn.Linear(4, 1), 4).new()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge': use one of bce, minimax, mse, wgan_gp, mustangs"),
        ({"latent_dim": 0}, "latent_dim is 0, but a whole number"),
        ({"critic_steps": 0}, "critic_steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, but must be above 0"),
    ],
)
def test_what_cannot_work_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        GAN(**{"generator": nn.Linear(2, 2), "discriminator": nn.Linear(2, 1), "latent_dim": 2, **arguments})
