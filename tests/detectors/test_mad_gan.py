"""MAD-GAN with several generators: its losses, that the generators differ, and its score."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medanomaly.detectors import MadGAN
from medanomaly.errors import ConfigError
from medanomaly.networks.averages import average_of


def make(**arguments):
    torch.manual_seed(0)
    return MadGAN(**{"features": 4, "latent_dim": 8, **arguments})


def noise(n=16, seed=0):
    return torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_acceptance_a_probabilities_of_all_makers_sum_to_1():
    detector = make(generators=4).eval()
    logits = detector.critic(noise())
    assert logits.shape == (16, 5)
    assert torch.allclose(logits.softmax(dim=1).sum(dim=1), torch.ones(16))


def test_acceptance_b_one_generator_makes_a_plain_gan():
    """The cross-entropy of two classes is the binary one of the difference of their logits."""
    detector, batch = make(generators=1).train(), noise()
    expected = make(generators=1).train()
    torch.manual_seed(5)
    losses = detector.training_step(batch, next(detector.stages()))
    torch.manual_seed(5)
    fake = expected.generators(torch.randn(16, 1, 8))[:, 0]
    real, made = (logits[:, 1] - logits[:, 0] for logits in (expected.critic(batch), expected.critic(fake)))
    assert torch.allclose(losses["critic"], 0.5 * (F.softplus(-real).mean() + F.softplus(made).mean()), rtol=1e-5)
    critic = torch.optim.Adam([*expected.trunk.parameters(), *expected.critic_head.parameters()], 2e-4, (0.5, 0.999))
    torch.autograd.backward(0.5 * (F.softplus(-real).mean() + F.softplus(made.clone()).mean()), retain_graph=True)
    for parameter in expected.generators.parameters():
        parameter.grad = None
    critic.step()
    logits = expected.critic(fake.detach())
    assert torch.allclose(losses["generators"], F.softplus(logits[:, 0] - logits[:, 1]).mean(), rtol=1e-3)


class Points(nn.Module):
    """Generators of points in the plane."""

    def __init__(self, n, latent_dim):
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(latent_dim, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.own = nn.ModuleList(nn.Linear(64, 2) for _ in range(n))

    def forward(self, codes):
        features = self.shared(codes)
        return torch.stack([own(features[:, number]) for number, own in enumerate(self.own)], dim=1)


def test_acceptance_c_four_generators_cover_six_of_eight_gaussians_on_a_ring():
    detector = make(generators=4, latent_dim=2, learning_rate=1e-3)
    detector.generators = Points(4, 2)
    detector.average = average_of(detector.generators)
    detector.trunk = nn.Sequential(nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2))
    detector.critic_head = nn.Linear(64, 5)
    angles = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    stage = next(detector.train().stages())
    for _ in range(900):
        batch = centres[torch.randint(8, (128,))] + 0.1 * torch.randn(128, 2)
        detector.training_step(batch, stage)
    with torch.no_grad():
        points = detector.average(torch.randn(500, 4, 2))
    distances = torch.cdist(points.flatten(0, 1), centres)
    near = distances.argmin(dim=1)[distances.min(dim=1).values < 0.5]
    assert (near.bincount(minlength=8) > 20).sum() >= 6
    means = points.mean(dim=0)
    assert torch.pdist(means).min() > 0.3  # no two generators draw the same


def test_generators_share_all_but_their_last_two_convolutions():
    detector = make(generators=3, patch_size=32)
    convolutions = [m for own in detector.generators.own for m in own if isinstance(m, nn.ConvTranspose2d)]
    assert len(convolutions) == 6 and len({id(m) for m in convolutions}) == 6
    codes = torch.randn(2, 1, 8).expand(-1, 3, -1)
    drawn = detector.generators(codes)
    assert drawn.shape == (2, 3, 1, 32, 32)
    assert (drawn[:, 0] - drawn[:, 1]).abs().max() > 0  # one code, several images


def test_the_encoders_leave_the_gan_as_it_is():
    detector = make()
    stages = detector.train().stages()
    gan = next(stages)
    for step in range(3):
        detector.training_step(noise(seed=step), gan)
    encoders = next(stages)
    parts = detector.generators, detector.average, detector.trunk, detector.critic_head
    before = [value.clone() for part in parts for value in part.state_dict().values()]
    detector.train().training_step(noise(), encoders)
    assert all(map(torch.equal, before, (value for part in parts for value in part.state_dict().values())))
    assert gan.keep == "last" and encoders.keep == "best"


@torch.no_grad()
def test_the_score_takes_the_best_generator_and_the_discriminator():
    detector, patches = make(critic_weight=0.3).eval(), noise()
    detector.fit_statistics([patches])
    codes = detector.encoder(patches).view(16, 3, 8)
    residuals = (detector.average(codes) - patches[:, None]).abs().mean(dim=(2, 3, 4)).min(dim=1).values
    assert float(detector.scale) == pytest.approx(float(residuals.median()), rel=1e-5)
    real = detector.critic(patches).softmax(dim=1)[:, 3]
    expected = 0.7 * residuals / residuals.median() + 0.3 * (1 - real)
    assert torch.allclose(detector(patches)[:, 0], expected, rtol=1e-5)
    detector.score_kind = "residual"
    assert torch.allclose(detector(patches).mean(dim=(1, 2, 3)), residuals, rtol=1e-5)
    detector.relative = True
    relative = residuals / patches.mean(dim=(1, 2, 3))
    assert torch.allclose(detector(patches).mean(dim=(1, 2, 3)), relative, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "map"}, "score is 'map': use one of combined, residual"),
        ({"generators": 0}, "generators is 0, but a whole number of at least 1 is needed"),
        ({"patch_size": 24}, "patch_size is 24, but this network is built for 16, 32 or 64"),
    ],
)
def test_settings_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        MadGAN(**arguments)
